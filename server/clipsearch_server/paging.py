"""How the pages of a query are cut from one ranking.

What comes first depends a little on how many are asked for: the graph is then searched more widely.
So a search is for one of few numbers, a window, the first of which costs no more than a page does.
"""

from __future__ import annotations

_WINDOWS = (128, 1024, 11_264)


def window(offset: int, limit: int) -> int:
    """Returns how many to search for, so that a page can be cut from what is found."""
    end = offset + limit
    return next((window for window in _WINDOWS if window >= end), end)
