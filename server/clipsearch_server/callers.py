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
class Caller:
    """Whoever shows one key or one certificate. The name is no secret: it is in the log."""

    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises PermissionDenied unless the caller has the scope."""
        if scope not in self.scopes:
            raise PermissionDenied(
                f"your key lacks the scope {scope}; ask this server's operator for one with it",
                scope=scope,
            )


# Whoever calls a server that asks for no keys.
ANYBODY = Caller(name="", scopes=frozenset(Scope))
