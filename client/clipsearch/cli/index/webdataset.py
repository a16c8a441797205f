"""Webdataset tars: files with one name up to its first dot are one sample."""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipsearch.cli.index.entry import MAX_METADATA_BYTES, Entry, Member, bad_entry
from clipsearch.cli.sources import is_image_name, printable

SUFFIXES = (".tar", ".tar.gz", ".tgz")

# What reading a tar that is damaged may raise.
DAMAGED = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError)

_GZIP_MAGIC = b"\x1f\x8b"

# A sample's images are held until its last file has been read. Beyond this it goes without.
_MAX_HELD_BYTES = 2**26
# What no server takes is not read; the server's own limit is checked later.
_MAX_MEMBER_BYTES = 2**28


class Webdataset:
    """The images in a tar, or in the tars of a folder, read from the first to the last. A key is
    the name in the tar, after the tar's own if there are several.

    The .json beside an image is its metadata, the .txt its `caption`, the .cls its `class`.
    """

    def __init__(self, path: Path) -> None:
        self.skipped = 0
        self._is_folder = path.is_dir()
        self._tars = tars_in(path) if self._is_folder else [path]

    def count(self) -> None:
        return None

    def __iter__(self) -> Iterator[Entry]:
        for tar in self._tars:
            prefix = f"{tar.name}/" if self._is_folder else ""
            try:
                yield from self._entries(tar, prefix)
            except DAMAGED as error:
                yield bad_entry(tar.name, f"{printable(tar.name)} is damaged: {error}")

    def _entries(self, tar: Path, prefix: str) -> Iterator[Entry]:
        sample = _Sample("")
        for member, stream in open_members(tar):
            name = sample_name(member.name)
            if name != sample.name or sample.held_bytes > _MAX_HELD_BYTES:
                yield from sample.entries()
                sample = _Sample(name)
            if is_image_name(member.name):
                content = stream.read() if member.size <= _MAX_MEMBER_BYTES else None
                origin = Member(tar, member.name, member.size, member.mtime, content)
                sample.add(prefix + member.name, origin)
            elif not sample.describe(member, stream):
                self.skipped += 1
        yield from sample.entries()


@dataclass(slots=True)
class _Sample:
    """What has been read of a sample."""

    name: str
    held_bytes: int = 0
    images: list[Entry] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def add(self, key: str, origin: Member) -> None:
        self.images.append(Entry(key=key, origin=origin))
        self.held_bytes += len(origin.content or b"")

    def describe(self, member: tarfile.TarInfo, stream: Any) -> bool:
        """Reads what describes the sample; returns False if the file is something else."""
        suffix = member.name.rpartition(".")[2].lower()
        if suffix not in {"json", "txt", "cls"}:
            return False
        if member.size > MAX_METADATA_BYTES:
            self.problem = f"{printable(member.name)} is too large for metadata"
            return True
        try:
            text = stream.read().decode()
            match suffix:
                case "json":
                    value = json.loads(text)
                    self.metadata |= value if isinstance(value, dict) else {"json": value}
                case "txt":
                    self.metadata["caption"] = text.strip()
                case "cls":
                    text = text.strip()
                    self.metadata["class"] = int(text) if text.isdecimal() else text
        except (ValueError, RecursionError):
            self.problem = f"{printable(member.name)} cannot be read as {suffix}"
        return True

    def entries(self) -> Iterator[Entry]:
        for image in self.images:
            if self.problem:
                yield bad_entry(image.key, self.problem)
            else:
                yield replace(image, metadata=self.metadata).checked()


def open_members(tar: Path) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    """Yields the files in a tar with their content, to be read before the next is asked for.

    Raises one of ``DAMAGED`` if it cannot be read.
    """
    archive: Any  # whose list of members is not public
    with tar.open("rb") as raw:
        is_gzip = raw.read(2) == _GZIP_MAGIC
    # tarfile could tell by itself, but chokes on what is damaged in more ways than gzip does.
    with (
        gzip.open(tar) if is_gzip else tar.open("rb") as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members.clear()  # which it would keep, all of them
            if member.isreg() and (content := archive.extractfile(member)) is not None:
                yield member, content


def sample_name(name: str) -> str:
    """Returns the name up to the first dot of its last part."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def tars_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_tar(path))
