"""API keys: how they are made, what is kept of them, and whose a key is.

A key is 256 random bits, so what is kept is their plain SHA-256. Slow hashes (argon2, bcrypt) make
guessing dear where there are few secrets that people choose; nobody guesses 256 bits, and a hash
that is slow for us would let anybody who sends rubbish keep the server busy.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from clipsearch_server.callers import Caller

# By which people, and programs that look for leaked secrets, know one.
_PREFIX = "cs_"

# The subject of an entry for every certificate that the authority has signed.
ANY_SUBJECT = "*"


def new_key() -> str:
    """Returns a key that nobody has: 46 characters, to be shown once and kept nowhere."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Returns what is kept of a key: its SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KnownKey:
    """Whose a key is, and until when."""

    caller: Caller
    expires: datetime | None  # with its time zone

    def has_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """Whose a client's certificate is, by a name that it bears."""

    caller: Caller
    subject: str


class KeyRing:
    """Everybody who may call."""

    def __init__(
        self, keys: Mapping[str, KnownKey], certificates: Sequence[KnownCertificate]
    ) -> None:
        """Takes the keys by their hash, and the certificates in the order in which they count."""
        self._keys = keys
        self._certificates = certificates

    def __len__(self) -> int:
        return len(self._keys) + len(self._certificates)

    def find_key(self, key: str) -> KnownKey | None:
        """Returns whose key it is; None of a text that is nobody's, whatever it looks like.

        The time that this takes tells nothing of use. What is compared is a hash: whoever learnt
        how much of a stored one theirs shares could not work out a key from that, nor choose what
        their next guess hashes to.
        """
        return self._keys.get(hash_of(key))

    def find_certificate(self, identities: Sequence[str]) -> Caller | None:
        """Returns whose certificate it is that bears these names: of the first entry that has
        one of them."""
        for certificate in self._certificates:
            if certificate.subject == ANY_SUBJECT or certificate.subject in identities:
                return certificate.caller
        return None
