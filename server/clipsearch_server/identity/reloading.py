"""Files that are read anew when they change, without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from clipsearch_server.errors import StartupError

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")
_Stamp = tuple[int, int, int]


class Reloaded(Generic[_Value]):
    """What some files say. ``value`` may be asked for from any thread, and never blocks.

    A new version that cannot be read changes nothing: what was read last stays, and one line in the
    log says why. Of an error that nobody thought of, that is its type: its text may hold a secret.
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], _Value]) -> None:
        """Reads the files; blocks. Raises StartupError, as ``read`` does, if that fails now."""
        self._what = what
        self._files = files
        self._read = read
        self._complaint = ""  # what was logged, once, of the version that is there now
        # Before they are read, so that what changes meanwhile is read the next time.
        self._stamps = self._stamped()
        self.value = read()

    def check(self) -> None:
        """Reads the files again if they have changed, or could not be read the last time.
        Blocks."""
        stamps = self._stamped()
        if stamps == self._stamps:
            self._complaint = ""
            return
        try:
            self.value = self._read()
        except Exception as error:  # whatever it is, the next version may be better
            complaint = error.message if isinstance(error, StartupError) else repr(type(error))
            if complaint != self._complaint:
                logger.error(
                    "the new %s cannot be used, the former stay: %s", self._what, complaint
                )
            self._complaint = complaint
            return
        self._stamps, self._complaint = stamps, ""
        logger.info("read the new %s from %s", self._what, ", ".join(map(str, self._files)))

    def _stamped(self) -> list[_Stamp | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> _Stamp | None:
    """Returns what differs after a change, in place or of the whole file, of what it says or of who
    may read it. A link's is that of the file where it leads, as Kubernetes switches them."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns
