"""What Qdrant's errors, and its half-hearted answers, mean to us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from qdrant_client import models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from clipsearch_server.errors import (
    ClipsearchError,
    CollectionNotFound,
    DeadlineExceeded,
    IndexUnavailable,
    ModelMismatch,
    OutcomeUnknown,
    Overloaded,
    StorageFull,
)

# Qdrant has no status code of its own for it (1.20).
_FULL = ("no space left", "not enough space", "out of disk", "disk quota")
_MAX_DETAILS = 200

# A server of tonic, as Qdrant is, says CANCELLED when the caller's deadline has passed.
_TOO_SLOW = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_OF_ONE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@contextmanager
def explained(address: str, *, write: bool = False) -> Iterator[None]:
    """Raises what fails inside, a time limit included, as the domain's error."""
    try:
        yield
    except TimeoutError as error:
        raise _too_slow(write) from error
    except ResourceExhaustedResponse as error:  # qdrant_client's word for a Retry-After
        raise Overloaded("Qdrant is overloaded", retry_after_s=error.retry_after_s) from error
    except grpc.aio.AioRpcError as error:
        raise _translated(error, address, write) from error


@asynccontextmanager
async def checking(address: str, timeout_s: float) -> AsyncIterator[None]:
    """Whatever fails inside, Qdrant is not available, unless it says that there is no such
    collection, or none of ours."""
    try:
        with explained(address):
            async with asyncio.timeout(timeout_s):
                yield
    except (IndexUnavailable, ModelMismatch, CollectionNotFound):
        raise
    except ClipsearchError as error:
        raise IndexUnavailable(error.message) from error
    except ValueError as error:  # a later Qdrant, with words that qdrant_client does not know
        raise IndexUnavailable(
            f"Qdrant at {address} describes itself as this qdrant-client cannot read: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error


async def completed(write: Awaitable[models.UpdateResult]) -> None:
    """Awaits a write. Raises OutcomeUnknown unless Qdrant says that it is applied."""
    try:
        status = (await write).status
    except ValueError as error:
        # qdrant_client has no word for some that its protocol has, ClockRejected for one.
        if "UpdateStatus" not in str(error):
            raise
        raise _outcome_unknown("Qdrant did not say that the write is applied") from error
    if status is not models.UpdateStatus.COMPLETED:
        raise _outcome_unknown(f"Qdrant did not apply the write in time ({status})")


def is_of_one(error: Exception) -> bool:
    """Whether a write of several points may have failed for one of them: Qdrant refuses what it
    cannot store, and qdrant_client what it cannot send."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _OF_ONE
    return isinstance(error, TypeError | ValueError)


def _outcome_unknown(why: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"{why}, so it may be made or not; repeating it by the same id is safe")


def _too_slow(write: bool) -> DeadlineExceeded:
    if write:
        return _outcome_unknown("Qdrant did not confirm the write in time")
    return DeadlineExceeded("Qdrant did not answer in time")


def _translated(error: grpc.aio.AioRpcError, address: str, write: bool) -> ClipsearchError:
    code = error.code()
    lines = (error.details() or code.name).splitlines() or [code.name]
    details = lines[0][:_MAX_DETAILS]
    if any(text in details.lower() for text in _FULL):
        return StorageFull("the disk of Qdrant is full")
    if code in _TOO_SLOW:
        return _too_slow(write)
    if code in _REFUSED:
        return IndexUnavailable(
            f"Qdrant at {address} refuses the API key ({code.name}); qdrant.api_key sets one that "
            "may read, write and create the collection"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded("Qdrant is overloaded")
    if code is grpc.StatusCode.UNAVAILABLE:
        return IndexUnavailable(f"Qdrant at {address} cannot be reached: {details}")
    if code is grpc.StatusCode.NOT_FOUND:
        return IndexUnavailable(
            f"Qdrant at {address} has lost the collection: {details}; put it back, or restart this "
            "server to make it anew"
        )
    return IndexUnavailable(f"Qdrant at {address} failed with {code.name}: {details}")
