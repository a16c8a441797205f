"""What the text tower reads: spoken names, reproducible phrases, and no held-out carrier."""

import pytest

from clipsearch_export.demo.emoji import Emoji
from clipsearch_export.demo.phrases import CARRIERS, gather, spoken
from clipsearch_export.demo.queries import FREE_QUERIES, HELD_OUT_CARRIERS, SYNONYMS, Query
from clipsearch_export.demo.wordnet import WordNet

EMOJI = [
    Emoji(code="1f355", name="pizza", keywords=("cheese", "slice")),
    Emoji(code="1f1ef-1f1f5", name="flag: Japan", keywords=("flag",)),
    Emoji(code="1f38e", name="Japanese dolls", keywords=()),
]
WORDNET = WordNet(
    words=["pizza", "ice cream", "Escherichia coli", "running"],
    common=["ice cream", "running"],
    definitions=["a short one", "one that is far too long for a tower that reads few words"],
    examples=["he likes pizza"],
)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flag: Japan", "flag of Japan"),
        ("man: red hair", "man with red hair"),
        ("keycap: 5", "keycap 5"),
        ("family: man, woman, boy", "family man and woman and boy"),
        ("black cat", "black cat"),
    ],
)
def test_a_name_is_said_as_a_person_would(name: str, said: str) -> None:
    assert spoken(name) == said


def test_phrases_are_the_same_for_the_same_seed() -> None:
    assert gather(EMOJI, WORDNET, seed=1) == gather(EMOJI, WORDNET, seed=1)
    assert gather(EMOJI, WORDNET, seed=1) != gather(EMOJI, WORDNET, seed=2)


def test_each_kind_holds_what_it_says() -> None:
    phrases = gather(EMOJI, WORDNET, seed=0)
    assert phrases.names == ["pizza", "flag of Japan", "Japanese dolls"]
    assert phrases.keywords == ["cheese", "flag", "slice"]
    assert phrases.words == ["ice cream", "pizza", "running"]  # no Latin species
    assert phrases.definitions == ["a short one"]
    assert any(text.endswith(" running") for text in phrases.described)


def test_no_carrier_that_is_scored_with_was_trained_with() -> None:
    assert not {carrier.lower() for carrier in HELD_OUT_CARRIERS} & set(CARRIERS)
    assert all(carrier.count("{}") == 1 for carrier in (*CARRIERS, *HELD_OUT_CARRIERS))


def test_the_questions_are_twelve_and_twenty_and_can_be_answered() -> None:
    assert (len(FREE_QUERIES), len(SYNONYMS)) == (12, 20)
    assert all(query.right for query in (*FREE_QUERIES, *SYNONYMS))


def test_a_query_accepts_names_and_wildcards() -> None:
    query = Query("cop", ("police officer", "man police*"))
    assert query.accepts("police officer")
    assert query.accepts("man police officer")
    assert not query.accepts("woman police officer")
