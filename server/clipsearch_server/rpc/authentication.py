"""Who calls: the key that a call brings, or the certificate of its connection."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from clipsearch_server.callers import Caller
from clipsearch_server.errors import Unauthenticated
from clipsearch_server.identity.api_keys import KeyRing
from clipsearch_server.rpc.options import Context

logger = logging.getLogger(__name__)

_MISSING = "this server asks for an API key: send it as `authorization: Bearer KEY`"
# One for every key that does not open, so that nobody learns how near a guess was.
_INVALID = (
    "the API key is not valid: mistyped, expired or revoked; ask this server's operator for another"
)


class Authenticator:
    """Tells callers from strangers.

    A key in the call's metadata decides; without one, the certificate of the connection does. What
    a stranger sent is neither kept nor logged: ``log_refused`` says how many there were.
    """

    def __init__(
        self,
        ring: Callable[[], KeyRing],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Takes how to get at the newest keys, which are asked for at every call."""
        self._ring = ring
        self._now = now
        self._refused: Counter[str] = Counter()

    def __call__(self, context: Context) -> Caller:
        """Returns who calls. Raises Unauthenticated."""
        given = [
            value
            for key, value in context.invocation_metadata() or ()
            if key == "authorization" and isinstance(value, str)
        ]
        if not given:
            return self._by_certificate(context)
        scheme, _, key = given[0].partition(" ")
        known = self._ring().find_key(key.strip())
        if known is None or len(given) > 1 or scheme.lower() != "bearer":
            self._refused["with an unknown key"] += 1
            raise Unauthenticated(_INVALID)
        if known.has_expired(self._now()):
            self._refused[f"with an expired key of {known.caller.name}"] += 1
            raise Unauthenticated(_INVALID)
        return known.caller

    def log_refused(self) -> bool:
        """Logs how many strangers called since it last did, a line however many there were.
        Returns whether there were any."""
        if not self._refused:
            return False
        refused, self._refused = self._refused, Counter()
        reasons = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
        logger.warning("refused calls of strangers: %s", reasons)
        return True

    def _by_certificate(self, context: Context) -> Caller:
        # Of the certificate's alternative names; of its common name, if it has none.
        names = [name.decode(errors="replace") for name in context.peer_identities() or ()]
        caller = self._ring().find_certificate(names) if names else None
        if caller is None:
            reason = "with an unknown certificate" if names else "without a key"
            self._refused[reason] += 1
            raise Unauthenticated(_MISSING)
        return caller
