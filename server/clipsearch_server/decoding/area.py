"""Memory that the server shares with one worker: an encoded image goes in, its pixels come out, and
whether the worker has begun with it can be seen."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import sys
import tempfile
from typing import Self

import numpy as np
from numpy.typing import NDArray

# Copied at a time, in a tenth of a millisecond; then the event loop may turn to others.
_PIECE_BYTES = 2**18


class Area:
    """A mapping of an anonymous file: room for pixels of one shape, for the content, and a byte.

    Pages are taken when they are first written to.
    """

    def __init__(self, descriptor: int, pixels_shape: tuple[int, int, int], max_bytes: int) -> None:
        self.descriptor = descriptor  # owned by this area
        self._shape = pixels_shape
        self._content_start = math.prod(pixels_shape)
        self._begun_at = self._content_start + max_bytes
        self._memory = mmap.mmap(descriptor, self._begun_at + 1)

    @classmethod
    def create(cls, pixels_shape: tuple[int, int, int], max_bytes: int) -> Self:
        """Raises OSError if there is no memory or descriptor for it."""
        size = math.prod(pixels_shape) + max_bytes + 1
        return cls(_anonymous_file(size), pixels_shape, max_bytes)

    @property
    def has_begun(self) -> bool:
        """Whether what happens now is the image's doing, as the worker says."""
        return self._memory[self._begun_at] == 1

    @has_begun.setter
    def has_begun(self, value: bool) -> None:
        self._memory[self._begun_at] = value

    async def put_content(self, content: bytes) -> None:
        """Copies an encoded image in, a piece at a time."""
        # Imported only here: it is an eighth of what the fork server takes to start, and there, and
        # in its workers, is no event loop.
        import asyncio

        with memoryview(content) as view:
            for start in range(0, len(content), _PIECE_BYTES):
                if start:
                    await asyncio.sleep(0)
                piece = view[start : start + _PIECE_BYTES]
                position = self._content_start + start
                self._memory[position : position + len(piece)] = piece

    def content(self, size: int) -> bytes:
        """Returns what was put in."""
        return self._memory[self._content_start : self._content_start + size]

    def put_pixels(self, pixels: NDArray[np.uint8]) -> None:
        """Copies pixels in. Raises ValueError if they have another shape."""
        if pixels.shape != self._shape:
            raise ValueError(f"pixels of shape {pixels.shape} are not {self._shape}")
        self._memory[: self._content_start] = np.ascontiguousarray(pixels).data.cast("B")

    def pixels(self) -> NDArray[np.uint8]:
        """Returns a copy of the pixels."""
        held = self._memory[: self._content_start]
        return np.frombuffer(held, np.uint8).reshape(self._shape)

    def close(self) -> None:
        """Gives the memory back, once the other side has done so too."""
        self._memory.close()
        os.close(self.descriptor)


def _anonymous_file(size: int) -> int:
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("clipsearch-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        # A worker that shrank it would have the server die of SIGBUS.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
