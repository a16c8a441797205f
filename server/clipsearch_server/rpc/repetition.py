"""Calls that gRPC repeats by itself, as a client's retry policy has it (gRFC A6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipsearch_server.errors import NotFound
from clipsearch_server.rpc.options import Context

_ATTEMPTS = "grpc-previous-rpc-attempts"  # how many there were before this one


@contextmanager
def deleting(kind: type[NotFound], context: Context) -> Iterator[None]:
    """Ends the block well if it misses what it was to delete, and the call is a repetition: then an
    attempt whose answer was lost has deleted it, and the caller knows of none but this one."""
    try:
        yield
    except kind:
        if not _is_repetition(context):
            raise


def _is_repetition(context: Context) -> bool:
    return any(key == _ATTEMPTS for key, _ in context.invocation_metadata() or ())
