"""Filters from messages."""

from __future__ import annotations

from clipsearch.v1 import filter_pb2
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.filters import Filter


def filter_of(message: filter_pb2.Filter, path: str = "filter") -> Filter | None:
    if message.ByteSize():
        raise InvalidRequest(path, "is not supported yet")
    return None
