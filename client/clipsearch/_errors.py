"""What can go wrong with a call. Catch SearchError for everything that a server can answer.

* SearchError                  any failed call
  + InvalidRequestError        the request: a field is missing, malformed or out of range
    - InvalidImageError        the content is no image that the server takes
  + NotFoundError              there is no such image, collection or alias
  + AlreadyExistsError         a collection or an alias has the name already
  + CollectionInUseError       the collection cannot be deleted, or the alias be removed, as it is
  + SourceError                the host that the URL names did not deliver the image
  + ModelMismatchError         the collection was filled by another model than the server's
  + OverloadedError            too much is in flight; later is better
  + StorageFullError           the server's disk is full; reading still works
  + UnavailableError           nobody answers, or something that the server needs is down
  + DeadlineExceededError      the answer took longer than the call's timeout
  + UnauthenticatedError       the server does not know who calls
  + PermissionDeniedError      the server knows, and says no
  + InternalError              the server's own fault; quote `error_id` to its operator
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

# Where gRPC carries a google.rpc.Status: the convention of every gRPC library's rich error model.
_DETAILS_KEY = "grpc-status-details-bin"

_NOT_CONNECTED = "failed to connect to all addresses; last error: "  # gRPC's words before the cause


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request, by its path in the contract, and what is wrong with it."""

    field: str
    description: str


class SearchError(Exception):
    """A call that failed. ``str(error)`` is a sentence for a person.

    ``code`` is the gRPC status code, ``reason`` the server's stable name for the cause (upper snake
    case; empty if the server said none, for example because it was not reached), ``metadata`` the
    dynamic parts of the message, ``retry_after_s`` how long the server asks to wait before the call
    is worth repeating (None: it does not say that repeating helps).
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        # All arguments go to the base class, so that pickle can make the exception anew.
        super().__init__(code, message, reason, metadata, field_violations, retry_after_s)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        untold = [
            f"{violation.field}: {violation.description}"
            for violation in self.field_violations
            if violation.description not in self.message
        ]
        return "; ".join([self.message or self.code.name, *untold])


class InvalidRequestError(SearchError):
    """A field of the request is missing, malformed or out of range. The caller must change it."""


class InvalidImageError(InvalidRequestError):
    """The content is not an image, is broken, or exceeds a limit. Sending it again cannot help."""


class NotFoundError(SearchError):
    """There is no such image (IMAGE_NOT_FOUND), collection or alias (COLLECTION_NOT_FOUND)."""


class AlreadyExistsError(SearchError):
    """A collection or an alias has the name already."""


class CollectionInUseError(SearchError):
    """The collection is the default one or has an alias, or the alias is the server's default."""


class SourceError(SearchError):
    """The URL's host did not deliver: neither the request's fault nor the server's."""

    @property
    def retryable(self) -> bool:
        """Whether the host may deliver another time."""
        return self.metadata.get("retryable") == "true"


class ModelMismatchError(SearchError):
    """The collection holds the embeddings of another model, which the server's cannot be compared
    with."""


class OverloadedError(SearchError):
    """More is in flight than the server takes on, or than the caller's quota allows
    (QUOTA_EXCEEDED): repeat the call after ``retry_after_s``."""


class StorageFullError(SearchError):
    """The server cannot write because its disk is full. Reading still works."""


class UnavailableError(SearchError):
    """Nobody answers at the address, or something that the server needs is down."""


class DeadlineExceededError(SearchError):
    """The answer took longer than the call's timeout, or than the server allows. A change may have
    been made all the same; making it again does no harm."""


class UnauthenticatedError(SearchError):
    """The server asks for credentials, or does not accept those that it got."""


class PermissionDeniedError(SearchError):
    """The server knows who calls, and does not allow it."""


class InternalError(SearchError):
    """The server failed by its own fault."""

    @property
    def error_id(self) -> str:
        """The id under which the server's log explains the failure; empty if there is none."""
        return self.metadata.get("error_id", "")

    def __str__(self) -> str:
        sentence = super().__str__()
        return f"{sentence} (error id {self.error_id})" if self.error_id else sentence


# The first row whose code is the status's, and whose prefix starts its reason, decides.
_CLASSES: Sequence[tuple[StatusCode, str, type[SearchError]]] = (
    (StatusCode.INVALID_ARGUMENT, "IMAGE_", InvalidImageError),
    (StatusCode.INVALID_ARGUMENT, "", InvalidRequestError),
    (StatusCode.NOT_FOUND, "", NotFoundError),
    (StatusCode.ALREADY_EXISTS, "", AlreadyExistsError),
    (StatusCode.FAILED_PRECONDITION, "COLLECTION_IN_USE", CollectionInUseError),
    (StatusCode.FAILED_PRECONDITION, "SOURCE_", SourceError),
    (StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH", ModelMismatchError),
    (StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL", StorageFullError),
    # Without a reason it is gRPC's own word for a message too large, which no waiting helps.
    (StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", OverloadedError),
    (StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", OverloadedError),
    (StatusCode.UNAVAILABLE, "", UnavailableError),
    (StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceededError),
    (StatusCode.UNAUTHENTICATED, "", UnauthenticatedError),
    (StatusCode.PERMISSION_DENIED, "", PermissionDeniedError),
    (StatusCode.INTERNAL, "", InternalError),
)
_CODES: Mapping[int, StatusCode] = {code.value[0]: code for code in StatusCode}


def error_from_status(status: status_pb2.Status) -> SearchError:
    """Returns the exception for a google.rpc.Status; details of unknown types are left out."""
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        try:
            detail.Unpack(info)
            detail.Unpack(bad_request)
            if detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
        except DecodeError:
            continue  # a broken detail must not hide the error that it belongs to
    error_class = next(
        (
            error_class
            for row_code, prefix, error_class in _CLASSES
            if row_code is code and info.reason.startswith(prefix)
        ),
        SearchError,
    )
    return error_class(
        code,
        status.message,
        info.reason,
        dict(info.metadata),
        [FieldViolation(it.field, it.description) for it in bad_request.field_violations],
        retry_after_s,
    )


def error_from_rpc(error: grpc.RpcError, target: str) -> SearchError:
    """Returns the exception for a failed call to the server at ``target``."""
    # The stubs know nothing of grpc.aio's pairs, which are plain tuples, nor of calls without any.
    trailers = cast("Iterable[tuple[str, str | bytes]] | None", error.trailing_metadata())
    for key, value in trailers or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return error_from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    code, message = error.code(), error.details() or ""
    match code:
        case StatusCode.UNAVAILABLE if "Connection refused" in message:
            message = f"nothing answers at {target}"
        case StatusCode.UNAVAILABLE:
            message = f"cannot reach {target}: {message.removeprefix(_NOT_CONNECTED)}"
        case StatusCode.DEADLINE_EXCEEDED:
            message = f"{target} did not answer in time"
    return error_from_status(status_pb2.Status(code=code.value[0], message=message))


def no_result_in_time(target: str, wait_s: float) -> DeadlineExceededError:
    """Returns the exception for a stream whose next result took longer than ``wait_s``."""
    return DeadlineExceededError(
        StatusCode.DEADLINE_EXCEEDED, f"{target} sent no result for {wait_s:g} seconds"
    )


def stream_ended_early(target: str) -> UnavailableError:
    """Returns the exception for a stream that its server ended before every item had a result."""
    return UnavailableError(
        StatusCode.UNAVAILABLE, f"{target} ended the stream before every image had a result"
    )
