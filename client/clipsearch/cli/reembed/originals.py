"""Where the pixels of a stored image are: no server keeps them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from clipsearch import Image
from clipsearch.cli.index.entry import Entry, File, Url, origin_of
from clipsearch.cli.sources import UnreadableError, check_file, explain, walk

# Metadata that data sets use for the name of the file.
_NAME_KEYS = ("name", "file_name", "filename")


class MissingOriginalError(UnreadableError):
    reason = "ORIGINAL_MISSING"


class ChangedOriginalError(UnreadableError):
    reason = "ORIGINAL_CHANGED"


class Originals:
    """Finds images: by the URL from which they were fetched, in the file that their uri names, or
    in the folder ``images_dir`` by the name of the file. A file counts only if it has the SHA-256
    that is stored."""

    def __init__(self, images_dir: Path | None, *, max_bytes: int) -> None:
        self._images_dir = images_dir
        self._max_bytes = max_bytes
        self._files: dict[str, list[Path]] | None = None  # of the folder, by name

    def read(self, image: Image) -> bytes | None:
        """Returns the image's content; None if the server is to fetch it from its URL.

        Raises UnreadableError if there is neither, or the content is another one now.
        """
        problem: UnreadableError | None = None
        for path in self._places(image):
            try:
                return self._read_file(path, image)
            except ChangedOriginalError as error:
                problem = error
            except UnreadableError as error:
                problem = problem or error
        if image.url:
            return None
        raise problem or MissingOriginalError(
            "was added by its content, and its uri names no file; --images-dir names a folder"
        )

    def _read_file(self, path: Path, image: Image) -> bytes:
        try:
            status = check_file(path, self._max_bytes)
            # Most files that are not the image have another size, and need not be read for that.
            content = path.read_bytes() if status.st_size == image.size_bytes else b""
        except UnreadableError as error:
            raise MissingOriginalError(f"{path}: {error}") from error
        except OSError as error:
            raise MissingOriginalError(f"{path}: {explain(error)}") from error
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise ChangedOriginalError(f"{path} holds another picture than the one that was stored")
        return content

    def _places(self, image: Image) -> Iterator[Path]:
        if not image.url and (named := _named_file(image)) is not None:
            yield named.path
        if self._images_dir is not None:
            if self._files is None:
                self._files = _files_by_name(self._images_dir)
            for name in _names(image):
                yield from self._files.get(name, ())


def entry_of(image: Image) -> Entry:
    """Returns what `clipsearch index` knows such an image as, for what it reports and writes."""
    origin = Url(image.url) if image.url else _named_file(image)
    return Entry(key=image.id, origin=origin, id=image.id, uri=image.uri, metadata=image.metadata)


def _named_file(image: Image) -> File | None:
    """The file that the uri names; one that is anything else is only a label."""
    origin = origin_of(image.uri, Path()) if image.uri else None
    return origin if isinstance(origin, File) else None


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = defaultdict(list)
    for found in walk(folder):
        if found.path is not None:
            files[found.path.name].append(found.path)
    return files


def _names(image: Image) -> Iterator[str]:
    """The names that the file may have, each once."""
    labels = [image.metadata.get(key) for key in _NAME_KEYS]
    names = [PurePosixPath(label).name for label in labels if isinstance(label, str)]
    for label in (image.uri, image.url):
        try:
            names.append(unquote(PurePosixPath(urlsplit(label).path).name))
        except ValueError:  # a uri is any label
            continue
    yield from dict.fromkeys(name for name in names if name)
