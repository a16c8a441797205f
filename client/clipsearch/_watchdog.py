"""A limit on the wait for a stream's next message, which gRPC has for whole calls only."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Watchdog:
    """Calls ``cancel`` once ``wait_s``, or an eighth more, has gone by since it was armed.

    One thread a stream: a ``threading.Timer`` a message would cost as much as the message.
    """

    def __init__(self, cancel: Callable[[], object], wait_s: float) -> None:
        self.expired = False
        self.wait_s = wait_s
        self._cancel = cancel
        self._deadline_s = math.inf
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()

    def arm(self) -> None:
        self._deadline_s = time.monotonic() + self.wait_s

    def disarm(self) -> None:
        self._deadline_s = math.inf

    def _watch(self) -> None:
        while not self._stopped.wait(self.wait_s / 8):
            if time.monotonic() >= self._deadline_s:
                self.expired = True
                self._cancel()
                return
