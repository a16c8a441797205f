"""Whether a run was faster or slower than the one before, and which one that is."""

from __future__ import annotations

import pytest

from benches import bench

comparison = bench("speed.comparison")
earlier = bench("speed.earlier")

THEN = [0.90, 0.95, 1.00, 1.05, 1.10]


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (THEN, "same"),
        ([1.12, 1.15, 1.20, 1.25, 1.30], "faster"),
        ([0.70, 0.75, 0.80, 0.85, 0.88], "slower"),
        ([1.02, 1.09, 1.20, 1.25, 1.30], "faster"),  # rounds may overlap, medians do not
        ([0.80, 0.90, 1.09, 1.25, 1.30], "same"),  # within the rounds of then
        ([0.99, 1.15, 1.20, 1.25, 1.30], "same"),  # then is within the rounds of now
    ],
)
def test_a_change_is_more_than_the_rounds_spread(now: list[float], verdict: str) -> None:
    (change,) = comparison.compare({"a": THEN}, {"a": now}, more_is_faster={"a": True})
    assert change.verdict == verdict
    (mirrored,) = comparison.compare({"a": THEN}, {"a": now}, more_is_faster={"a": False})
    opposite = {"faster": "slower", "slower": "faster", "same": "same"}
    assert mirrored.verdict == opposite[verdict]


def test_a_change_of_a_few_percent_is_none_however_little_the_rounds_spread() -> None:
    (change,) = comparison.compare({"a": [1.0]}, {"a": [0.96]}, more_is_faster={"a": True})
    assert change.verdict == "same"


def test_what_only_one_run_has_is_not_compared() -> None:
    assert not comparison.compare({"a": THEN}, {"b": THEN}, more_is_faster={"a": True, "b": True})


def test_the_newest_run_of_the_same_machine_is_compared_with() -> None:
    names = [
        "2026-01-02-xeon-4-cores.json",
        "2026-01-03-epyc-2-cores.json",
        "2026-01-01-epyc-2-cores.json",
        "2026-01-04-epyc-2-cores.md",
        "ann-100000.json",
    ]
    assert earlier.newest(names, "epyc-2-cores") == "2026-01-03-epyc-2-cores.json"
    assert earlier.newest(names, "xeon-4-cores") == "2026-01-02-xeon-4-cores.json"
    assert earlier.newest(names, "arm-8-cores") == "2026-01-03-epyc-2-cores.json"
    assert earlier.newest(["soak.json"], "epyc-2-cores") is None


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("AMD EPYC 7B13", "epyc-7b13-"),
        ("AMD EPYC 9B14 96-Core Processor", "epyc-9b14-"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "xeon-platinum-8481c-"),
        ("AMD EPYC", "epyc-family-25-model-1-"),
    ],
)
def test_a_machine_is_named_by_its_cpu_and_cores(cpu: str, name: str) -> None:
    machine = bench("speed.machine")
    assert machine.name(cpu, "25", "1").startswith(name)
    assert machine.name(cpu, "25", "1").endswith(("-core", "-cores"))
