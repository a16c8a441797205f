"""The files of the embedded index: how much disk they take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipsearch_server.indexes.edge.durable import disk_usage


def test_usage_counts_what_is_on_disk_and_not_the_holes(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "dense").write_bytes(os.urandom(100_000))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**9)
    assert 100_000 <= disk_usage(tmp_path) < 200_000


def test_a_folder_may_change_while_it_is_measured() -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    # Listing this folder puts a descriptor into it, which is gone when its turn comes.
    disk_usage(descriptors)
