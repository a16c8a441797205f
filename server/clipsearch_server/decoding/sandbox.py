"""What a worker may do once it is confined: compute, in bounded memory, and nothing else.

On Linux; elsewhere a worker is bounded by the server's deadline alone. Each measure is one that a
process may take without any right, and that neither it nor what it starts can take back.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path

# <linux/prctl.h>
_PR_SET_NO_NEW_PRIVS = 38

# <linux/capability.h>: version 3 has two sets of the effective, permitted and inheritable ones.
_CAPABILITIES_VERSION = 0x2008_0522
_NO_CAPABILITIES = bytes(2 * 3 * 4)

# <linux/landlock.h>; the numbers of the calls are the same on every architecture.
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
# Version of the interface -> bits of handled_access_fs: all there are.
_FILE_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_ACCESS_BITS_SINCE_5 = 16
_BIND_AND_CONNECT_TCP = 0b11  # since 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # since 6


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def confine(*, memory_bytes: int) -> str:
    """Takes from this process all that decoding does not need, for good; returns what confines it.

    From here on it can open nothing, start nothing and reach nothing; it keeps the descriptors that
    it has, and can map ``memory_bytes`` more than it does now.
    """
    if sys.platform != "linux":
        return "none"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # When memory is short, the kernel takes a decoder before the server.
    with suppress(OSError):  # where /proc cannot be written to
        Path("/proc/self/oom_score_adj").write_text("1000")
    mapped_pages = int(Path("/proc/self/statm").read_text().split()[0])
    address_space = mapped_pages * resource.getpagesize() + memory_bytes
    version = _forbid_files_and_network(libc)  # which takes a descriptor for a moment
    for limit, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),  # no new ones: neither files nor sockets
        (resource.RLIMIT_NPROC, 0),  # which does not bind root
    ):
        _, hard = resource.getrlimit(limit)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))
    # With those of root, it could raise the limits again.
    libc.capset(struct.pack("=Ii", _CAPABILITIES_VERSION, 0), _NO_CAPABILITIES)
    return f"rlimits, landlock {version}" if version else "rlimits"


def _forbid_files_and_network(libc: ctypes.CDLL) -> int:
    """Returns the version of Landlock that does so, or 0 if this kernel has none."""
    version = int(libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    if version < 1:
        return 0
    ruleset = _Ruleset(
        (1 << _FILE_ACCESS_BITS.get(version, _FILE_ACCESS_BITS_SINCE_5)) - 1,
        _BIND_AND_CONNECT_TCP if version >= 4 else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )
    descriptor = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    if descriptor < 0:
        return 0
    restricted = libc.syscall(_RESTRICT_SELF, descriptor, 0)
    os.close(descriptor)
    return version if restricted == 0 else 0
