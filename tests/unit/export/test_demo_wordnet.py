"""Reading WordNet's own file format."""

from pathlib import Path

from clipsearch_export.demo.wordnet import read_wordnet

LICENCE = "  1 This software and database is being provided to you\n"
NOUNS = (
    "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived  \n"
    '00002137 03 n 02 ice_cream 0 Frozen_Dessert 0 000 | a cold sweet; "she ate ice cream"; '
    '"two scoops"  \n'
)
ADJECTIVES = "00003131 00 a 01 alone(p) 0 000 | isolated from others  \n"
INDEX = "entity n 1 1 ~ 1 1 00001740  \nice_cream n 1 2 @ ~ 1 0 00002137  \n"


def test_words_definitions_and_examples(tmp_path: Path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(LICENCE, "utf-8")
        (tmp_path / f"index.{part}").write_text(LICENCE, "utf-8")
    (tmp_path / "data.noun").write_text(LICENCE + NOUNS, "utf-8")
    (tmp_path / "data.adj").write_text(LICENCE + ADJECTIVES, "utf-8")
    (tmp_path / "index.noun").write_text(LICENCE + INDEX, "utf-8")

    wordnet = read_wordnet(tmp_path)

    assert wordnet.words == ["entity", "ice cream", "Frozen Dessert", "alone"]
    assert wordnet.common == ["entity"]  # the only one with a tagged sense
    assert wordnet.definitions == [
        "that which is perceived",
        "a cold sweet",
        "isolated from others",
    ]
    assert wordnet.examples == ["she ate ice cream", "two scoops"]
