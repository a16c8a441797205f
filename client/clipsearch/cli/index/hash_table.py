"""A map of 64-bit numbers, for millions of keys: 16 bytes a slot, a tenth of a dict's."""

from __future__ import annotations

from array import array
from hashlib import blake2b

_FIRST_SLOTS = 2**10


def hash64(text: str) -> int:
    """Returns a number from 1 to 2**64 - 1 for a text, which may hold any code point."""
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class HashTable:
    """Hashes -> numbers, by open addressing. Hashes are as ``hash64`` makes them: never 0."""

    def __init__(self) -> None:
        self._clear(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return self._keys[self._slot(key)] == key

    def get(self, key: int) -> int | None:
        slot = self._slot(key)
        return self._values[slot] if self._keys[slot] == key else None

    def __setitem__(self, key: int, value: int) -> None:
        slot = self._slot(key)
        if self._keys[slot] != key:
            if 3 * self._count >= 2 * len(self._keys):
                self._grow()
                slot = self._slot(key)
            self._keys[slot] = key
            self._count += 1
        self._values[slot] = value

    def _slot(self, key: int) -> int:
        """The slot that holds the key, or else the empty one where it belongs."""
        keys, mask = self._keys, len(self._keys) - 1
        slot = key & mask
        while (there := keys[slot]) != key and there:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._clear(2 * len(keys))
        for key, value in zip(keys, values, strict=True):
            if key:
                self[key] = value

    def _clear(self, slots: int) -> None:
        self._keys = array("Q", bytes(8 * slots))
        self._values = array("Q", bytes(8 * slots))
        self._count = 0
