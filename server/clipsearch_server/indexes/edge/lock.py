"""The lock that keeps a second server out of a data folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from clipsearch_server.errors import StartupError

# After a SIGKILL of the server its index processes are gone within milliseconds, unless the kernel
# is busy unmapping what they had; a restart waits for that rather than fail.
_PATIENCE_S = 3.0
_PAUSE_S = 0.05


class DataDirLock:
    """Holds ``<data_dir>/LOCK`` while the process that entered it, or a child that inherited its
    descriptor, lives.

    It is an flock: the kernel drops it with the last descriptor, so a crash leaves nothing to clean
    up, and an index process that outlives its server for a moment still keeps the next one out.
    Entering blocks for up to three seconds; call it from a thread.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def __enter__(self) -> Self:
        """Raises StartupError if another server holds it or the folder cannot be written."""
        file = self._data_dir / "LOCK"
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartupError(
                f"{file}: {error.strerror}; choose a data_dir that this user may write"
            ) from error
        try:
            self._acquire()
        except BaseException:
            os.close(self._descriptor)
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def _acquire(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    holder = os.pread(self._descriptor, 32, 0).decode().strip() or "unknown"
                    raise StartupError(
                        f"{self._data_dir}: is in use by another server (process {holder}); stop "
                        "it, or start this one with another data_dir"
                    ) from error
            time.sleep(_PAUSE_S)
