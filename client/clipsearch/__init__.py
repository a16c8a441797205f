"""Find images by describing them: the client of the clipsearch service."""

from __future__ import annotations

import sys

from clipsearch._aio_client import AsyncSearchClient
from clipsearch._client import SearchClient
from clipsearch._errors import (
    AlreadyExistsError,
    CollectionInUseError,
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidImageError,
    InvalidRequestError,
    ModelMismatchError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    SearchError,
    SourceError,
    StorageFullError,
    UnauthenticatedError,
    UnavailableError,
)
from clipsearch._models import (
    AddedImage,
    AddItem,
    AddOutcome,
    AddResult,
    Collection,
    EmbeddedImage,
    FieldType,
    Hit,
    Image,
    ImagePage,
    IndexedField,
    JsonValue,
    Limits,
    Metadata,
    Model,
    QueryResult,
    QueryTerm,
    Ranking,
    ServerInfo,
    TextEmbeddings,
    TextResult,
)
from clipsearch.filter_syntax import FilterSyntaxError, parse_filter
from clipsearch.filters import AnyOf, Condition, Exists, Filter, Match, Prefix, Range

__all__ = [
    "AddItem",
    "AddOutcome",
    "AddResult",
    "AddedImage",
    "AlreadyExistsError",
    "AnyOf",
    "AsyncSearchClient",
    "Collection",
    "CollectionInUseError",
    "Condition",
    "DeadlineExceededError",
    "EmbeddedImage",
    "Exists",
    "FieldType",
    "FieldViolation",
    "Filter",
    "FilterSyntaxError",
    "Hit",
    "Image",
    "ImagePage",
    "IndexedField",
    "InternalError",
    "InvalidImageError",
    "InvalidRequestError",
    "JsonValue",
    "Limits",
    "Match",
    "Metadata",
    "Model",
    "ModelMismatchError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "Prefix",
    "QueryResult",
    "QueryTerm",
    "Range",
    "Ranking",
    "SearchClient",
    "SearchError",
    "ServerInfo",
    "SourceError",
    "StorageFullError",
    "TextEmbeddings",
    "TextResult",
    "UnauthenticatedError",
    "UnavailableError",
    "main",
    "parse_filter",
]


def main() -> None:
    """Runs the ``clipsearch`` command, or says how to install it: it is the extra ``[cli]``."""
    try:
        from clipsearch.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in {"PIL", "rich", "typer"}:
            raise
        sys.exit(
            "clipsearch: the command needs what the library does not; "
            "in a checkout of clipsearch: pip install './client[cli]'"
        )
    app()
