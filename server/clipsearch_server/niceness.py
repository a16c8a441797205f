"""What of the operating system's time a thread or a process leaves to others."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

# Against threads that did not yield, a ninth part of a core that both want (sched(7)).
_NICENESS = 10

_AUTOGROUP = Path("/proc/self/autogroup")
_AUTOGROUP_ATTEMPTS = 10


def yield_to_others() -> None:
    """Has this thread, and those that it starts, take a core only as far as others leave it. On
    Linux; elsewhere a thread has no priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def yield_session_to_others() -> None:
    """Does so with the session that this process leads, all of whose threads do. Outside containers
    and services Linux divides the cores among sessions first, and niceness counts within one only:
    the feature autogroup, sched(7). Blocks for 100 ms if somebody else has just set one."""
    for _ in range(_AUTOGROUP_ATTEMPTS):
        try:
            _AUTOGROUP.write_text(str(_NICENESS))
        except BlockingIOError:  # it may be set ten times a second, by everybody together
            time.sleep(0.1)
        except OSError:  # a kernel without the feature
            return
        else:
            return
