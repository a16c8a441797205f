"""The collections of a data folder and their aliases, as they are on disk.

::

    <data_dir>/LOCK            held by the server and its index processes
    <data_dir>/aliases.json    which collection each alias stands for
    <data_dir>/collections/    a folder a collection: folder.py

aliases.json is replaced atomically. All functions block on the disk; call them from a thread.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from clipsearch_server.errors import StartupError
from clipsearch_server.indexes.edge.durable import replace_file, sync_folder
from clipsearch_server.indexes.edge.folder import LEFTOVERS, CollectionFolder

_log = logging.getLogger(__name__)

_ALIASES = "aliases.json"
_FORMAT_VERSION = 1


class DataDir:
    """A data folder whose lock is held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._collections = path / "collections"

    def folder(self, name: str) -> CollectionFolder:
        """Returns where a collection is or would be. Raises ValueError if that is no folder of its
        own below ours."""
        if name.startswith(".") or Path(name).name != name:
            raise ValueError(f"{name!r} is no name of a collection")
        return CollectionFolder(self._collections / name)

    def names(self) -> list[str]:
        """Returns the names of the collections, in order, damaged or not."""
        return sorted(
            path.name
            for path in self._collections.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )

    def prepare(self, default: str) -> dict[str, str]:
        """Removes what a crash left, and returns the aliases, with one for the default name.

        A collection of the default name itself, from before there were aliases, is renamed. The
        renaming comes before its alias: a crash between the two leaves what the next start mends,
        as does one before the default collection is made. Raises StartupError if a file cannot be
        read, or if a collection is in the way; OSError.
        """
        self._collections.mkdir(parents=True, exist_ok=True)
        for pattern in LEFTOVERS:
            for path in self._collections.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        written = self._read_aliases()
        first = f"{default}-1"
        if self.folder(default).exists():
            self._make_way(default, first, is_alias=default in written)
        aliases = {
            alias: first if collection == default else collection
            for alias, collection in {default: first, **written}.items()
        }
        if aliases != written:
            self.write_aliases(aliases)
        return aliases

    def write_aliases(self, aliases: Mapping[str, str]) -> None:
        """Replaces the aliases; returns when that is durable. Raises OSError."""
        values = {"format_version": _FORMAT_VERSION, "aliases": dict(sorted(aliases.items()))}
        replace_file(self._path / _ALIASES, json.dumps(values, indent=2) + "\n")

    def _make_way(self, default: str, first: str, *, is_alias: bool) -> None:
        old, new = self.folder(default), self.folder(first)
        if is_alias or new.exists():
            raise StartupError(
                f"{old.path}: is named like the alias of the default collection, as if an older "
                "server had been started here; move the folder away, or start with another "
                "collection or another data_dir"
            )
        old.path.rename(new.path)
        sync_folder(self._collections)
        _log.info("renamed collection %s to %s, for its name to be an alias", default, first)

    def _read_aliases(self) -> dict[str, str]:
        file = self._path / _ALIASES
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values["format_version"] != _FORMAT_VERSION:
                raise ValueError(f"has format {values['format_version']}")
            return {str(alias): str(name) for alias, name in values["aliases"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StartupError(
                f"{file}: cannot be understood ({error}); put back a copy, or mend it"
            ) from error
