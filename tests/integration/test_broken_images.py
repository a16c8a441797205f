"""Thousands of odd and broken images, through a real server: each fails alone, or not at all."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broken_images import REASONS, all_files, bombs
from clipsearch import AddItem, InvalidImageError, SearchClient
from clipsearch_server.settings import ImageSettings
from clipsearch_server.testing import ServerProcess
from decode_workers import fork_server_of, peak_mib, workers_of
from samples import png
from tiny_model import write_tiny_model

GOOD_EVERY = 10


def items() -> Iterator[AddItem]:
    """All files, and good ones between them."""
    for number, (name, content) in enumerate(all_files()):
        if number % GOOD_EVERY == 0:
            yield AddItem(item_id=f"good {number}", content=png("red", (20, 20 + number)))
        yield AddItem(item_id=name, content=content)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_each_is_taken_or_refused_and_its_neighbours_succeed(tmp_path: Path) -> None:
    expected = {name: reason for name, (_, reason) in bombs().items()}
    results: dict[str, str] = {}
    with (
        ServerProcess(
            *("--data-dir", str(tmp_path / "data")),
            # It takes no time: what is tested comes before it.
            *("--model-dir", str(write_tiny_model(tmp_path / "model"))),
            # More than twice what the costliest good one takes, and half of what the bad one would.
            *("--image-decode-cpu-s", "1.5"),
        ) as server,
        SearchClient(server.address) as client,
    ):
        for result in client.add_images(items(), max_in_flight=32):
            if result.error is None:
                results[result.item_id] = ""
            else:
                assert isinstance(result.error, InvalidImageError), result
                results[result.item_id] = result.error.reason
        workers = workers_of(server.process.pid)
        assert workers
        for worker in workers:
            assert peak_mib(worker) < ImageSettings().decode_memory_mib
    assert len(results) > 3000 * (1 + 1 / GOOD_EVERY)
    assert set(results.values()) - {""} == REASONS
    for name, reason in results.items():
        if name.startswith("good") or name.endswith("valid"):
            assert reason == "", name
    assert {name: results[name] for name in expected} == expected
    assert server.log.count("ended its decoder") == 1
    assert "Traceback" not in server.log


def test_no_decoder_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    with (
        ServerProcess("--data-dir", str(tmp_path)) as server,
        SearchClient(server.address) as client,
    ):
        client.add_image(content=png("red"))
        server_pid = server.process.pid
        processes = [fork_server_of(server_pid), *workers_of(server_pid)]
        handles = [os.pidfd_open(pid) for pid in processes]
        assert len(handles) > 1
        server.kill()
        for handle in handles:
            ended, _, _ = select.select([handle], [], [], 10)
            assert ended
            os.close(handle)
