"""Domain error -> gRPC status with details (AIP-193): one table, which a test proves total."""

from __future__ import annotations

import errno
import logging
import math
import secrets
from time import monotonic

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from clipsearch_server import errors, metrics

logger = logging.getLogger(__name__)

DOMAIN = "clipsearch"

# The most specific class of an error's ancestry decides.
CODES: dict[type[errors.ClipsearchError], int] = {
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    # Not UNAVAILABLE: every client would retry, and hammer a host that is not ours.
    errors.SourceFailed: code_pb2.FAILED_PRECONDITION,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.CollectionExists: code_pb2.ALREADY_EXISTS,
    errors.CollectionInUse: code_pb2.FAILED_PRECONDITION,
    errors.CollectionLeaving: code_pb2.UNAVAILABLE,
    errors.TooManyCollections: code_pb2.RESOURCE_EXHAUSTED,
    errors.ModelMismatch: code_pb2.FAILED_PRECONDITION,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.StorageFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.DependencyFailed: code_pb2.UNAVAILABLE,
    errors.ServerStopping: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.ModelOutputInvalid: code_pb2.INTERNAL,
}

# What is wrong with a neighbour is for the log: it may hold addresses, and that neighbour's words.
_UNAVAILABLE: dict[type[errors.DependencyFailed], str] = {
    errors.EncoderUnavailable: "the model is not available at the moment; try again later",
    errors.DecoderUnavailable: "images cannot be decoded at the moment; try again later",
    errors.IndexUnavailable: "the index is not available at the moment; try again later",
    errors.DependencyFailed: "a part of the server is not available at the moment; try again later",
}
_TOLD_EVERY_S = 10.0
_told_at: dict[str, float] = {}  # reason -> when the log last had a line with it

# What a process runs out of when too much is asked of it at a time.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

# A caller learns that it was our fault and what to quote, and nothing of what went wrong inside.
_INTERNAL_MESSAGE = "the server failed; its log has the details under this error's id"


def to_status(error: Exception) -> status_pb2.Status:
    """Returns what a caller is told of an error.

    An error that is our fault is logged with its traceback under a new id; the id is all that the
    caller learns. Of what is wrong with a neighbour, it learns which kind it is.
    """
    if isinstance(error, TimeoutError):
        error = errors.DeadlineExceeded("the call took longer than it may; try a smaller one")
    elif isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _EXHAUSTED
    ):
        logger.error("out of memory or of file descriptors: %r", error)
        error = errors.Overloaded("the server has too much to do at a time; try again in a moment")
    code = _code(error)
    if not isinstance(error, errors.ClipsearchError) or code == code_pb2.INTERNAL:
        error_id = secrets.token_hex(8)
        logger.error("internal error_id=%s", error_id, exc_info=error)
        reason = error.reason if isinstance(error, errors.ClipsearchError) else "INTERNAL"
        metrics.ERRORS.labels(reason).inc()
        metrics.INTERNAL_ERRORS.labels(reason).inc()
        info = error_details_pb2.ErrorInfo(
            reason=reason, domain=DOMAIN, metadata={"error_id": error_id}
        )
        return _status(code_pb2.INTERNAL, _INTERNAL_MESSAGE, info)
    metrics.ERRORS.labels(error.reason).inc()
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    message = error.message
    if isinstance(error, errors.InvalidRequest):
        message = f"{error.field}: {error.message}"
    elif isinstance(error, errors.DependencyFailed):
        message = next(_UNAVAILABLE[kind] for kind in type(error).__mro__ if kind in _UNAVAILABLE)
        _tell_now_and_then(error)
    return _status(code, message, info, *_details(error))


def _tell_now_and_then(error: errors.DependencyFailed) -> None:
    """Health logs what concerns everybody; this is for the rest, a damaged collection for one."""
    now = monotonic()
    if now - _told_at.get(error.reason, -math.inf) >= _TOLD_EVERY_S:
        _told_at[error.reason] = now
        logger.warning("unavailable reason=%s %s", error.reason, error.message)


def reason_of(status: status_pb2.Status) -> str:
    """Returns the reason in a status that ``to_status`` made."""
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)


def _code(error: Exception) -> int:
    for ancestor in type(error).__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    return int(code_pb2.INTERNAL)


def _details(error: errors.ClipsearchError) -> list[Message]:
    match error:
        case errors.InvalidRequest():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=error.field, description=error.message, reason=error.reason
            )
            return [error_details_pb2.BadRequest(field_violations=[violation])]
        case errors.NotFound():
            return [
                error_details_pb2.ResourceInfo(
                    resource_type=error.resource_type, resource_name=error.name
                )
            ]
        case errors.QuotaExceeded():
            exceeded = error_details_pb2.QuotaFailure.Violation(
                subject=f"caller:{error.caller}", description=error.message
            )
            return [_retry_info(error), error_details_pb2.QuotaFailure(violations=[exceeded])]
        case errors.Overloaded():
            return [_retry_info(error)]
        case _:
            return []


def _retry_info(error: errors.Overloaded) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(round(error.retry_after_s * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _status(code: int, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
