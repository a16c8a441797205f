"""A text file of URLs and paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipsearch.cli.index.entry import Entry, origin_of
from clipsearch.cli.index.lines import count_lines, read_lines


class TextList:
    """One URL or path a line, which is the key; lines that are empty or start with # are none."""

    def __init__(self, file: Path) -> None:
        self.skipped = 0
        self._file = file

    def count(self) -> int:
        return count_lines(self._file)

    def __iter__(self) -> Iterator[Entry]:
        for line in read_lines(self._file):
            text = line.strip()
            if text and not text.startswith("#"):
                yield Entry(key=text, origin=origin_of(text, self._file.parent)).checked()
