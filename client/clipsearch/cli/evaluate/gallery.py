"""The images of a collection with their embeddings, and which of them a data set means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Self
from urllib.parse import unquote, urlsplit
from uuid import UUID

import numpy as np

from clipsearch import Image, SearchClient
from clipsearch.cli.evaluate.ranking import Flags, Floats, Places
from clipsearch.cli.index.entry import Entry, File, Url, is_uuid
from clipsearch.cli.output import display_name


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of a stored image."""

    id: str
    name: str
    uri: str  # by which it can be seen; may be empty


@dataclass(frozen=True, slots=True)
class Gallery:
    """m images, ordered by id."""

    pictures: tuple[Picture, ...]
    embeddings: Floats  # (m, d), of L2 norm 1
    original: Places  # (m,): the first image of the same content, itself if there is none before
    # By all that images go by: id, url, uri, file name, SHA-256 of the content.
    rows: dict[str, tuple[int, ...]]

    @classmethod
    def load(cls, client: SearchClient, collection: str, advance: Callable[[int], None]) -> Self:
        """Reads all of a collection; ``advance`` is told how many more images are read."""
        pictures: list[Picture] = []
        values = bytearray()
        original: list[int] = []
        first_of: dict[str, int] = {}
        rows: dict[str, list[int]] = defaultdict(list)
        for row, embedded in enumerate(client.export_images(collection=collection)):
            image = embedded.image
            pictures.append(Picture(image.id, display_name(image), image.uri or image.url))
            values += np.asarray(embedded.embedding, np.float32).tobytes()
            original.append(first_of.setdefault(image.sha256, row))
            for name in _names(image):
                rows[name].append(row)
            advance(1)
        shape = (len(pictures), -1) if pictures else (0, 0)
        embeddings = np.frombuffer(values, np.float32).reshape(shape)
        places = np.array(original, np.int64)
        return cls(tuple(pictures), embeddings, places, {k: tuple(v) for k, v in rows.items()})

    @property
    def is_original(self) -> Flags:
        is_own: Flags = self.original == np.arange(len(self.original))
        return is_own

    def row_of(self, id: str) -> int | None:
        """Returns the row of the image with this id, or of the first of the same content."""
        rows = self.rows.get(id)
        return int(self.original[rows[0]]) if rows else None

    def find(self, entry: Entry) -> int | None:
        """Returns the row of the image that a data set means, by its id, url, uri or file name, or
        by the content of its file.

        None if there is none, or if the only thing that fits is the name of several files of
        different content.
        """
        for name in _sought(entry):
            originals = {int(self.original[row]) for row in self.rows.get(name, ())}
            if len(originals) == 1:
                return originals.pop()
        return None


def _names(image: Image) -> set[str]:
    labels = {label for label in (image.url, image.uri) if label}
    return {
        image.id,
        image.sha256,
        *labels,
        *(file for label in labels if (file := _file_name(label))),
    }


def _sought(entry: Entry) -> Iterator[str]:
    for id in (entry.id, entry.key):
        if is_uuid(id):
            yield str(UUID(id))
    if isinstance(entry.origin, Url):
        yield entry.origin.url
    if isinstance(entry.origin, File):
        yield entry.origin.path.resolve().as_uri()
    if entry.uri:
        yield entry.uri
    yield entry.key
    yield _file_name(entry.key)
    if isinstance(entry.origin, File) and entry.origin.path.is_file():
        try:
            yield sha256(entry.origin.path.read_bytes()).hexdigest()
        except OSError:
            return  # then it is not there


def _file_name(label: str) -> str:
    try:
        return PurePosixPath(unquote(urlsplit(label).path)).name
    except ValueError:  # a uri is any label
        return ""
