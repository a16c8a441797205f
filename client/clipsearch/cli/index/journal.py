"""What has become of each image of a source so far: a file that outlives every crash."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from clipsearch import AddOutcome
from clipsearch.cli.index.entry import Failure
from clipsearch.cli.index.hash_table import HashTable, hash64

SUFFIX = ".clipsearch-journal"

_MAGIC = "clipsearch_journal"
_VERSION = 1
_BLOCK_BYTES = 2**16
_LINE_BYTES = 2**9  # of most lines


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Has an OSError name the file, which one of an open file does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


class JournalError(Exception):
    """The journal cannot be used; the message is one line: why, and the way out."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a journal is about; what is None is not known, as the ``collection`` and the ``model``
    (its fingerprint) without a server."""

    source: str | None
    server: str
    collection: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one image: stored under ``id`` with an ``outcome``, or failed.

    ``stamp`` is that of the entry as it was then, ``entry`` what sending a failed one again takes.
    """

    key: str
    stamp: str
    outcome: str = ""
    id: str = ""
    failure: Failure | None = None
    entry: Mapping[str, Any] | None = None

    def to_line(self) -> bytes:
        facts: dict[str, Any] = {"key": self.key, "stamp": self.stamp}
        if self.failure is None:
            facts |= {"outcome": self.outcome, "id": self.id}
        else:
            facts |= {"failure": asdict(self.failure), "entry": self.entry}
        return json.dumps(facts, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """Returns None for a line that no journal has: a crash of the machine may leave such."""
        try:
            facts = json.loads(line)
            failure = facts.pop("failure", None)
            record = cls(**facts, failure=failure and Failure(**failure))
            return record if isinstance(record.key, str) and isinstance(record.id, str) else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


class Journal:
    """A journal that is open and, unless it is only read, locked for this process.

    A line a record, appended and given to the operating system at once; the last line of a key
    counts. In memory are 64-bit hashes and the places of the lines, about 100 bytes an image.
    Threads may share it. Every method may raise OSError. Leaving it removes a file without records,
    which would only stand in the way of a run about something else.
    """

    def __init__(
        self, file: Path, binding: Binding, *, restart: bool = False, read_only: bool = False
    ) -> None:
        """Raises JournalError if the file is another program's, is about something else, or is in
        use; with ``restart``, only the first and the last."""
        self.file = file
        self._binding = binding
        self._lock = Lock()
        self._read_only = read_only
        self._start = self._end = 0  # of the lines behind the first
        self._fd = _open(file, read_only=read_only)
        try:
            if not read_only:
                _lock_file(self._fd, file)
            self._clear()
            if not self._check_head(restart=restart):
                self.start_anew()
            else:
                self._load()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_empty = not self._read_only and not len(self)
        self.close()
        if is_empty:
            with suppress(OSError):  # of a folder that is not ours to change
                self.file.unlink()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._places)

    def start_anew(self) -> None:
        """Forgets everything."""
        self._clear()
        if self._read_only or self._fd is None:
            return
        facts = {_MAGIC: _VERSION} | asdict(self._binding)
        os.ftruncate(self._fd, 0)
        self._append(json.dumps(facts).encode() + b"\n")
        self._start = self._end

    def recall(self, key: str) -> Record | None:
        """Returns the last record of a key."""
        with self._lock:
            place = self._places.get(hash64(key))
        record = None if place is None else self._read(place)
        return record if record is not None and record.key == key else None

    def write(self, record: Record) -> None:
        with self._lock:
            place = self._end
            self._append(record.to_line())
            self._note(record, place)

    def visit(self, key: str) -> bool:
        """Notes that the source has the key; returns whether that was new in this run."""
        number = hash64(key)
        with self._lock:
            if number in self._visited:
                return False
            self._visited[number] = 1
            return True

    def is_visited(self, key: str) -> bool:
        with self._lock:
            return hash64(key) in self._visited

    def owner(self, image_id: str) -> str | None:
        """Returns the key, seen in this run, under whose name an image is stored."""
        with self._lock:
            place = self._ids.get(hash64(image_id))
        record = None if place is None else self._read(place)
        if record is None or record.id != image_id or not self.is_visited(record.key):
            return None
        return record.key

    def failures(self) -> Iterator[Record]:
        """Yields what has failed and was not stored since, in the order of the failures."""
        for place in self._failed:
            record = self._read(place)
            if record is not None and self._places.get(hash64(record.key)) == place:
                yield record

    def sample_ids(self, count: int = 8) -> list[str]:
        """Returns ids of images that should be stored: the first, the last, some in between."""
        picked: dict[str, None] = {}
        for part in range(count if self._last_stored else 0):
            place = self._start + (self._last_stored - self._start) * part // (count - 1)
            for line, _ in self._lines(self._line_start(place)):
                record = Record.from_line(line)
                if record is not None and record.id:
                    picked[record.id] = None
                    break
        return list(picked)

    def _check_head(self, *, restart: bool) -> bool:
        """Returns whether there is a journal to go on with."""
        start = b"" if self._fd is None else os.pread(self._fd, _BLOCK_BYTES, 0)
        if not start:
            return False
        head, newline, _ = start.partition(b"\n")
        if not newline and f'{{"{_MAGIC}"'.encode().startswith(head[: len(_MAGIC) + 3]):
            return False  # a crash came between making the file and its first line
        try:
            facts = json.loads(head)
            version = facts.pop(_MAGIC)
            found = Binding(**facts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(
                f"{self.file} is not a journal of `clipsearch index`; --journal names another"
            ) from error
        if restart:
            return False
        if version != _VERSION:
            raise JournalError(
                f"{self.file} is a newer clipsearch's; use that one, or --restart to start anew"
            )
        self._check_binding(found)
        self._start = len(head) + 1
        return True

    def _check_binding(self, found: Binding) -> None:
        for what, theirs, ours in (
            ("source", found.source, self._binding.source),
            ("server", found.server, self._binding.server),
            ("collection", found.collection, self._binding.collection),
            ("model", found.model, self._binding.model),
        ):
            if None not in (theirs, ours) and theirs != ours:
                raise JournalError(
                    f"{self.file} is about the {what} {theirs}, and not {ours}; --journal names "
                    "another one, and --restart starts this one anew"
                )

    def _append(self, line: bytes) -> None:
        assert self._fd is not None
        with naming(self.file):
            while line:  # of a full disk's last bytes, the next attempt tells
                written = os.write(self._fd, line)
                self._end += written
                line = line[written:]

    def _load(self) -> None:
        self._end = self._start
        for line, place in self._lines(self._start):
            self._end = place + len(line) + 1
            if (record := Record.from_line(line)) is not None:
                self._note(record, place)
        if not self._read_only:
            assert self._fd is not None
            os.ftruncate(self._fd, self._end)  # the line that a crash tore

    def _lines(self, place: int, block_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[bytes, int]]:
        """Yields the whole lines from ``place`` on, and where each begins."""
        rest = b""
        while self._fd is not None:
            block = os.pread(self._fd, block_bytes, place + len(rest))
            if not block:
                return
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line, place
                place += len(line) + 1

    def _line_start(self, place: int) -> int:
        """Returns where the first line begins that does so at ``place`` or behind."""
        if place <= self._start or self._fd is None:
            return self._start
        rest = os.pread(self._fd, _BLOCK_BYTES, place - 1)
        return place + rest.find(b"\n")

    def _read(self, place: int) -> Record | None:
        line, _ = next(self._lines(place, block_bytes=_LINE_BYTES), (b"", 0))
        return Record.from_line(line)

    def _note(self, record: Record, place: int) -> None:
        self._places[hash64(record.key)] = place
        if record.failure is not None:
            self._failed.append(place)
        elif record.id:
            self._last_stored = place
            if record.outcome != AddOutcome.DUPLICATE:  # which is stored for another key
                self._ids[hash64(record.id)] = place

    def _clear(self) -> None:
        self._places = HashTable()  # of keys: the last line of each
        self._ids = HashTable()  # of images: the last line that stored it
        self._visited = HashTable()  # keys of this run
        self._failed = array("Q")  # places of the lines of failures
        self._last_stored = 0
        self._start = self._end = 0


def _open(file: Path, *, read_only: bool) -> int | None:
    if not read_only:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _lock_file(fd: int | None, file: Path) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    assert fd is not None
    try:
        with naming(file):  # not every file system has locks
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(f"another `clipsearch index` is at work with {file}") from error
