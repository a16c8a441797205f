"""Texts become the token ids that the model was trained on, whatever is in them."""

from __future__ import annotations

import json
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trained

from clipsearch_server.errors import StartupError
from clipsearch_server.text import Tokenizer

SHARED = Path(__file__).parents[4] / "shared"
CLIP = SHARED / "models" / "clip-vit-base-patch32" / "tokenizer.json"
GOLDEN = SHARED / "golden" / "clip_tokens.json"
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 16


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    if not CLIP.exists():
        pytest.skip("CLIP's tokenizer is not beside this checkout")
    return Tokenizer(CLIP, max_tokens=77, start_token_id=49406, end_token_id=49407)


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A tokenizer of CLIP's kind: lower case, words by themselves, byte-level BPE."""
    tokenizer = Trained(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a photo of a black cat", " ".join(string.printable)], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def path(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "tokenizer.json"
    # What a tokenizer.json may ask for itself must not matter: the model card decides.
    trained.enable_truncation(4)
    trained.enable_padding(length=9)
    trained.save(str(file))
    trained.no_truncation()
    trained.no_padding()
    return file


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path, max_tokens=MAX_TOKENS, start_token_id=0, end_token_id=1)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden tokens are not beside this checkout")
def test_ids_are_those_of_openais_tokenizer(clip: Tokenizer) -> None:
    for case in json.loads(GOLDEN.read_text(encoding="utf-8")):
        assert clip.tokenize(case["text"]).token_ids.tolist() == case["ids"], case["text"]


@pytest.mark.parametrize("token", [START, END])
def test_a_special_token_in_clip_text_is_text(clip: Tokenizer, token: str) -> None:
    ids = clip.tokenize(f"a cat {token} a dog").token_ids.tolist()
    assert ids.count(49406) == 1
    assert ids.count(49407) == 1
    assert len(ids) > len(clip.tokenize("a cat a dog").token_ids)


def test_starts_and_ends_with_the_models_tokens(tokenizer: Tokenizer, trained: Trained) -> None:
    text = tokenizer.tokenize("A black cat")
    words = trained.encode("A black cat", add_special_tokens=False).ids
    assert text.token_ids.tolist() == [0, *words, 1]
    assert text.token_ids.dtype == np.int64
    assert not text.truncated


@pytest.mark.parametrize("token", [START, END])
def test_a_special_token_in_the_text_is_text(tokenizer: Tokenizer, token: str) -> None:
    inner = tokenizer.tokenize(f"cat{token}rain").token_ids[1:-1]
    assert not np.isin(inner, [0, 1]).any()
    assert len(inner) > 2


def test_an_empty_text_is_start_and_end(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokenize("").token_ids.tolist() == [0, 1]


def test_a_long_text_is_cut_and_keeps_its_end_token(tokenizer: Tokenizer) -> None:
    fits = tokenizer.tokenize("7 " * (MAX_TOKENS - 2))
    assert (len(fits.token_ids), fits.truncated) == (MAX_TOKENS, False)
    cut = tokenizer.tokenize("7 " * (MAX_TOKENS - 1))
    assert cut.truncated
    assert cut.token_ids.tolist() == fits.token_ids.tolist()


def test_words_after_a_long_blank_are_found(tokenizer: Tokenizer) -> None:
    blank = tokenizer.tokenize(" " * 60_000 + "cat")
    assert blank.token_ids.tolist() == tokenizer.tokenize("cat").token_ids.tolist()


@pytest.mark.parametrize(
    "text",
    ["\0", "a\0b", "\ud800", "cat \udfff", "צבע أسود", "🐈\u200d⬛", "\u202ecat",
     "e" + "\u0301" * 30, "x" * 65_536, " " * 65_536, "🐈" * 16_384, "a!" * 32_768],
    ids=lambda text: ascii(text[:8]),
)  # fmt: skip
def test_any_text_is_tokenised(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.tokenize(text).token_ids
    assert 2 <= len(token_ids) <= MAX_TOKENS
    assert (token_ids[0], token_ids[-1]) == (0, 1)


WORDS = st.sampled_from(
    ["cat", "Rain ", "  ", " ", "\n", "é", "e\u0301", "Σ", "🐈", "'s", "!", "7", "x1"]
)


@given(st.lists(WORDS, min_size=1, max_size=40), st.integers(1, 6000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_looking_at_the_beginning_first_changes_nothing(
    tokenizer: Tokenizer, trained: Trained, words: list[str], repetitions: int
) -> None:
    text = ("".join(words) * repetitions)[:8_000]
    trained.encode_special_tokens = True
    expected = trained.encode(text, add_special_tokens=False).ids
    tokenised = tokenizer.tokenize(text)
    assert tokenised.token_ids[1:-1].tolist() == expected[: MAX_TOKENS - 2]
    assert tokenised.truncated == (len(expected) > MAX_TOKENS - 2)


def test_threads_may_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    texts = [f"a black cat {i}" for i in range(200)]
    expected = [tokenizer.tokenize(text).token_ids.tolist() for text in texts]
    with ThreadPoolExecutor(4) as threads:
        results = [text.token_ids.tolist() for text in threads.map(tokenizer.tokenize, texts)]
    assert results == expected


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(StartupError, match=r"tokenizer\.json"):
        Tokenizer(file, max_tokens=8, start_token_id=0, end_token_id=1)
    file.write_text("{}")
    with pytest.raises(StartupError, match=r"tokenizer\.json"):
        Tokenizer(file, max_tokens=8, start_token_id=0, end_token_id=1)


def test_a_tokenizer_of_another_model_is_refused(path: Path) -> None:
    with pytest.raises(StartupError, match="no token 49406"):
        Tokenizer(path, max_tokens=8, start_token_id=49406, end_token_id=49407)
