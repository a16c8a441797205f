"""A folder of image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipsearch.cli.index.entry import Entry, File, unsent
from clipsearch.cli.sources import is_image_name, walk


class Folder:
    """The images in a folder and the folders in it; a key is the path from the folder."""

    def __init__(self, folder: Path) -> None:
        self.skipped = 0
        self._folder = folder

    def count(self) -> int:
        return sum(bool(it.problem or is_image_name(it.name)) for it in walk(self._folder))

    def __iter__(self) -> Iterator[Entry]:
        for found in walk(self._folder):
            if found.problem or found.path is None:
                yield Entry(key=found.name, problem=unsent("UNREADABLE", found.problem))
            elif is_image_name(found.name):
                key = found.path.relative_to(self._folder).as_posix()
                yield Entry(key=key, origin=File(found.path))
            else:
                self.skipped += 1
