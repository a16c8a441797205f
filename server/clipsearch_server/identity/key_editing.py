"""Keys added to their file and removed from it, with everything else in it left as it was."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from clipsearch_server.errors import StartupError
from clipsearch_server.identity.key_file import KeyEntry, KeyFile, parse, read_text


def add_key(file: Path, entry: KeyEntry) -> None:
    """Appends a key; a file that is not there is made, for its owner's eyes only.

    Raises StartupError if the file cannot be read or written, or is not one of keys.
    """

    def append(text: str) -> str:
        return f"{text.rstrip()}\n\n{_toml(entry)}".lstrip()

    _edit(file, append, lambda keys: (*keys, entry))


def revoke_keys(file: Path, name: str, hash_prefix: str = "") -> list[KeyEntry]:
    """Removes the keys of a name, or those of them whose hash begins so, and returns them.

    Raises StartupError if there are none, and as ``add_key``.
    """
    revoked: list[KeyEntry] = []

    def is_meant(key: KeyEntry) -> bool:
        return key.name == name and key.sha256.startswith(hash_prefix)

    def remove(text: str) -> str:
        revoked.extend(key for key in parse(text, file).keys if is_meant(key))
        if not revoked:
            raise StartupError(f"{file}: has no such key; `clipsearch-server keys list` shows them")
        return "".join(block for block in _blocks(text) if not _holds(block, revoked))

    _edit(file, remove, lambda keys: tuple(key for key in keys if not is_meant(key)))
    return revoked


def _edit(
    file: Path,
    change: Callable[[str], str],
    expected: Callable[[tuple[KeyEntry, ...]], tuple[KeyEntry, ...]],
) -> None:
    """Writes the changed text, if it says what is expected of it."""
    file = file.resolve()  # a link stays one
    try:
        with _alone(file.parent):
            text = read_text(file) if file.exists() else ""
            before, changed = parse(text, file), change(text)
            wanted = KeyFile(keys=expected(before.keys), certificates=before.certificates)
            if parse(changed, file) != wanted:
                raise StartupError(f"{file}: is not as this command writes it; edit it by hand")
            _replace(file, changed)
    except OSError as error:
        way_out = "; its owner or root can" if isinstance(error, PermissionError) else ""
        raise StartupError(f"{file}: cannot be written: {error.strerror}{way_out}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps two commands from each other: the second would write back what the first has read."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, text: str) -> None:
    """Puts a new file in the old one's place, with its owner and mode: at no time is there half of
    it, or one that the server may not read."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            if file.exists():
                old, made = file.stat(), os.fstat(new.fileno())
                os.fchmod(new.fileno(), old.st_mode & 0o777)
                if (old.st_uid, old.st_gid) != (made.st_uid, made.st_gid):  # for root alone to do
                    os.fchown(new.fileno(), old.st_uid, old.st_gid)
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def _blocks(text: str) -> list[str]:
    """Cuts the text before each line that begins a table, and before comments above one or at the
    end: they are not of the table before them."""
    return re.split(r"^(?=[ \t]*\[|(?:\s*#.*$)+\s*(?:\[|\Z))", text, flags=re.MULTILINE)


def _holds(block: str, keys: list[KeyEntry]) -> bool:
    """Whether a block is the table of one of these keys."""
    found = re.search(r"^\s*sha256\s*=\s*[\"']([0-9a-f]{64})[\"']", block, flags=re.MULTILINE)
    return found is not None and found[1] in {key.sha256 for key in keys}


def _toml(entry: KeyEntry) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in sorted(entry.scopes))
    lines = [
        "[[keys]]",
        f'name = "{entry.name}"',
        f'sha256 = "{entry.sha256}"',
        f"scopes = [{scopes}]",
    ]
    for field in ("created", "expires", "max_in_flight", "calls_per_second"):
        value: datetime | float | None = getattr(entry, field)
        if value is not None:
            lines.append(f"{field} = {value.isoformat() if isinstance(value, datetime) else value}")
    return "\n".join(lines) + "\n"
