"""What a result says of where it was taken. No host's name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from measuring import machine

from clipsearch_server.cores import cores

# What decides how fast a CPU multiplies matrices, by the names of /proc/cpuinfo.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


def describe() -> dict[str, object]:
    """The CPU, its cores and flags, and the versions of what was measured."""
    cpu = _cpuinfo()
    flags = cpu.get("flags", "").split()
    return {
        **machine(),
        "name": name(cpu.get("model name", ""), cpu.get("cpu family", ""), cpu.get("model", "")),
        "cpu": cpu.get("model name", "unknown"),
        "family": cpu.get("cpu family", ""),
        "model": cpu.get("model", ""),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "lacks": [flag for flag in _FLAGS if flag not in flags],
    }


def name(cpu: str, family: str, model: str) -> str:
    """A short name of machines like this one, such as ``epyc-7b13-2-cores``.

    Virtual machines often hide which of a maker's CPUs they have; its family and model tell then.
    """
    words = re.sub(r"\(R\)|\(TM\)|@.*|\b\d+-Core\b|\b(AMD|Intel|CPU|Processor)\b", " ", cpu)
    short = "-".join(re.findall(r"[a-z0-9]+", words.lower())) or sys.platform
    if not re.search(r"\d", short) and family:
        short += f"-family-{family}-model-{model}"
    return f"{short}-{cores()}-core" + "s" * (cores() != 1)


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    lines = file.read_text().partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (it.partition(":") for it in lines)}
