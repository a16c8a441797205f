"""The file of what has failed: a JSON line an image, with all that trying it again takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from clipsearch.cli.index.entry import Entry, Failure, FormatError, Member, from_json
from clipsearch.cli.index.journal import Record, naming
from clipsearch.cli.index.webdataset import DAMAGED, open_members

SUFFIX = ".clipsearch-failures.jsonl"

_HEAD_BYTES = 16
_MAX_MEMBERS = 10_000  # of a tar that are looked for at a time


class FailuresFile:
    """A file of failures, as a source of what to try again."""

    def __init__(self, file: Path) -> None:
        self.skipped = 0
        self._file = file

    def count(self) -> int:
        return sum(1 for _ in self.records())

    def __iter__(self) -> Iterator[Entry]:
        entries = (entry for entry, _ in self._lines())
        for tar, group in groupby(entries, key=_tar_of):
            if tar is None:
                yield from group
                continue
            wanted: dict[str, Entry] = {}
            for entry in group:
                assert isinstance(entry.origin, Member)
                wanted[entry.origin.name] = entry
                if len(wanted) == _MAX_MEMBERS:
                    yield from _found(tar, wanted)
                    wanted = {}
            yield from _found(tar, wanted)

    def records(self) -> Iterator[Record]:
        """Yields the failures. Raises FormatError if the file is of something else."""
        for _, record in self._lines():
            yield record

    def _lines(self) -> Iterator[tuple[Entry, Record]]:
        with self._file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    facts = json.loads(line)
                    entry = from_json(facts)
                    code, reason, message = (facts.pop(it) for it in ("code", "reason", "message"))
                    failure = Failure(code, reason, message, not facts.pop("retryable", True))
                except (ValueError, KeyError, AttributeError, TypeError) as error:
                    raise FormatError(f"line {number} is not of a failures file") from error
                facts.pop("source", None)
                if entry.origin is None and entry.problem is None:  # nothing that could be sent
                    entry = replace(entry, problem=failure)
                yield entry, Record(key=entry.key, stamp="", failure=failure, entry=facts)


def is_replaceable(file: Path) -> bool:
    """Whether nothing but a file of failures, if anything, is lost with a file. Raises OSError."""
    if not file.exists():
        return True
    if not file.is_file():  # a device, which could be replaced as well
        return False
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return not head or head.replace(b" ", b"").startswith(b'{"key":')


def write_failures(file: Path, source: str, failures: Iterable[Record]) -> int:
    """Writes failures, and returns how many there are; if there are none, there is no file.

    The file is replaced as a whole. Raises OSError.
    """
    part = file.with_name(f"{file.name}.part")
    count = 0
    try:
        with naming(part), part.open("w", encoding="ascii") as stream:
            for record in failures:
                if record.failure is not None:
                    stream.write(json.dumps(_facts(record, record.failure, source)) + "\n")
                    count += 1
            stream.flush()
            os.fsync(stream.fileno())
        if count:
            part.replace(file)
        else:
            file.unlink(missing_ok=True)
    finally:
        part.unlink(missing_ok=True)
    return count


def _facts(record: Record, failure: Failure, source: str) -> dict[str, object]:
    return {
        "key": record.key,
        "source": source,
        **(record.entry or {}),
        "code": failure.code,
        "reason": failure.reason,
        "message": failure.message,
        "retryable": not failure.is_final,
    }


def _tar_of(entry: Entry) -> Path | None:
    return entry.origin.tar if isinstance(entry.origin, Member) else None


def _found(tar: Path, wanted: dict[str, Entry]) -> Iterator[Entry]:
    """Yields the entries with their content, as far as the tar has it."""
    with suppress(*DAMAGED):  # what is not found is told as such
        for member, stream in open_members(tar):
            if (entry := wanted.pop(member.name, None)) is not None:
                content = stream.read()
                origin = Member(tar, member.name, member.size, member.mtime, content)
                yield replace(entry, origin=origin)
            if not wanted:
                return
    yield from wanted.values()
