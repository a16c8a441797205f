"""What is asked and added: captions of the usual lengths, photographs; each of them once."""

from __future__ import annotations

import csv
import random
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from measuring import PICTURES, photograph

from clipsearch_server.text import Tokenizer

# Tokens of a caption, start and end included: those of COCO's have 12.5 in the mean, and few have
# less than 9 or more than 20.
MEAN_TOKENS, DEVIATION, LEAST, MOST = 12, 2.5, 8, 20

_PHOTOGRAPHS = 32


class Captions:
    """Makes up captions, no two alike, so that no cache helps. The words are names of pictures'."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._random = random.Random(seed)
        self._words: dict[int, list[str]] = defaultdict(list)  # by their number of tokens
        with (PICTURES / "pictures.csv").open(newline="", encoding="utf-8") as file:
            names = " ".join(row["name"] for row in csv.DictReader(file))
        for word in sorted(set(re.findall(r"[a-z]{2,}", names.lower()))):
            self._words[len(tokenizer.tokenize(word).token_ids) - 2].append(word)
        self._made: set[str] = set()

    def take(self, number: int, *, tokens: int | None = None) -> list[str]:
        """Returns so many captions: of this many tokens each, or of lengths as they occur."""
        return [self._one(tokens or self._length()) for _ in range(number)]

    def _length(self) -> int:
        return min(MOST, max(LEAST, round(self._random.gauss(MEAN_TOKENS, DEVIATION))))

    def _one(self, tokens: int) -> str:
        while (caption := self._caption(tokens - 2)) in self._made:
            pass
        self._made.add(caption)
        return caption

    def _caption(self, left: int) -> str:
        words = []
        while left:
            size = self._random.choice([it for it in (1, 1, 1, 2) if it <= left])
            words.append(self._random.choice(self._words[size]))
            left -= size
        return " ".join(words)


@cache
def _photographs() -> list[bytes]:
    return [photograph(number) for number in range(_PHOTOGRAPHS)]


def photographs(first: int, number: int) -> list[bytes]:
    """JPEGs of 640 x 480 pixels. The pictures repeat; their bytes, and with them what a server
    knows them by, do not: a JPEG may have anything behind its end."""
    made = _photographs()
    return [made[it % _PHOTOGRAPHS] + it.to_bytes(8, "big") for it in range(first, first + number)]


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of an exported model folder."""
    from clipsearch_server.model import open_model_folder

    card = open_model_folder(folder).card
    return Tokenizer(
        folder / "clip_text" / "tokenizer.json",
        max_tokens=card.max_tokens,
        start_token_id=card.start_token_id,
        end_token_id=card.end_token_id,
    )
