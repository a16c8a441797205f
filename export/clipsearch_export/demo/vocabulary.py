"""The tokenizer: byte-pair encoding trained on the phrases, laid out as CLIP's own.

Ids 0..255 are the bytes, 256..511 the bytes that end a word, then one id a merge, and last the
start and the end token. Every text can be spelled; a common word is one token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from clipsearch_export.demo.phrases import CARRIERS, Phrases

SIZE = 8192
MAX_TOKENS = 32  # start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
START_ID, END_ID = SIZE - 2, SIZE - 1
_WORD_END = "</w>"
# A tie between words is decided by how often they are seen: names and keywords count for more.
_REPEATS = {"names": 20, "keywords": 20, "pairs": 2, "described": 2, "words": 2}
_CARRIER_REPEATS = 200
# Hyphens and underscores are what file names have for spaces; CLDR's ":" and "," say nothing.
_SPACE = r"[\s_:,\-]+"
# OpenAI's split: contractions, runs of letters, single digits, runs of anything else.
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def build(phrases: Phrases) -> Tokenizer:
    """Train the tokenizer on ``phrases`` and the carriers. Deterministic."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=alphabet, end_of_word_suffix=_WORD_END
    )
    learned = _pipeline(models.BPE(end_of_word_suffix=_WORD_END))
    learned.train_from_iterator(_corpus(phrases), trainer)
    merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]

    tokens = [*alphabet, *(byte + _WORD_END for byte in alphabet)]
    known = set(tokens)
    kept = []
    for left, right in merges:
        if len(tokens) == START_ID:
            break
        kept.append((left, right))
        if left + right not in known:
            tokens.append(left + right)
            known.add(left + right)
    vocabulary = {token: row for row, token in enumerate(tokens)} | {START: START_ID, END: END_ID}
    tokenizer = _pipeline(models.BPE(vocabulary, kept, end_of_word_suffix=_WORD_END))
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, START_ID), (END, END_ID)]
    )
    tokenizer.decoder = decoders.BPEDecoder(suffix=_WORD_END)
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def build_once(file: Path, phrases: Phrases) -> Tokenizer:
    """The tokenizer in ``file``, built if it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        build(phrases).save(str(file))
    return Tokenizer.from_file(str(file))


def spellings(tokenizer: Tokenizer) -> list[str]:
    """What each id stands for, as text a sentence encoder can read; start and end excluded."""
    vocabulary = {row: token for token, row in tokenizer.get_vocab().items()}
    texts = (vocabulary[row].removesuffix(_WORD_END) for row in range(START_ID))
    # Printable ASCII stands for itself in byte-level tokens; other characters for half a letter.
    return ["".join(filter(str.isascii, text)) for text in texts]


def _pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),  # as the teacher does
            normalizers.Replace(Regex(_SPACE), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _corpus(phrases: Phrases) -> Iterator[str]:
    for kind, texts in phrases.kinds().items():
        for text in texts:
            for _ in range(_REPEATS.get(kind, 1)):
                yield text
    for carrier in CARRIERS:
        for _ in range(_CARRIER_REPEATS):
            yield carrier.format("")
