"""CSV, TSV and JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipsearch.cli.index.columns import (
    ColumnOptions,
    Columns,
    check_columns,
    image_column,
)
from clipsearch.cli.index.entry import Entry, FormatError, bad_entry
from clipsearch.cli.index.lines import MAX_LINE_CHARS, count_lines, read_lines

_DELIMITERS = ",;\t|"


class Csv:
    """A table whose first line names the columns; a key is what the image's column holds."""

    def __init__(self, file: Path, options: ColumnOptions, *, is_tsv: bool) -> None:
        """Raises FormatError if the table does not tell where the images are, OSError if it cannot
        be read."""
        self.skipped = 0
        self._file = file
        head = next(read_lines(file), "")
        self._delimiter = "\t" if is_tsv else max(_DELIMITERS, key=head.count)
        try:
            self._names: list[str] = next(self._reader(), [])
        except csv.Error as error:
            raise FormatError(f"has no line of column names: {error}") from error
        self._columns = Columns(check_columns(self._names, options), options, file.parent)

    def count(self) -> int:
        return max(count_lines(self._file) - 1, 0)

    def __iter__(self) -> Iterator[Entry]:
        reader = self._reader()
        next(reader)
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                place = f"line {reader.line_num}"
                since = f" from line {first} on" if first < reader.line_num else ""
                yield bad_entry(place, f"{place} cannot be read{since}: {error}")
                continue
            if cells is None:
                return
            place = f"line {reader.line_num}"
            if len(cells) > len(self._names):
                why = f"{place} has {len(cells)} cells, and the table {len(self._names)} columns"
                yield bad_entry(place, why)
            elif cells:
                yield self._columns.entry(dict(zip(self._names, cells, strict=False)), place)

    def _reader(self) -> Any:
        csv.field_size_limit(MAX_LINE_CHARS - 1)
        # Strict, or a quote that is never closed would swallow rows without a word.
        return csv.reader(read_lines(self._file), delimiter=self._delimiter, strict=True)


class JsonLines:
    """A JSON object a line, of which each tells for itself where its image is."""

    def __init__(self, file: Path, options: ColumnOptions) -> None:
        self.skipped = 0
        self._file = file
        self._options = options
        self._columns: dict[str, Columns] = {}

    def count(self) -> int:
        return count_lines(self._file)

    def __iter__(self) -> Iterator[Entry]:
        for number, line in enumerate(read_lines(self._file), start=1):
            if line.strip():
                yield self._entry(line, f"line {number}")

    def _entry(self, line: str, place: str) -> Entry:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return bad_entry(place, f"{place} is not JSON")
        if not isinstance(row, dict):
            return bad_entry(place, f"{place} is not a JSON object")
        try:
            image = image_column(row, self._options)
        except FormatError as error:
            return bad_entry(place, f"{place} {error}")
        if image not in self._columns:
            self._columns[image] = Columns(image, self._options, self._file.parent)
        return self._columns[image].entry(row, place)
