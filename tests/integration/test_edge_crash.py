"""The embedded index when a process of it is killed, stopped or has no disk left."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

import edge_driver
from clipsearch_server.errors import (
    DeadlineExceeded,
    IndexUnavailable,
    OutcomeUnknown,
    Overloaded,
    StartupError,
    StorageFull,
)
from clipsearch_server.indexes.edge import rebuild
from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.indexes.edge.protocol import LENGTH_BYTES, body_length
from clipsearch_server.ports import NearestQuery, ScoredId, StoredImage
from edge_driver import PAUSE_S, WORKERS, embedding, image, open_index, state_after

MAX_REOPEN_S = 30.0  # of what takes less than a second; replaying a log for ever would take longer
IMPATIENT_S = 1.0  # suffices for a write on busy cores, too


@pytest.fixture(autouse=True)
def no_way_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is built at the priority of all else: it would wait for every other test's work."""
    monkeypatch.setattr(rebuild, "_NICE", 0)


def shards(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "collections" / "images-1").glob("shard-*"))


def index_pids() -> list[int]:
    """The index processes of this process, oldest first."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return sorted(
        int(pid) for pid in children if b"edge.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another process does, and so can only be looked for."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_healthy(index: EdgeIndex) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await index.health()
            except IndexUnavailable:
                await asyncio.sleep(0.01)


async def store(index: EdgeIndex, n: int, *, first: int = 0) -> None:
    workers = range(first, first + n)
    images = [image(worker, 0) for worker in workers]
    await index.upsert(images, np.concatenate([embedding(worker, 0) for worker in workers]))


# What the server does when its index process goes -------------------------------------------------


async def test_a_killed_index_process_is_replaced_and_has_lost_nothing(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        await store(index, 100)
        (pid,) = index_pids()
        os.kill(pid, signal.SIGSTOP)
        calls = [asyncio.create_task(index.count()) for _ in range(5)]
        await asyncio.sleep(0)  # they are on their way
        os.kill(pid, signal.SIGKILL)
        for call in calls:
            with pytest.raises(IndexUnavailable):
                await call
        with pytest.raises(IndexUnavailable):
            await index.health()
        await until_healthy(index)
        assert await index.count() == 100
        await store(index, 101)
        assert await index.count() == 101


async def test_row_45_a_stopped_index_process_is_a_deadline_and_not_healthy(tmp_path: Path) -> None:
    async with open_index(tmp_path, timeout_s=IMPATIENT_S) as index:
        (pid,) = index_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded):
                await index.count()
            with pytest.raises(IndexUnavailable):
                await index.health()
        finally:
            os.kill(pid, signal.SIGCONT)
        await until_healthy(index)


async def test_row_40_of_a_write_that_is_not_answered_in_time_the_outcome_is_unknown(
    tmp_path: Path,
) -> None:
    async with open_index(tmp_path, timeout_s=IMPATIENT_S) as index:
        (pid,) = index_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown, match="repeating it by the same id is safe"):
                await store(index, 3)
        finally:
            os.kill(pid, signal.SIGCONT)
        await until_healthy(index)
        await store(index, 3)
        assert await index.count() == 3


async def test_signals_to_the_group_leave_the_index_process_alone(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        (pid,) = index_pids()
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        await store(index, 3)
        assert await index.count() == 3
        assert index_pids() == [pid]
    assert index_pids() == []


async def test_more_calls_than_allowed_are_refused(tmp_path: Path) -> None:
    async with open_index(tmp_path, max_in_flight=2) as index:
        outcomes = await asyncio.gather(*(index.count() for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, int, Overloaded]
        assert await index.count() == 0


async def test_who_gives_up_takes_a_place_until_the_index_has_answered(tmp_path: Path) -> None:
    async with open_index(tmp_path, max_in_flight=3) as index:
        await store(index, 10)
        (pid,) = index_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await nearest(index, 0, 0)
            with pytest.raises(Overloaded):
                await index.count()
        finally:
            os.kill(pid, signal.SIGCONT)
        await index.health()  # answered after the three, which are through by then
        assert await index.count() == 10


async def test_health_does_not_wait_behind_the_searches_of_others(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        await store(index, 10)
        (pid,) = index_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            searches = [asyncio.create_task(nearest(index, 0, 0)) for _ in range(100)]
            health = asyncio.create_task(index.health())
            answered: list[asyncio.Future[Any]] = []
            for task in (*searches, health):
                task.add_done_callback(answered.append)
            await asyncio.sleep(0)  # all are sent
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.gather(health, *searches)
        assert answered.index(health) < 50


async def test_row_45_a_server_with_many_connections_can_start_its_index(tmp_path: Path) -> None:
    """Its descriptor then has a number above those that select() knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("fewer than 4,096 descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(open(os.devnull, "rb"))  # noqa: ASYNC230
        async with open_index(tmp_path) as index:
            await store(index, 5)
            assert await index.count() == 5


async def test_closing_answers_what_is_under_way(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        writes = [asyncio.create_task(store(index, 50)) for _ in range(10)]
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    with pytest.raises(IndexUnavailable):
        await index.count()
    async with open_index(tmp_path) as index:
        assert await index.count() == 50


# Optimising ---------------------------------------------------------------------------------------


async def test_optimizing_loses_no_write_made_meanwhile(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        steps = [0] * WORKERS

        async def work(worker: int) -> None:
            while not optimizing.done():
                step = steps[worker]
                if step % 7 == 6:
                    await index.delete([edge_driver.image_id(worker, step)])
                else:
                    await index.upsert([image(worker, step)], embedding(worker, step))
                steps[worker] += 1
                await asyncio.sleep(PAUSE_S)

        await store(index, 500)
        optimizing = asyncio.create_task(index.optimize())
        await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
        await optimizing
        assert min(steps) > 10
        await check_state(index, steps)
    assert shards(tmp_path) == ["shard-000002"]
    async with open_index(tmp_path) as index:
        await check_state(index, steps)


async def test_what_was_written_meanwhile_is_synced_before_the_switch(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        await store(index, 2000)
        optimizing = asyncio.create_task(index.optimize())
        await until(lambda: len(index_pids()) == 2)
        await store(index, 50, first=2000)
        await optimizing
        # A shard's floor is written when it is flushed.
        floor = tmp_path / "collections" / "images-1" / "shard-000002" / "floor"
        assert int(await asyncio.to_thread(floor.read_text)) == 2050


async def test_the_graph_is_built_when_enough_is_new(tmp_path: Path) -> None:
    async with open_index(tmp_path, optimize_after_points=1000) as index:
        await store(index, 999)
        assert shards(tmp_path) == ["shard-000001"]
        await store(index, 1001)  # all but two of them replacements, which are as new
        await until(lambda: shards(tmp_path) == ["shard-000002"])
        await store(index, 10)
        assert await index.count() == 1001
    async with open_index(tmp_path, optimize_after_points=1000) as index:
        await store(index, 20)
        assert await index.count() == 1001
    assert shards(tmp_path) == ["shard-000002"]


async def test_what_was_replaced_gives_its_room_back(tmp_path: Path) -> None:
    async with open_index(tmp_path, optimize_after_points=1000) as index:
        await store(index, 600)
        await store(index, 600)
        await until(lambda: shards(tmp_path) == ["shard-000002"])
        await store(index, 390)
        assert await index.count() == 600
    assert shards(tmp_path) == ["shard-000002"]


def wait_for_answers(channel: socket.socket, count: int) -> None:
    """Keeps the event loop until so many answers lie unread in the channel to an index process."""
    end = time.monotonic() + 60
    whole = 0
    while whole < count:
        assert time.monotonic() < end
        time.sleep(0.001)
        try:
            unread = channel.recv(2**16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        whole = 0
        while len(unread) >= LENGTH_BYTES and len(unread) >= LENGTH_BYTES + body_length(unread):
            unread = unread[LENGTH_BYTES + body_length(unread) :]
            whole += 1


async def test_the_graph_is_built_though_the_last_come_while_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels: list[socket.socket] = []  # the server's ends
    socketpair = socket.socketpair

    def noted() -> tuple[socket.socket, socket.socket]:
        ours, theirs = socketpair()
        channels.append(ours)
        return ours, theirs

    monkeypatch.setattr(socket, "socketpair", noted)
    async with open_index(tmp_path, optimize_after_points=1000) as index:
        await store(index, 999)
        await store(index, 1)  # a replacement, after which is asked whether enough are new
        last = asyncio.create_task(store(index, 2, first=999))
        await asyncio.sleep(0)  # both are asked
        await asyncio.sleep(0)  # and under way
        wait_for_answers(channels[-1], 2)  # before anybody else looks
        await last
        await until(lambda: shards(tmp_path) == ["shard-000002"])


async def test_a_killed_builder_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        await store(index, 2000)
        (live,) = index_pids()
        optimizing = asyncio.create_task(index.optimize())
        await until(lambda: len(index_pids()) == 2)
        (builder,) = set(index_pids()) - {live}
        os.kill(builder, signal.SIGKILL)
        with pytest.raises((IndexUnavailable, StartupError)):
            await optimizing
        assert await index.count() == 2000
        assert index_pids() == [live]
        await index.optimize()
        assert await index.count() == 2000


async def test_a_live_process_killed_while_optimizing_is_replaced(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        await store(index, 2000)
        (live,) = index_pids()
        optimizing = asyncio.create_task(index.optimize())
        await until(lambda: len(index_pids()) == 2)
        os.kill(live, signal.SIGKILL)
        with pytest.raises(IndexUnavailable):
            await optimizing
        await until_healthy(index)
        assert await index.count() == 2000


async def test_closing_abandons_a_graph_under_construction(tmp_path: Path) -> None:
    async with open_index(tmp_path) as index:
        await store(index, 2000)
        optimizing = asyncio.create_task(index.optimize())
        await until(lambda: len(index_pids()) == 2)
    with pytest.raises(IndexUnavailable):
        await optimizing
    assert index_pids() == []
    async with open_index(tmp_path) as index:
        assert await index.count() == 2000


async def check_state(index: EdgeIndex, steps: list[int]) -> None:
    """Raises AssertionError unless the index holds what each worker's steps leave, or one step more
    (it was not acknowledged, but may have been carried out)."""
    stored: dict[int, dict[UUID, int]] = {worker: {} for worker in range(WORKERS)}
    found = await every_image(index)
    for found_image in found:
        worker = found_image.id.int >> 64
        if worker < WORKERS:
            stored[worker][found_image.id] = int(str(found_image.metadata["step"]))
    for worker in range(WORKERS):
        possible = [state_after(worker, steps[worker] + more) for more in (0, 1)]
        assert stored[worker] in possible
        latest = sorted(stored[worker].items(), key=lambda item: item[1])[-50:]
        await asyncio.gather(*(check_embedding(index, *item) for item in latest))
    assert await index.count() == len(found)


async def every_image(index: EdgeIndex) -> list[StoredImage]:
    page = await index.list(limit=1000)
    images = [*page.images]
    while page.next_id is not None:
        page = await index.list(limit=1000, start_id=page.next_id)
        images += page.images
    return images


async def nearest(index: EdgeIndex, key: int, step: int) -> list[ScoredId]:
    (hits,) = await index.search([NearestQuery(embedding=embedding(key, step)[0], limit=10)])
    return hits


async def check_embedding(index: EdgeIndex, image_id: UUID, step: int) -> None:
    hit = (await nearest(index, image_id.int >> 64, step))[0]
    assert hit.id == image_id
    assert hit.score == pytest.approx(1, abs=1e-5)


# SIGKILL of the server ----------------------------------------------------------------------------

STAGES = ["copying", "optimizing", "catching", "switching", "switching", "retiring"]


@pytest.mark.timeout(300)  # six servers, a graph each
async def test_a_killed_server_has_lost_nothing_whatever_it_did(tmp_path: Path) -> None:
    chance = random.Random(7)
    steps = [0] * WORKERS
    for stage in STAGES:
        await asyncio.to_thread(drive_until, tmp_path, steps, stage, chance.uniform(0, 0.02))
        start = time.perf_counter()
        async with open_index(tmp_path) as index:
            assert time.perf_counter() - start < MAX_REOPEN_S
            await check_state(index, steps)
            assert len(shards(tmp_path)) == 1
    assert min(steps) > 10


def drive_until(data_dir: Path, steps: list[int], stage: str, delay_s: float) -> None:
    """Runs the driver, kills it a moment after it came to a stage, and notes what it had done."""
    with subprocess.Popen(
        [sys.executable, edge_driver.__file__, str(data_dir), json.dumps(steps)],
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        killed = False
        for line in driver.stdout:
            first, _, second = line.strip().partition(" ")
            if first.isdigit():
                steps[int(first)] = int(second)
            if not killed and line.strip() == f"stage {stage}":
                time.sleep(delay_s)  # not to wait for anything: to kill at any moment of the stage
                driver.kill()
                killed = True
        assert killed


# A full disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_row_41_a_full_disk_refuses_writes_and_still_reads(small_disk: Path) -> None:
    async with open_index(small_disk) as index:
        await store(index, 10)
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler = small_disk / "filler"
        await asyncio.to_thread(filler.write_bytes, bytes(free - 8 * 2**20))
        with pytest.raises(StorageFull):
            await store(index, 20)
        with pytest.raises(StorageFull):
            await index.optimize()
        assert await index.count() == 10
        assert len(await nearest(index, 3, 0)) == 10
        await asyncio.to_thread(filler.unlink)
        await store(index, 20)
        assert await index.count() == 20
