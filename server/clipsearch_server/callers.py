"""Who calls, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clipsearch_server.errors import PermissionDenied


class Scope(StrEnum):
    """What a caller may be allowed to do. None includes another."""

    READ = "read"  # search, and read images and collections
    WRITE = "write"  # add, change and delete images
    ADMIN = "admin"  # create, change and delete collections and aliases


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of the server one caller may take. None: as much as there is."""

    max_in_flight: int | None = None  # calls under way at a time, of all kinds; 1 or more
    calls_per_second: float | None = None  # in the long run; above 0. At once: a second's worth

    @property
    def is_bounded(self) -> bool:
        return self.max_in_flight is not None or self.calls_per_second is not None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever shows one key or one certificate. The name is no secret: it is in the log.

    The quota is of the name: whoever has two keys of one name has one quota.
    """

    name: str
    scopes: frozenset[Scope]
    quota: Quota = Quota()

    def require(self, scope: Scope) -> None:
        """Raises PermissionDenied unless the caller has the scope."""
        if scope not in self.scopes:
            raise PermissionDenied(
                f"your key lacks the scope {scope}; ask this server's operator for one with it",
                scope=scope,
            )


# Whoever calls a server that asks for no keys.
ANYBODY = Caller(name="", scopes=frozenset(Scope))
