"""A dump: a Parquet file of images with their embeddings, as docs/dump-format.md describes it.

The only module that needs pyarrow, the extra ``[parquet]``. Neither side holds more than one row
group in memory.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch import Collection, EmbeddedImage, Image

FORMAT_VERSION = "1"

# Of the file's key-value metadata.
_VERSION_KEY = "clipsearch.format_version"
_MODEL_KEY = "clipsearch.model_id"
_FINGERPRINT_KEY = "clipsearch.fingerprint"
_DIM_KEY = "clipsearch.embedding_dim"

# Bounds the memory of both sides: 10 MB, of images with little metadata and 512 dimensions.
_ROW_GROUP_ROWS = 4096
_BATCH_ROWS = 256  # read at a time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMES = ("create_time", "update_time")

# The one column that may be empty, and that older dumps lack.
_LINK = "duplicate_of"


class DumpError(OSError):
    """The file is no dump that this version can read; the message is one line that says why."""


class DumpWriter:
    """Writes images into a file, which is there only once the block is left without an exception.

    Until then they are in ``FILE.part`` beside it. Raises OSError.
    """

    def __init__(self, file: Path, collection: Collection) -> None:
        self._file = file
        self._part = file.with_name(f"{file.name}.part")
        self._schema = _schema(collection.embedding_dim).with_metadata(
            {
                _VERSION_KEY: FORMAT_VERSION,
                _MODEL_KEY: collection.model_id,
                _FINGERPRINT_KEY: collection.model_fingerprint,
                _DIM_KEY: str(collection.embedding_dim),
            }
        )
        self._fingerprint = collection.model_fingerprint
        self._waiting: list[EmbeddedImage] = []

    def __enter__(self) -> Self:
        self._stream = self._part.open("wb")
        self._parquet = pq.ParquetWriter(
            self._stream,
            self._schema,
            compression="zstd",
            # Of no use where every value is another one.
            use_dictionary=["media_type"],
            write_page_checksum=True,
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._stream:
                try:
                    if exc is None:
                        self._write_waiting()
                finally:
                    self._parquet.close()
                self._stream.flush()
                os.fsync(self._stream.fileno())
            if exc is None:
                self._part.replace(self._file)
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, embedded: EmbeddedImage) -> None:
        if embedded.model_fingerprint != self._fingerprint:
            raise DumpError("the server has changed its model; dump again")
        self._waiting.append(embedded)
        if len(self._waiting) == _ROW_GROUP_ROWS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if self._waiting:
            self._parquet.write_batch(_to_batch(self._waiting, self._schema))
            self._waiting.clear()


class DumpReader:
    """An opened dump: the model that embedded its images, how many there are, and the images.

    Opening and reading raise DumpError if the file is damaged or is no dump, OSError if it cannot
    be read.
    """

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb")
        try:
            with self._explained():
                self._parquet = pq.ParquetFile(
                    self._stream,
                    buffer_size=2**20,  # the row groups of other programs may be of any size
                    page_checksum_verification=True,
                )
            self.row_count: int = self._parquet.metadata.num_rows
            facts = self._parquet.schema_arrow.metadata or {}
            self._check_version(_text(facts, _VERSION_KEY))
            self.model_id = _text(facts, _MODEL_KEY)
            self.fingerprint = _text(facts, _FINGERPRINT_KEY)
            self._schema = _schema(self._embedding_dim(_text(facts, _DIM_KEY)))
            self._check_columns()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[EmbeddedImage]:
        """Yields the images in the order of the file."""
        rows = 0
        there = set(self._parquet.schema_arrow.names)
        columns = [name for name in self._schema.names if name in there]
        # One row group at a time: an iteration over several keeps what it has read (tried).
        for group in range(self._parquet.num_row_groups):
            batches = self._parquet.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
            )
            while True:
                with self._explained():
                    batch = next(batches, None)
                    if batch is None:
                        break
                    images = self._images(batch)
                rows += len(images)
                yield from images
        # Checksums are of what is in a page; a page of which the head is damaged is passed over.
        if rows != self.row_count:
            raise DumpError(f"is damaged: only {rows} of {self.row_count} images can be read")

    def _images(self, batch: Any) -> list[EmbeddedImage]:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if column.null_count and name != _LINK:
                raise DumpError(f"the column {name} has empty rows")
        if _LINK not in batch.schema.names:
            batch = batch.append_column(_LINK, pa.nulls(len(batch), pa.string()))
        # By name and type, because other programs may have written the columns as they saw fit.
        batch = batch.select(self._schema.names).cast(self._schema)
        dim = self._schema.field("embedding").type.list_size
        flat = batch.column("embedding").flatten()
        if flat.null_count:
            raise DumpError("an embedding has empty numbers")
        embeddings = array("f")
        ours = slice(4 * flat.offset, 4 * (flat.offset + len(flat)))
        embeddings.frombytes(memoryview(flat.buffers()[1])[ours])
        times = {name: batch.column(name).cast(pa.int64()).to_pylist() for name in _TIMES}
        plain = batch.drop_columns(["embedding", *_TIMES]).to_pylist()
        return [
            EmbeddedImage(
                image=Image(
                    **(
                        values
                        | {"metadata": self._metadata(values["metadata"])}
                        | {_LINK: values[_LINK] or ""}
                    ),
                    **{name: _EPOCH + times[name][row] * _MICROSECOND for name in _TIMES},
                ),
                embedding=embeddings[row * dim : (row + 1) * dim],
                model_fingerprint=self.fingerprint,
            )
            for row, values in enumerate(plain)
        ]

    def _metadata(self, text: str) -> dict[str, Any]:
        # All numbers are doubles on the way; a whole one may be too large to become one later.
        metadata = json.loads(text, parse_int=float)
        if not isinstance(metadata, dict):
            raise DumpError(f"the metadata {text[:40]!r} is not a JSON object")
        return metadata

    def _check_version(self, version: str) -> None:
        if not version:
            raise DumpError("is a Parquet file, and not one of `clipsearch dump`")
        if version != FORMAT_VERSION:
            raise DumpError(
                f"is of format version {version[:20]}, and this command reads "
                f"{FORMAT_VERSION}; use a newer clipsearch"
            )

    def _embedding_dim(self, value: str) -> int:
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**16):
            raise DumpError("does not say how many dimensions an embedding has")
        return int(value)

    def _check_columns(self) -> None:
        there = set(self._parquet.schema_arrow.names)
        if missing := [name for name in self._schema.names if name not in {*there, _LINK}]:
            raise DumpError(f"lacks the columns {', '.join(missing)}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises what pyarrow raises as DumpError."""
        try:
            yield
        except DumpError:
            raise
        except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the file's, and not that of what is in it
            cause = str(error).partition("\n")[0]
            raise DumpError(f"is not a Parquet file, or is damaged: {cause}") from error


def _schema(embedding_dim: int) -> Any:
    time = pa.timestamp("us", tz="UTC")
    types = {
        "id": pa.string(),
        "url": pa.string(),
        "uri": pa.string(),
        "metadata": pa.string(),  # JSON
        "sha256": pa.string(),
        "media_type": pa.string(),
        "width_px": pa.int32(),
        "height_px": pa.int32(),
        "size_bytes": pa.int64(),
        "create_time": time,
        "update_time": time,
        _LINK: pa.string(),
        "embedding": pa.list_(pa.float32(), embedding_dim),
    }
    return pa.schema(
        [pa.field(name, type_, nullable=name == _LINK) for name, type_ in types.items()]
    )


def _to_batch(images: list[EmbeddedImage], schema: Any) -> Any:
    numbers = array("f")
    for embedded in images:
        numbers.extend(embedded.embedding)
    flat = pa.Array.from_buffers(pa.float32(), len(numbers), [None, pa.py_buffer(numbers)])
    embedding_type = schema.field("embedding").type
    columns = {
        "metadata": [json.dumps(it.image.metadata, ensure_ascii=False) for it in images],
        _LINK: [it.image.duplicate_of or None for it in images],
        "embedding": pa.FixedSizeListArray.from_arrays(flat, type=embedding_type),
        **{name: [_microseconds(getattr(it.image, name)) for it in images] for name in _TIMES},
    }
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            values = [getattr(it.image, field.name) for it in images]
        if isinstance(values, list):
            values = pa.array(values, field.type)
        arrays.append(values)
    return pa.record_batch(arrays, schema=schema)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _text(facts: dict[bytes, bytes], key: str) -> str:
    return facts.get(key.encode(), b"").decode(errors="replace")
