"""Whether something is faster or slower than it was, by the spread of two runs' rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

# What a median may move without a cause: machines are not the same from day to day.
TOLERANCE = 0.05


class Verdict(StrEnum):
    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio then and now, as medians of their rounds."""

    key: str
    then: float
    now: float
    verdict: Verdict


def compare(
    then: Mapping[str, Sequence[float]],
    now: Mapping[str, Sequence[float]],
    *,
    more_is_faster: Mapping[str, bool],
) -> list[Change]:
    """Compares the ratios, by key, that both runs have, each with its rounds.

    They are the same unless each median lies outside the other run's rounds, and more than
    TOLERANCE away.
    """
    changes = []
    for key in now:
        if key not in then or key not in more_is_faster:
            continue
        before, after = median(then[key]), median(now[key])
        if (
            _is_within(after, then[key])
            or _is_within(before, now[key])
            or abs(after - before) <= TOLERANCE * abs(before)
        ):
            verdict = Verdict.SAME
        elif (after > before) == more_is_faster[key]:
            verdict = Verdict.FASTER
        else:
            verdict = Verdict.SLOWER
        changes.append(Change(key, before, after, verdict))
    return changes


def _is_within(value: float, rounds: Sequence[float]) -> bool:
    return min(rounds) <= value <= max(rounds)
