"""The file of who may call (TOML), as the server reads it and as its operators may write it.

    [[keys]]
    name = "web-shop"           # in the log, and whose quota it is
    sha256 = "9f86d0..."        # of the key
    scopes = ["read"]           # read, write, admin
    created = 2026-11-26T09:00:00Z
    expires = 2027-02-24T09:00:00Z
    max_in_flight = 8
    calls_per_second = 20.0

    [[certificates]]            # of clients, with tls.client_ca_file
    name = "indexer"
    subject = "indexer.internal"
    scopes = ["read", "write"]

What is left out is not limited. Two keys may have one name, while one takes over from the other.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from clipsearch_server.callers import Caller, Quota, Scope
from clipsearch_server.errors import StartupError
from clipsearch_server.identity.api_keys import KeyRing, KnownCertificate, KnownKey

# It is in log lines, so it holds nothing that could be taken for the rest of one.
CALLER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=rf"^{CALLER_NAME.pattern}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    max_in_flight: Annotated[int | None, Field(ge=1)] = None
    calls_per_second: Annotated[float | None, Field(gt=0)] = None

    @property
    def caller(self) -> Caller:
        quota = Quota(max_in_flight=self.max_in_flight, calls_per_second=self.calls_per_second)
        return Caller(name=self.name, scopes=self.scopes, quota=quota)


class KeyEntry(_Entry):
    """One of ``[[keys]]``."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None


class CertificateEntry(_Entry):
    """One of ``[[certificates]]``."""

    subject: Annotated[str, Field(min_length=1)]


class KeyFile(BaseModel):
    """What the file says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()
    certificates: tuple[CertificateEntry, ...] = ()

    @property
    def ring(self) -> KeyRing:
        return KeyRing(
            {key.sha256: KnownKey(key.caller, key.expires) for key in self.keys},
            [KnownCertificate(each.caller, each.subject) for each in self.certificates],
        )


def parse(text: str, file: Path) -> KeyFile:
    """Reads the text of ``file``. Raises StartupError, which shows no value: where a hash belongs,
    somebody may have put the key."""
    try:
        toml = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # more than a TOMLDecodeError may come
        raise StartupError(f"{file}: is not TOML: {error}") from error
    try:
        content = KeyFile.model_validate(toml)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        raise StartupError(f"{file}: {path}: {problem['msg']}; see docs/security.md") from None
    hashes = [key.sha256 for key in content.keys]
    if len(set(hashes)) < len(hashes):
        raise StartupError(f"{file}: one key is listed twice; remove one of the entries")
    return content


def read_text(file: Path) -> str:
    """Returns the file's text. Raises StartupError if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}; it is the file of API keys") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{file}: is not TOML: it is not UTF-8") from error


def read_key_ring(file: Path) -> KeyRing:
    """Returns who may call. Blocks. Raises StartupError naming the file and what is wrong."""
    return parse(read_text(file), file).ring
