"""How the pages of a query are cut from one ranking, whatever is added or deleted between them.

What comes first depends a little on how many are asked for: the graph is then searched more widely.
So the ranking is made of searches for a few fixed numbers, the windows: what the first one finds,
then what the second one finds besides, then the third. Each is searched only for a page that
reaches into it.

A page starts after the hit that ended the one before. Should that have gone, it starts where the
hit would stand by its score. Where searches are exact, the ranking is in the order of the scores,
so no image that stays repeats or is missing.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from clipsearch_server.ports import ScoredId

WINDOWS = (128, 1024, 11_264)

# No page starts at this rank or above: searching deeper costs the index more than it gives a
# person.
MAX_RANK = 10_000

# A query that is embedded anew may differ in its last bits, and so may its scores.
_SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: with this hit, at this rank, from 0."""

    rank: int
    hit: ScoredId


@dataclass(frozen=True, slots=True)
class Page:
    """Hits in their order, and where the next page goes on (None: there are no more)."""

    hits: Sequence[ScoredId]
    next: Cursor | None


def cut_page(
    parts: Sequence[Sequence[ScoredId]],
    *,
    limit: int,
    after: Cursor | None,
    max_rank: int = MAX_RANK,
    is_by_score: bool = True,
    windows: Sequence[int] = WINDOWS,
) -> Page:
    """Cuts a page from a ranking in n >= 1 parts: what the windows found, or all of it in one.

    Each part is best first, of equal scores the lower id; unless the ranking is not by score at
    all, so that a page after a hit that has gone can only start at its rank.
    """
    ranking = [hit for part in parts for hit in part]
    start = 0
    if after is not None:
        found = _rank_of(after.hit, ranking)
        if found is not None:
            start = found + 1
        else:
            start = _place(parts, windows, after) if is_by_score else after.rank
    hits = ranking[start : start + limit]
    end = start + len(hits)
    has_more = hits and end < min(len(ranking), max_rank)
    return Page(hits, Cursor(end - 1, hits[-1]) if has_more else None)


class WindowedPage:
    """A page of a ranking, and the searches that it takes.

    As long as ``missing`` names windows, search for so many hits and ``add`` what is found, in
    their order; then `cut`.
    """

    def __init__(
        self, *, limit: int, after: Cursor | None, windows: Sequence[int] = WINDOWS
    ) -> None:
        self._windows = windows
        self._limit = limit
        self._after = after
        self._parts: list[list[ScoredId]] = []  # what each window found that none before it did
        self._found: set[UUID] = set()
        self._is_whole = False  # whether there is nothing left to find

    def missing(self) -> Sequence[int]:
        """Returns the windows to search; none if the page can be cut."""
        if self._is_whole:
            return ()
        searched = len(self._parts)
        start = 0 if self._after is None else self._after.rank + 1
        reached = 1 + sum(window <= start + self._limit for window in self._windows[:-1])
        if searched < reached:
            return self._windows[searched:reached]
        # What was added since may have pushed the page on.
        is_enough = self.cut().next is not None
        return () if is_enough else self._windows[searched : searched + 1]

    @property
    def first(self) -> int | None:
        """How many hits of a window are enough; None if all are needed. A page that starts at the
        top ends in the first window, and one hit more tells whether another follows."""
        enough = self._limit + 1
        return enough if self._after is None and enough <= self._windows[0] else None

    def add(self, window: int, found: Sequence[ScoredId]) -> None:
        self._parts.append([hit for hit in found if hit.id not in self._found])
        self._found.update(hit.id for hit in found)
        self._is_whole = len(found) < window

    def cut(self) -> Page:
        return cut_page(self._parts, limit=self._limit, after=self._after, windows=self._windows)


def _rank_of(wanted: ScoredId, ranking: Sequence[ScoredId]) -> int | None:
    for rank, hit in enumerate(ranking):
        if hit.id == wanted.id and abs(hit.score - wanted.score) <= _SCORE_TOLERANCE:
            return rank
    return None


def _place(parts: Sequence[Sequence[ScoredId]], windows: Sequence[int], after: Cursor) -> int:
    """Returns the rank of the first hit after one that has gone.

    Where a search is not exact, a later window finds images that belong before some that an earlier
    one found: the place is looked for in the part that held the hit. At the edge of a part, that
    held it when others were there, in the parts that follow or precede.
    """
    places = [bisect(part, _order(after.hit), key=_order) for part in parts]
    held = min(sum(window <= after.rank for window in windows), len(parts) - 1)
    while held > 0 and places[held] == 0:
        held -= 1
    while held < len(parts) - 1 and places[held] == len(parts[held]):
        if places[held + 1] == 0:
            break
        held += 1
    return sum(map(len, parts[:held])) + places[held]


def _order(hit: ScoredId) -> tuple[float, UUID]:
    return -hit.score, hit.id
