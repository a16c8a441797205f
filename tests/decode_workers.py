"""The processes in which images are decoded, as the kernel knows them. Linux only."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_COMMAND = b"clipsearch_server.decoding.process"


def fork_server_of(pid: int) -> int:
    """Returns the fork server that a process has started."""
    (found,) = _fork_servers(pid)
    return found


def workers_of(pid: int) -> list[int]:
    """Returns the workers that a process has at the moment."""
    return [worker for server in _fork_servers(pid) for worker in _children(server)]


def is_running(pid: int) -> bool:
    """Says whether a process exists, and is more than an exit code that nobody has asked for."""
    state = _stat(pid)[:1]
    return bool(state) and state[0] not in b"ZX"


def peak_mib(pid: int) -> float:
    """Returns the largest resident memory that a running process has had; 0 if it has ended."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"VmHWM"):
            return int(line.split()[1]) / 1024
    return 0


def cpu_ticks(pid: int) -> int:
    """Returns the processor time that a running process has used, in hundredths of a second."""
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12])


def _fork_servers(pid: int) -> list[int]:
    return [child for child in _children(pid) if _COMMAND in _read(child, "cmdline")]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_bytes().split())
    return children


def _stat(pid: int) -> list[bytes]:
    """From the state on: see proc_pid_stat(5)."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
