"""What each method of the service does to the server, and what a caller must be allowed: one table,
which a test proves total."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clipsearch_server.callers import Scope


class Work(StrEnum):
    """Calls of a class share their places, and cannot take those of another."""

    QUERY = "query"  # searches and reads: somebody is waiting
    INGEST = "ingest"  # one change
    BULK = "bulk"  # a stream, of as many changes or images as its caller likes


@dataclass(frozen=True, slots=True)
class Method:
    work: Work
    scope: Scope


_SEARCH = Method(Work.QUERY, Scope.READ)
_CHANGE = Method(Work.INGEST, Scope.WRITE)
_MANAGE = Method(Work.INGEST, Scope.ADMIN)

METHODS = {
    "AddImage": _CHANGE,
    "AddImages": Method(Work.BULK, Scope.WRITE),
    "QueryText": _SEARCH,
    "QueryTexts": _SEARCH,
    "QueryImage": _SEARCH,
    "Query": _SEARCH,
    "EmbedTexts": _SEARCH,
    "GetImage": _SEARCH,
    "ListImages": _SEARCH,
    "DeleteImage": _CHANGE,
    "ExportImages": Method(Work.BULK, Scope.READ),
    "ImportImages": Method(Work.BULK, Scope.WRITE),
    "CreateCollection": _MANAGE,
    "GetCollection": _SEARCH,
    "ListCollections": _SEARCH,
    "UpdateCollection": _MANAGE,
    "DeleteCollection": _MANAGE,
    "SetAlias": _MANAGE,
    "DeleteAlias": _MANAGE,
    "GetServerInfo": _SEARCH,
}
