"""The processes in which images are decoded, as the kernel knows them. Linux only."""

from __future__ import annotations

from pathlib import Path

_COMMAND = b"clipsearch_server.decoding.process"


def fork_server_of(pid: int) -> int:
    """Returns the fork server that a process has started."""
    (found,) = (child for child in _children(pid) if _COMMAND in _read(child, "cmdline"))
    return found


def workers_of(pid: int) -> list[int]:
    """Returns the workers of a process's fork server."""
    return _children(fork_server_of(pid))


def peak_mib(pid: int) -> float:
    """Returns the largest resident memory that a process has had."""
    (line,) = (line for line in _read(pid, "status").splitlines() if line.startswith(b"VmHWM"))
    return int(line.split()[1]) / 1024


def cpu_ticks(pid: int) -> int:
    """Returns the processor time that a process has used, in hundredths of a second."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12])


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_bytes().split())
    return children


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()
