"""A collection's folder: what is in it, and which of its shards counts.

::

    <data_dir>/collections/<name>/
        collection.json                      what it is made of: card.py
        CURRENT                              the name of the shard folder that counts
        shard-000001/                        shard.py's; others are garbage
    <data_dir>/collections/.<name>.new/      a collection that is being made
    <data_dir>/collections/.<name>.deleted/  one that is being removed

A collection is made in a folder beside it and renamed into place, and renamed away before it is
removed, so a folder of its name that lacks anything is damaged, never new. CURRENT is replaced
atomically, and a shard folder is removed only after CURRENT durably names another: a crash leaves
the old shard or the new one, complete.

All functions block on the disk; call them from a thread.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from clipsearch_server.errors import StartupError
from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.indexes.edge.durable import replace_file, sync_folder

_CARD = "collection.json"
_CURRENT = "CURRENT"
_SHARD = "shard-{:06d}"
_STAGING = ".{}.new"
_DELETED = ".{}.deleted"
LEFTOVERS = (_STAGING.format("*"), _DELETED.format("*"))  # by a crash


class CollectionFolder:
    """The folder of one collection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staging = path.with_name(_STAGING.format(path.name))
        self._deleted = path.with_name(_DELETED.format(path.name))

    def exists(self) -> bool:
        return self.path.exists()

    def stage(self, card: CollectionCard) -> Path:
        """Prepares a new collection aside; returns where its first shard is to be created."""
        shutil.rmtree(self._staging, ignore_errors=True)  # of a server that died here
        self._staging.mkdir(parents=True)
        _write_card(self._staging / _CARD, card)
        replace_file(self._staging / _CURRENT, _SHARD.format(1) + "\n")
        return self._staging / _SHARD.format(1)

    def commit(self) -> None:
        """Puts the staged collection into place."""
        sync_folder(self._staging)
        self._staging.rename(self.path)
        sync_folder(self.path.parent)

    def remove_all(self) -> None:
        """Removes the collection. Raises OSError if it is still there; once it is renamed away,
        nothing brings it back."""
        shutil.rmtree(self._deleted, ignore_errors=True)
        self.path.rename(self._deleted)
        sync_folder(self.path.parent)
        shutil.rmtree(self._deleted, ignore_errors=True)

    def read_card(self) -> CollectionCard:
        """Raises StartupError if the card cannot be read."""
        file = self.path / _CARD
        try:
            return CollectionCard.from_values(json.loads(_read(file)))
        except ValueError as error:
            raise StartupError(f"{file}: {error}; {_WAY_OUT}") from error

    def write_card(self, card: CollectionCard) -> None:
        """Raises OSError."""
        _write_card(self.path / _CARD, card)

    def current(self) -> Path:
        """Returns the shard folder that counts. Raises StartupError if there is none."""
        file = self.path / _CURRENT
        name = _read(file).strip()
        folder = self.path / name
        if name not in {shard.name for shard in self._shards()}:
            raise StartupError(f"{file}: names {name!r}, which is no folder beside it; {_WAY_OUT}")
        return folder

    def unused(self) -> Path:
        """Returns where a shard can be created."""
        numbers = [int(shard.name.rpartition("-")[2]) for shard in self._shards()]
        return self.path / _SHARD.format(max(numbers, default=0) + 1)

    def switch_to(self, shard: Path) -> None:
        """Makes a complete shard the one that counts."""
        sync_folder(self.path)  # the shard's own name, before CURRENT says it
        replace_file(self.path / _CURRENT, shard.name + "\n")

    def remove(self, shard: Path) -> None:
        """Removes a shard unless it is the current one."""
        if shard != self.current():
            shutil.rmtree(shard, ignore_errors=True)

    def remove_garbage(self) -> None:
        """Removes every shard but the current one: left by a crash. No process may have one."""
        for shard in self._shards():
            self.remove(shard)

    def _shards(self) -> list[Path]:
        return [path for path in self.path.glob("shard-[0-9]*") if path.is_dir()]


_WAY_OUT = "put back a copy, or move the collection's folder away to start anew"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}; {_WAY_OUT}") from error


def _write_card(file: Path, card: CollectionCard) -> None:
    replace_file(file, json.dumps(card.to_values(), indent=2) + "\n")
