"""Which errors of a server may pass by themselves, and how long to wait for that."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from threading import Event

from clipsearch import (
    DeadlineExceededError,
    InternalError,
    ModelMismatchError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    SearchClient,
    SearchError,
    StorageFullError,
    UnauthenticatedError,
    UnavailableError,
)

# As an item's result, these say that the server cannot work at present, and not what is wrong with
# the item; or that no other item would fare better.
SERVER_ERRORS = (UnavailableError, OverloadedError)
FATAL_ERRORS = (
    ModelMismatchError,
    NotFoundError,  # the collection
    PermissionDeniedError,
    StorageFullError,
    UnauthenticatedError,
)
# As the end of the stream, these may pass by themselves.
_PASSING_ERRORS = (*SERVER_ERRORS, DeadlineExceededError, InternalError)
_PASSING_CODES = frozenset({"CANCELLED", "UNKNOWN"})  # of a server that is being stopped

MAX_ATTEMPTS = 5  # at an item that gets server errors while others are stored
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 2.0
_PROBE_TIMEOUT_S = 10.0


class Patience:
    """Waits for a server that is in trouble, for ``wait_s`` from the first error on.

    ``tell`` is called with what is waited for, and with an empty text when that is over. Waiting
    ends early once ``stopping`` is set.
    """

    def __init__(
        self, client: SearchClient, wait_s: float, tell: Callable[[str], None], stopping: Event
    ) -> None:
        self._client = client
        self._wait_s = wait_s
        self._tell = tell
        self._stopping = stopping
        self._trouble_since_s: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    @property
    def is_in_trouble(self) -> bool:
        return self._trouble_since_s is not None

    def renew(self) -> None:
        """Notes that the server works."""
        self._trouble_since_s = None
        self._pause_s = _FIRST_PAUSE_S
        self._tell("")

    def wait(self, error: SearchError, check_server: Callable[[], None] | None = None) -> None:
        """Returns when the server answers again, or raises the error when that takes too long.

        Raises whatever ``check_server``, which is called when the server is back, raises.
        """
        now_s = time.monotonic()
        if self._trouble_since_s is None:
            self._trouble_since_s = now_s
        deadline_s = self._trouble_since_s + self._wait_s
        while True:
            # Not all clients of a server that was gone should be back in the same instant.
            pause_s = self._pause_s * random.uniform(1.0, 1.2)
            if error.retry_after_s is not None:
                pause_s = max(pause_s, error.retry_after_s)
            self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
            left_s = deadline_s - time.monotonic()
            if left_s <= pause_s:
                raise error
            self._tell(f"{error}; trying again for another {left_s:.0f} s")
            if self._stopping.wait(pause_s):
                return
            try:
                self._client.server_info(timeout_s=min(left_s, _PROBE_TIMEOUT_S))
                if check_server is not None:
                    check_server()
            except SearchError as still:
                if self._stopping.is_set() or not is_passing(still):
                    raise
                error = still
            else:
                return


def is_passing(error: SearchError) -> bool:
    """Whether an error that ended a stream may pass by itself."""
    return isinstance(error, _PASSING_ERRORS) or error.code.name in _PASSING_CODES
