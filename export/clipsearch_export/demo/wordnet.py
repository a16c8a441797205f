"""WordNet's words, definitions and example sentences, read from Princeton's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PARTS = ("noun", "verb", "adj", "adv")
_LICENCE_LINE = "  "  # each file opens with its licence, every line of it indented


@dataclass(frozen=True)
class WordNet:
    """Three lists without repeats, in file order: words are lower-case or proper as WordNet says.

    ``words`` may hold several words (``ice cream``); ``common`` are those of them that people
    met in WordNet's hand-tagged texts.
    """

    words: list[str]
    common: list[str]
    definitions: list[str]
    examples: list[str]


def read_wordnet(folder: Path) -> WordNet:
    """Read ``data.*`` and ``index.*`` (format: WordNet's wndb manual page) of ``folder``."""
    words: dict[str, None] = {}
    definitions: dict[str, None] = {}
    examples: dict[str, None] = {}
    for part in _PARTS:
        for line in _lines(folder / f"data.{part}"):
            fields, _, gloss = line.partition(" | ")
            columns = fields.split(" ")
            for column in range(int(columns[3], 16)):  # the word count is hexadecimal
                word = re.sub(r"\(\w+\)$", "", columns[4 + 2 * column])  # ``alone(p)``
                words[word.replace("_", " ")] = None
            for example in re.findall(r'"([^"]+)"', gloss):
                examples[example] = None
            definition = gloss.split(' "')[0].strip(" ;\n")
            if definition:
                definitions[definition] = None
    tagged = set(_tagged(folder))
    return WordNet(
        words=list(words),
        common=[word for word in words if word.lower() in tagged],
        definitions=list(definitions),
        examples=list(examples),
    )


def _tagged(folder: Path) -> Iterator[str]:
    for part in _PARTS:
        for line in _lines(folder / f"index.{part}"):
            columns = line.split()
            tagged_senses = int(columns[5 + int(columns[3])])
            if tagged_senses > 0:
                yield columns[0].replace("_", " ")


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith(_LICENCE_LINE):
                yield line
