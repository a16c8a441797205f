"""What the columns of a table mean: where the image is, its id, its label, its metadata."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from clipsearch import JsonValue
from clipsearch.cli.index.entry import Entry, FormatError, bad_entry, is_uuid, origin_of

# The first of these that a table has tells where the image is.
IMAGE_COLUMNS = (
    *("url", "image_url", "image", "path", "image_path", "filepath", "file_path"),
    *("file", "file_name", "filename", "uri"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOptions:
    """What the user said of the columns; None: they are told by their names."""

    image: str | None = None
    metadata: tuple[str, ...] | None = None


class Columns:
    """Makes entries of rows whose image is in the column ``image``."""

    def __init__(self, image: str, options: ColumnOptions, folder: Path) -> None:
        """``folder`` is what paths are relative to."""
        self._image = image
        self._metadata = options.metadata
        self._folder = folder
        # Whether the column `id` holds UUIDs: known from the first id on.
        self._has_ids: bool | None = None if image != "id" else False

    @property
    def read(self) -> set[str] | None:
        """The columns that matter; None for all."""
        return None if self._metadata is None else {self._image, "id", "uri", *self._metadata}

    def entry(self, row: Mapping[str, Any], place: str) -> Entry:
        """Returns a row's entry; ``place`` names the row where nothing else does."""
        text = row.get(self._image)
        if isinstance(text, str):
            text = text.strip()
        if _is_empty(text):
            return bad_entry(place, f"{place} has nothing in the column {self._image}")
        if not isinstance(text, str):
            return bad_entry(place, f"the column {self._image} holds no URL or path in {place}")
        taken = {self._image}
        own_id = row.get("id")
        if self._has_ids is None and not _is_empty(own_id):
            self._has_ids = isinstance(own_id, str) and is_uuid(own_id)
        if self._has_ids:
            taken.add("id")
            if not _is_empty(own_id) and not isinstance(own_id, str):
                return bad_entry(text, f"the id {own_id!r} is not a UUID")
        label = row.get("uri")
        if not isinstance(label, str) or self._image == "uri":
            label = ""
        if label:
            taken.add("uri")
        names = row if self._metadata is None else self._metadata
        return Entry(
            key=text,
            origin=origin_of(text, self._folder),
            id=own_id if self._has_ids and isinstance(own_id, str) else "",
            uri=label,
            metadata={
                name: _plain(row[name])
                for name in names
                if name not in taken and not _is_empty(row.get(name))
            },
        ).checked()


def check_columns(names: Sequence[str], options: ColumnOptions) -> str:
    """Returns the column of the images. Raises FormatError if a table with these columns lacks one
    that is needed."""
    for name in (options.image, *(options.metadata or ())):
        if name is not None and name not in names:
            raise FormatError(f"has no column {name!r}; it has {_listed(names)}")
    return image_column(names, options)


def image_column(names: Collection[str], options: ColumnOptions) -> str:
    """Returns the column that tells where the image is. Raises FormatError if none does."""
    if options.image is not None:
        return options.image
    for known in IMAGE_COLUMNS:
        for name in names:
            if name.lower() == known:
                return name
    raise FormatError(
        f"has no column that tells where the images are, such as {', '.join(IMAGE_COLUMNS[:4])}; "
        f"it has {_listed(names)}; --image-column names the one to use"
    )


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(name[:40] for name in islice(names, 20))
    return (shown or "none") + (", ..." if len(names) > 20 else "")


def _is_empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> JsonValue:
    """The JSON for what a Parquet file may hold."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Decimal():
            return float(value)
        case date() | time():
            return value.isoformat()
        case bool() | int() | float() | str() | None:
            return value
        case _:
            return str(value)
