"""Find images by describing them: the client of the clipsearch service."""

from __future__ import annotations

import sys

from clipsearch._aio_client import AsyncSearchClient
from clipsearch._client import SearchClient
from clipsearch._errors import (
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
    Hit,
    Image,
    ImagePage,
    JsonValue,
    Limits,
    Metadata,
    Model,
    QueryResult,
    ServerInfo,
)

__all__ = [
    "AddItem",
    "AddOutcome",
    "AddResult",
    "AddedImage",
    "AsyncSearchClient",
    "Collection",
    "DeadlineExceededError",
    "EmbeddedImage",
    "FieldViolation",
    "Hit",
    "Image",
    "ImagePage",
    "InternalError",
    "InvalidImageError",
    "InvalidRequestError",
    "JsonValue",
    "Limits",
    "Metadata",
    "Model",
    "ModelMismatchError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "QueryResult",
    "SearchClient",
    "SearchError",
    "ServerInfo",
    "SourceError",
    "StorageFullError",
    "UnauthenticatedError",
    "UnavailableError",
    "main",
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
            "install it with: pip install 'clipsearch[cli]'"
        )
    app()
