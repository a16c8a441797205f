"""SIGKILL in the middle of adding, replacing and deleting: a few rounds of bench/kill_rounds.py."""

from __future__ import annotations

from pathlib import Path

from benches import bench

kill_rounds = bench("kill_rounds")

ROUNDS = 5


def test_row_43_nothing_acknowledged_is_lost_and_nothing_is_there_twice(tmp_path: Path) -> None:
    report = kill_rounds.run(rounds=ROUNDS, seed=7, data_dir=tmp_path)
    assert report.acknowledged >= ROUNDS
    assert report.images > 0
