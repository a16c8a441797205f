"""How the pages of a query are cut from one ranking.

What comes first depends a little on how many are asked for: the graph is then searched more widely,
and equal scores come in another order. So a search is for one of few numbers, a window, the first
of which costs no more than a page does; and what it finds is put into one order, of which a page is
a piece. Across two windows, a hit may still repeat or be missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

_WINDOWS = (128, 1024, 11_264)


def window(offset: int, limit: int) -> int:
    """Returns how many to search for, so that a page can be cut from what is found."""
    end = offset + limit
    return next((window for window in _WINDOWS if window >= end), end)


def cut(
    scored: Iterable[tuple[float, UUID]], *, offset: int, limit: int
) -> list[tuple[float, UUID]]:
    """Returns the scores and ids at ranks offset to offset + limit: best first, then by id."""
    ranking = sorted((-score, image_id) for score, image_id in scored)
    return [(-score, image_id) for score, image_id in ranking[offset : offset + limit]]
