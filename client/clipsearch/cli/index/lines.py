"""Lines of text files, of any length and any bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MAX_LINE_CHARS = 2**20
_BLOCK_BYTES = 2**20


def read_lines(file: Path) -> Iterator[str]:
    """Yields the lines with their ends; of one that is too long only the start, without an end.

    Bytes that are not UTF-8 become lone surrogates, as in a file's name. Raises OSError.
    """
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        while line := stream.readline(MAX_LINE_CHARS):
            yield line
            while len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                line = stream.readline(MAX_LINE_CHARS)


def count_lines(file: Path) -> int:
    """Returns how many lines there are. Raises OSError."""
    lines = 0
    last = b"\n"
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")
