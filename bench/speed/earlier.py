"""The results that are committed: of this suite before, and of the programs that it quotes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_RESULT = re.compile(r"\d{4}-\d\d-\d\d-(?P<machine>.+)\.json")


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier run."""

    name: str  # the date and the machine
    is_of_this_machine: bool
    ratios: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Million:
    """What bench/million.py found with one setting: QueryText with 1,000,000 images stored, to
    100,000."""

    date: str
    hnsw_ef: int
    ratios: tuple[float, ...]
    recall: float  # @10, of texts, with 1,000,000


def last_run(folder: Path, machine: str) -> Earlier | None:
    """The newest committed run on a machine of this name, or else on any; None without one, or
    outside a checkout."""
    name = newest(_git("ls-tree", "--name-only", "HEAD", "./", folder=folder).split(), machine)
    if name is None:
        return None
    ratios = json.loads(_git("show", f"HEAD:./{name}", folder=folder))["ratios"]
    stem = name.removesuffix(".json")
    return Earlier(stem, stem.endswith(f"-{machine}"), ratios)


def newest(names: Iterable[str], machine: str) -> str | None:
    """Of file names, that of the newest run on this machine, or else on any."""
    runs = [name for name in names if _RESULT.fullmatch(name)]
    of_this = [name for name in runs if name.endswith(f"-{machine}.json")]
    return max(of_this or runs, default=None)


def million(folder: Path) -> list[Million]:
    """Each setting that was measured, first the one that a server comes with."""
    try:
        found = json.loads(_git("show", "HEAD:./million.json", folder=folder))
    except ValueError:
        return []
    return [
        Million(
            found["date"],
            row["hnsw_ef"],
            tuple(it["text ratio"] for it in row["rounds"]),
            row["recall"]["images-1m"]["texts"],
        )
        for row in found["rows"]
    ]


def _git(*arguments: str, folder: Path) -> str:
    """What git says, which is nothing if it fails."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        return ""
