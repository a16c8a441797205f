"""Parquet, which needs pyarrow: the extra ``[parquet]``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.cli.index.columns import ColumnOptions, Columns, check_columns
from clipsearch.cli.index.entry import Entry, FormatError, bad_entry

_BATCH_ROWS = 256  # in memory at a time, with what pyarrow reads ahead


class Parquet:
    """A table of which a key is what the image's column holds; columns of bytes are left out."""

    def __init__(self, file: Path, options: ColumnOptions) -> None:
        """Raises FormatError if it is no Parquet file or does not tell where the images are,
        OSError if it cannot be read."""
        self.skipped = 0
        self._file = file
        with file.open("rb") as stream:
            parquet = self._open(stream)
            self._rows: int = parquet.metadata.num_rows
            schema = parquet.schema_arrow
        for name, count in Counter(schema.names).items():
            if count > 1:
                raise FormatError(f"has {count} columns {name!r}")
        image = check_columns(schema.names, options)
        if not _is_text(schema.field(image).type):
            raise FormatError(f"holds no URLs or paths in the column {image!r}")
        self._columns = Columns(image, options, file.parent)
        self._read = [
            name
            for name in schema.names
            if not _is_binary(schema.field(name).type)
            and (self._columns.read is None or name in self._columns.read)
        ]

    def count(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Entry]:
        with self._file.open("rb") as stream:
            parquet = self._open(stream)
            number = 0
            # One row group at a time: an iteration over several keeps what it has read.
            for group in range(parquet.num_row_groups):
                batches = parquet.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=self._read, use_threads=False
                )
                try:
                    for batch in batches:
                        for row in batch.to_pylist():
                            number += 1
                            yield self._columns.entry(row, f"row {number}")
                except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
                    place = f"row group {group + 1}"
                    yield bad_entry(
                        place, f"{place} is damaged after row {number}: {_cause(error)}"
                    )

    def _open(self, stream: Any) -> Any:
        try:
            return pq.ParquetFile(stream, buffer_size=2**20, page_checksum_verification=True)
        except (pa.ArrowException, ValueError, OSError) as error:
            why = f"is not a Parquet file, or is damaged: {_cause(error)}"
            raise FormatError(why) from error


def _cause(error: Exception) -> str:
    """What pyarrow says. Raises the error again if it is the file system's."""
    if isinstance(error, OSError) and error.errno:
        raise error
    return str(error).partition("\n")[0]


def _is_text(type_: Any) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return any(
        check(type_)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _is_binary(type_: Any) -> bool:
    return any(
        check(type_)
        for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    )
