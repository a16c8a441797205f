"""Tells a slow neighbour from a server that was itself late: stopped, moved, or starved."""

from __future__ import annotations

# An event loop that is only busy comes sooner than so long after the time that was set.
_LOOP_LAG_S = 0.2


def we_were_late(waited_s: float, limit_s: float) -> bool:
    """Whether a wait for at most ``limit_s`` took so much longer that it says something of this
    process, and nothing of whom it waited for: their answer may lie there, not yet read."""
    return waited_s > limit_s + _LOOP_LAG_S
