"""The tokenizer: every text can be spelled, lower-case, within 32 tokens."""

import pytest

tokenizers = pytest.importorskip("tokenizers")

from clipsearch_export.demo import vocabulary  # noqa: E402
from clipsearch_export.demo.phrases import Phrases  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer() -> "tokenizers.Tokenizer":
    phrases = Phrases(
        names=["black cat", "pizza"],
        keywords=["slice"],
        pairs=["pizza slice"],
        described=["a red pizza"],
        words=["rain"],
        definitions=["water that falls"],
        examples=["it rained"],
    )
    return vocabulary.build(phrases)


def test_a_known_word_is_one_token_between_start_and_end(
    tokenizer: "tokenizers.Tokenizer",
) -> None:
    encoding = tokenizer.encode("Pizza")
    assert encoding.tokens == [vocabulary.START, "pizza</w>", vocabulary.END]
    assert (encoding.ids[0], encoding.ids[-1]) == (vocabulary.START_ID, vocabulary.END_ID)


def test_spaces_hyphens_and_underscores_are_the_same(tokenizer: "tokenizers.Tokenizer") -> None:
    spaced = tokenizer.encode("black cat").ids
    assert tokenizer.encode("  Black-cat ").ids == spaced
    assert tokenizer.encode("black_cat").ids == spaced


@pytest.mark.parametrize("text", ["東京", "🍕", "naïve", "\x00", "zq"])
def test_any_text_is_spelled(tokenizer: "tokenizers.Tokenizer", text: str) -> None:
    assert len(tokenizer.encode(text).ids) > 2


def test_a_long_text_is_cut_and_keeps_its_end(tokenizer: "tokenizers.Tokenizer") -> None:
    ids = tokenizer.encode("rain " * 100).ids
    assert len(ids) == vocabulary.MAX_TOKENS
    assert ids[-1] == vocabulary.END_ID


def test_an_end_token_in_a_text_can_be_read_as_text(tokenizer: "tokenizers.Tokenizer") -> None:
    tokenizer.encode_special_tokens = True
    try:
        ids = tokenizer.encode("<|endoftext|>").ids
    finally:
        tokenizer.encode_special_tokens = False
    assert ids.count(vocabulary.END_ID) == 1
