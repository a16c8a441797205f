"""One image of a source: where it is, what is stored with it, and what was wrong with it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias
from urllib.parse import unquote_to_bytes
from uuid import NAMESPACE_URL, UUID, uuid5

from clipsearch import Metadata, SearchError
from clipsearch.cli.output import human_bytes
from clipsearch.cli.sources import URL, UnreadableError, check_file, check_size, explain, printable

# The server sets the limits on metadata and says so to each image. These keep what is beyond them
# by far from being sent: a message that is too large or too deep would end the whole stream.
MAX_METADATA_BYTES = 2**18
_MAX_METADATA_DEPTH = 16


# What lies in the image or the entry itself: only another source would fare better. Everything else
# can be mended outside of it, and is tried again: the server's policy (SOURCE_NOT_ALLOWED,
# URL_PORT_NOT_ALLOWED, FETCH_DISABLED) or limit (IMAGE_TOO_LARGE), the URL's host (SOURCE_*), the
# headers for it, the file (UNREADABLE), another row (ID_REPEATED).
_FINAL_REASONS = frozenset(
    {
        "ENTRY_INVALID",  # this command's own: no message could carry it
        "IMAGE_DECODE_FAILED",
        "IMAGE_FORMAT_UNSUPPORTED",
        "IMAGE_TOO_COMPLEX",
        "IMAGE_UNDECODABLE",
        "INVALID_FIELD",  # id, uri, metadata
        "URL_MALFORMED",
        "URL_SCHEME_NOT_ALLOWED",
        "URL_USERINFO",
    }
)
# Fields that the command line fills, and not the source.
_COMMAND_FIELDS = ("fetch_headers", "collection")


class FormatError(ValueError):
    """The source is of no kind that can be indexed; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image is not stored.

    ``code`` is the gRPC status code, or CLIENT for what was never sent. ``is_final`` says that
    sending the same again cannot help.
    """

    code: str
    reason: str
    message: str
    is_final: bool = False

    @classmethod
    def of(cls, error: SearchError) -> Self:
        is_final = error.reason in _FINAL_REASONS and not any(
            it.field.startswith(_COMMAND_FIELDS) for it in error.field_violations
        )
        return cls(error.code.name, error.reason, str(error), is_final)


def unsent(reason: str, message: str) -> Failure:
    """Returns the failure of an image that cannot be sent as it is."""
    return Failure("CLIENT", reason, message, reason in _FINAL_REASONS)


@dataclass(frozen=True, slots=True)
class Url:
    """An image that the server fetches."""

    url: str


@dataclass(frozen=True, slots=True)
class File:
    path: Path


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar; its content is there only while the tar is being read."""

    tar: Path
    name: str
    size: int
    mtime: float
    content: bytes | None = field(default=None, compare=False, repr=False)


Origin: TypeAlias = Url | File | Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of a source.

    ``key`` names it within the source and stays the same from run to run. ``origin`` is None if the
    source does not tell where the image is, and ``problem`` says why it cannot be sent.
    """

    key: str
    origin: Origin | None = None
    id: str = ""
    uri: str = ""
    metadata: Metadata = field(default_factory=dict)
    problem: Failure | None = None

    def checked(self) -> Entry:
        """Returns the entry, with a problem if no message could carry it."""
        if self.problem is None and (why := _why_not(self)):
            return bad_entry(self.key, why)
        return self


class EntrySource(Protocol):
    """Where entries come from. Iterating raises OSError if the source itself cannot be read; what
    is wrong with a single image is that entry's problem."""

    skipped: int  # what was passed over, being no image

    def count(self) -> int | None:
        """About how many entries there are; None if only reading all of it would tell."""
        ...

    def __iter__(self) -> Iterator[Entry]: ...


def bad_entry(key: str, message: str) -> Entry:
    """Returns what a source yields for what it cannot read."""
    return Entry(key=key, problem=unsent("ENTRY_INVALID", message))


def origin_of(text: str, folder: Path) -> Origin:
    """Reads a URL, or a path that is relative to ``folder``."""
    if text[:8].lower() == "file:///":
        return File(Path(os.fsdecode(unquote_to_bytes(text[7:]))))
    return Url(text) if URL.match(text) else File(folder / text)


def stamp_of(entry: Entry, max_bytes: int) -> str:
    """Returns what changes when the image, or what is stored with it, changes.

    Of a file that is its size and time. Raises UnreadableError as ``check_file`` does.
    """
    match entry.origin:
        case File(path):
            status = check_file(path, max_bytes)
            version: tuple[object, ...] = (status.st_size, status.st_mtime_ns)
        case Member(size=size, mtime=mtime):
            check_size(size, max_bytes)
            version = (size, mtime)
        case _:
            version = ()
    facts = [*version, entry.id, entry.uri, entry.metadata]
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


def content_of(entry: Entry) -> bytes | None:
    """Returns the image's bytes; None if the server is to fetch them. Raises UnreadableError."""
    match entry.origin:
        case File(path):
            try:
                return path.read_bytes()
            except OSError as error:
                raise UnreadableError(explain(error)) from error
        case Member(content=content, name=name):
            if content is None:
                raise UnreadableError(f"the tar has no file {printable(name)} any more")
            return content
        case _:
            return None


def slim(entry: Entry) -> Entry:
    """Returns the entry without the content of its file."""
    if isinstance(entry.origin, Member):
        return replace(entry, origin=replace(entry.origin, content=None))
    return entry


def head_of(entry: Entry, size: int) -> bytes | None:
    """Returns the first bytes of the image, as ``content_of``."""
    if isinstance(entry.origin, File):
        try:
            with entry.origin.path.open("rb") as stream:
                return stream.read(size)
        except OSError as error:
            raise UnreadableError(explain(error)) from error
    content = content_of(entry)
    return None if content is None else content[:size]


def uri_of(entry: Entry) -> str:
    """Returns the label to store: the entry's own, or the place of its file."""
    match entry.origin:
        case File(path) if not entry.uri:
            return path.resolve().as_uri()
        case Member(tar=tar, name=name) if not entry.uri:
            return (tar.resolve() / name.lstrip("/")).as_uri()
        case _:
            return entry.uri


def stored_id(entry: Entry, content: bytes | None) -> str:
    """Returns the id that the image will have, by the contract's rule for images without one."""
    if entry.id:
        return str(UUID(entry.id))
    if content is not None:
        return str(uuid5(NAMESPACE_URL, f"sha256:{sha256(content).hexdigest()}"))
    assert isinstance(entry.origin, Url)
    return str(uuid5(NAMESPACE_URL, entry.origin.url))


def is_uuid(text: str) -> bool:
    try:
        return len(text) in (32, 36) and bool(UUID(text))
    except ValueError:
        return False


def to_json(entry: Entry) -> dict[str, Any]:
    """Returns all that is needed to send the entry another time; paths are absolute."""
    facts: dict[str, Any] = {"key": entry.key}
    match entry.origin:
        case Url(url):
            facts["url"] = url
        case File(path):
            facts["path"] = str(path.absolute())
        case Member(tar=tar, name=name):
            facts |= {"tar": str(tar.absolute()), "member": name}
    optional = {"id": entry.id, "uri": entry.uri, "metadata": entry.metadata}
    return facts | {name: value for name, value in optional.items() if value}


def from_json(facts: Mapping[str, Any]) -> Entry:
    """Reads what ``to_json`` wrote; of a broken entry that is its key alone, without the problem.

    Raises ValueError if it is something else.
    """
    key, metadata = facts.get("key"), facts.get("metadata", {})
    texts = {name: facts.get(name, "") for name in ("url", "path", "tar", "member", "id", "uri")}
    if not (
        isinstance(key, str)
        and isinstance(metadata, dict)
        and all(isinstance(text, str) for text in texts.values())
    ):
        raise ValueError("is no line of a failures file")
    origin: Origin | None = None
    if texts["url"]:
        origin = Url(texts["url"])
    elif texts["path"]:
        origin = File(Path(texts["path"]))
    elif texts["tar"]:
        origin = Member(Path(texts["tar"]), texts["member"], 0, 0)
    return Entry(
        key=key,
        origin=origin,
        id=texts["id"],
        uri=texts["uri"],
        metadata=metadata,
    ).checked()


def _why_not(entry: Entry) -> str:
    """Returns why no message could carry the entry; empty if one can."""
    if entry.id and not is_uuid(entry.id):
        return f"the id {entry.id[:40]!r} is not a UUID"
    url = entry.origin.url if isinstance(entry.origin, Url) else ""
    if max(len(url), len(entry.uri)) > MAX_METADATA_BYTES:
        return "the URL is too long"
    try:
        if not _is_sendable(entry.metadata, 0):
            return (
                "the metadata holds a number that is none, or is more than "
                f"{_MAX_METADATA_DEPTH} levels deep"
            )
        size = len(json.dumps(entry.metadata, ensure_ascii=False).encode())
        f"{url}{entry.uri}".encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if size > MAX_METADATA_BYTES:
        return f"has {human_bytes(size)} of metadata"
    return ""


def _is_sendable(value: Any, depth: int) -> bool:
    if depth > _MAX_METADATA_DEPTH:
        return False
    if isinstance(value, dict):
        return all(_is_sendable(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return all(_is_sendable(item, depth + 1) for item in value)
    if isinstance(value, int | float):
        try:
            return math.isfinite(float(value))
        except OverflowError:
            return False
    return True
