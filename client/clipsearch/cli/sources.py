"""What the user named -> the images to add."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipsearch import AddItem, Metadata
from clipsearch.cli.output import human_bytes

# By these a folder's images are told from its other files; a file named itself is always tried.
IMAGE_SUFFIXES = frozenset({".gif", ".jpeg", ".jpg", ".png", ".webp"})

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class UnreadableError(Exception):
    """A source that cannot be sent; the message says why."""

    reason = "UNREADABLE"


class TooLargeError(UnreadableError):
    reason = "IMAGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Source:
    """An image to add, by ``url`` or by ``path``; ``problem`` says why it cannot be."""

    name: str
    url: str | None = None
    path: Path | None = None
    problem: str = ""

    def read(self, item_id: str, metadata: Metadata, max_bytes: int) -> AddItem:
        """Returns the image to send: a URL, or a file's content labelled with its file:// URI.

        Raises UnreadableError if there is no such file, or it has more than ``max_bytes``: gRPC
        would end the whole stream for one message too large.
        """
        if self.problem:
            raise UnreadableError(self.problem)
        if self.path is None:
            return AddItem(item_id=item_id, url=self.url, metadata=metadata)
        check_file(self.path, max_bytes)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UnreadableError(explain(error)) from error
        check_size(len(content), max_bytes)  # it may have grown since
        uri = self.path.resolve().as_uri()
        return AddItem(item_id=item_id, content=content, uri=uri, metadata=metadata)


def check_file(path: Path, max_bytes: int) -> os.stat_result:
    """Returns the status of a file that can be sent.

    Raises UnreadableError if there is no such file, or it has more than ``max_bytes``.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UnreadableError(explain(error)) from error
    if not stat.S_ISREG(status.st_mode):  # to read a pipe could take for ever
        raise UnreadableError("is not a file")
    check_size(status.st_size, max_bytes)
    return status


def check_size(size: int, max_bytes: int) -> None:
    """Raises TooLargeError if ``size`` is more than the server takes."""
    if size > max_bytes:
        raise TooLargeError(f"has {human_bytes(size)}; the server takes {human_bytes(max_bytes)}")


@dataclass(frozen=True, slots=True)
class Sources:
    """The images found, and how many files in folders were passed over, being no images."""

    found: tuple[Source, ...]
    skipped: int


def find_sources(arguments: Iterable[str]) -> Sources:
    """Finds the images that URLs, files and folders name; folders are searched to the bottom, in
    order of name, and links to other folders passed over. What cannot be found becomes a source
    with a problem."""
    found: list[Source] = []
    skipped = 0
    for argument in arguments:
        name = printable(argument)
        if URL.match(argument):
            found.append(Source(name, url=name))
            continue
        try:
            mode = os.stat(argument).st_mode  # of "", there is none: Path("") would be the folder
        except (OSError, ValueError) as error:
            found.append(Source(name or "''", problem=explain(error)))
            continue
        if not stat.S_ISDIR(mode):
            found.append(Source(name, path=Path(argument)))
            continue
        for source in walk(Path(argument)):
            if source.problem or is_image_name(source.name):
                found.append(source)
            else:
                skipped += 1
    return Sources(tuple(found), skipped)


def is_image_name(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def walk(folder: Path) -> Iterator[Source]:
    """Yields the files of a folder, to the bottom and in order of name, and what cannot be read."""
    problems: list[Source] = []

    def note(error: OSError) -> None:
        problems.append(Source(printable(str(error.filename)), problem=explain(error)))

    for parent, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for file in sorted([*files, *links]):
            path = Path(parent, file)
            yield Source(printable(str(path)), path=path)
    yield from problems


def explain(error: Exception) -> str:
    """Returns why a file cannot be read, for a person."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return str(getattr(error, "strerror", None) or error).lower()


def printable(name: str) -> str:
    """A file's name may hold bytes that are no text, which neither a terminal nor gRPC takes."""
    return os.fsencode(name).decode(errors="backslashreplace")
