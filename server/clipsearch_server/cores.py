"""How many cores there are to divide work among."""

from __future__ import annotations

import os
import sys


def cores() -> int:
    """Returns on how many cores this process may run at a time: those that its affinity allows, as
    `taskset` and cpusets set it. The quota of a container's CPU limit is another thing, and not
    seen."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
