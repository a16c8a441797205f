"""Filters and the fields that have an index, from messages."""

from __future__ import annotations

from clipsearch.v1 import filter_pb2
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.filters import Filter
from clipsearch_server.ports import FieldType, IndexedField

_TYPES = {
    pb.FIELD_TYPE_KEYWORD: FieldType.KEYWORD,
    pb.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    pb.FIELD_TYPE_BOOL: FieldType.BOOL,
    pb.FIELD_TYPE_TIME: FieldType.TIME,
}


def indexed_field_of(message: pb.IndexedField, path: str) -> IndexedField:
    if not message.field.startswith("metadata."):
        raise InvalidRequest(f"{path}.field", "is no field of the metadata")
    if message.type not in _TYPES:
        raise InvalidRequest(f"{path}.type", "is missing")
    return IndexedField(message.field, _TYPES[message.type])


def filter_of(message: filter_pb2.Filter, path: str = "filter") -> Filter | None:
    if message.ByteSize():
        raise InvalidRequest(path, "is not supported yet")
    return None
