"""Which fields of a point's payload have an index, wherever it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipsearch_server.filters import path_steps
from clipsearch_server.ports import FieldType, IndexedField

# The image's own. The one of the content's hash, CONTENT_KEY, is older than these and has no
# prefixes: each would keep 64 characters once more, and nobody knows but the first few of a hash.
IMAGE_FIELDS = (
    IndexedField("url", FieldType.KEYWORD),
    IndexedField("uri", FieldType.KEYWORD),
    IndexedField("media_type", FieldType.KEYWORD),
    # Not integers: a bound between two of them is cut to one (tried).
    IndexedField("width_px", FieldType.NUMBER),
    IndexedField("height_px", FieldType.NUMBER),
    IndexedField("size_bytes", FieldType.NUMBER),
    IndexedField("create_time", FieldType.TIME),
    IndexedField("update_time", FieldType.TIME),
    IndexedField("duplicate_of", FieldType.KEYWORD),
)


def without_index(fields: Sequence[IndexedField], indexed: Iterable[str]) -> list[IndexedField]:
    """Returns those of the fields that are not among the paths that have an index; stores write a
    path in ways of their own."""
    known = {path_steps(path) for path in indexed}
    return [field for field in fields if path_steps(field.field) not in known]
