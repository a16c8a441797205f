"""A decoder that crashes, hangs or is killed costs its own image, and nobody else anything."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.decoding.area import Area
from clipsearch_server.decoding.client import Worker
from clipsearch_server.decoding.pool import WorkerPool
from clipsearch_server.errors import (
    DecoderUnavailable,
    InvalidImage,
    Overloaded,
    StartupError,
)
from clipsearch_server.image import decode_image
from clipsearch_server.ports import DecodedImage
from decode_workers import cpu_ticks, fork_server_of, is_running, peak_mib, workers_of
from poison_decoder import poison
from samples import png

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEMORY_MIB = 128


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets worker processes import what tests can."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def pool(**options: Any) -> WorkerPool:
    defaults: dict[str, Any] = {
        "size_px": 8,
        "resize_px": 8,
        "resample": "bicubic",
        "max_pixels": 50_000_000,
        "max_bytes": 4 * 2**20,
        "workers": 2,
        "memory_bytes": MEMORY_MIB * 2**20,
        "cpu_s": 0.3,
        "max_waiting": 100,
        "function": "poison_decoder:decode_image",
    }
    return WorkerPool(**defaults | options)


@pytest_asyncio.fixture
async def decoder() -> AsyncIterator[WorkerPool]:
    """The one in the service that the fixtures of conftest make."""
    async with pool() as decoder:
        yield decoder


async def until(condition: Callable[[], bool]) -> None:
    """Asks until it is so: of other processes, which tell nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def begun(pid: int) -> None:
    """Returns once a worker that is to spin does so."""
    before = cpu_ticks(pid)
    await until(lambda: cpu_ticks(pid) > before + 1)


def niceness_of_session(pid: int) -> int | None:
    """None: the kernel does not divide its cores among sessions."""
    file = Path(f"/proc/{pid}/autogroup")
    return int(file.read_text().split()[-1]) if file.exists() else None


async def kill_fork_server() -> None:
    """Returns once its workers have died with it."""
    workers = workers_of(os.getpid())
    os.kill(fork_server_of(os.getpid()), signal.SIGKILL)
    await until(lambda: not any(map(is_running, workers)))


async def both_work(decoder: WorkerPool) -> None:
    """Has each of two workers decode an image."""
    await asyncio.gather(*(decoder.decode(png("red", (n, 9))) for n in (9, 10)))


async def refusal(decoder: WorkerPool, content: bytes) -> InvalidImage:
    with pytest.raises(InvalidImage) as caught:
        await decoder.decode(content)
    return caught.value


async def test_workers_decode_as_the_function_does() -> None:
    content = png("teal", (300, 200))
    options = {"resample": "bicubic", "size_px": 8, "resize_px": 8, "max_pixels": 50_000_000}
    expected = decode_image(content, **options)  # type: ignore[arg-type]
    async with pool(function="clipsearch_server.image:decode_image") as decoder:
        first = await decoder.decode(content)
        await decoder.decode(png("red"))  # in the same memory
    np.testing.assert_array_equal(first.pixels, expected.pixels)
    assert (first.media_type, first.width_px, first.height_px) == ("image/png", 300, 200)


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("abort", "made the decoder fail"),
        ("crash", "made the decoder fail"),
        ("exit", "made the decoder fail"),
        ("break", "made the decoder fail"),
        # On busy cores the time by the clock that it has, 1.2 s, may be over before.
        pytest.param(
            *("spin", "more than 0.3 s of processor time"), marks=pytest.mark.by_the_clock
        ),
        ("hang", "more than 1.2 s"),
        ("eat", f"more than {MEMORY_MIB} MiB of memory"),
    ],
)
async def test_what_ends_a_worker_fails_alone_and_only_once(
    deed: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = poison(deed)
    async with pool(workers=2) as decoder:
        good = [decoder.decode(png("red", (n, n))) for n in range(20, 40)]
        error, *others = await asyncio.gather(refusal(decoder, content), *good)
        assert error.reason == "IMAGE_DECODE_FAILED"
        assert error.field == "content"
        assert message in error.message
        assert len(others) == 20
        (record,) = caplog.records
        assert sha256(content).hexdigest() in record.getMessage()
        assert deed not in record.getMessage()
        assert "GIF89a" not in record.getMessage()

        await both_work(decoder)
        workers = set(workers_of(os.getpid()))
        again = await refusal(decoder, content)
        assert again.message == error.message
        assert again.reason == error.reason
        await both_work(decoder)
        assert set(workers_of(os.getpid())) <= workers  # no new one
        assert len(caplog.records) == 1


@pytest.mark.by_the_clock
@pytest.mark.parametrize("deed", ["abort", "crash", "exit", "break", "spin", "hang", "eat"])
async def test_a_new_worker_serves_within_200_ms(deed: str) -> None:
    async with pool(workers=1) as decoder:
        for attempt in range(3):  # the fastest counts: a busy machine may interrupt
            failing = asyncio.create_task(refusal(decoder, poison(deed, str(attempt))))
            waiting = asyncio.create_task(decoder.decode(png("red")))
            await failing
            died = time.perf_counter()
            await waiting
            elapsed_s = time.perf_counter() - died
            if elapsed_s < 0.2:
                break
        assert elapsed_s < 0.2


async def kill_at_work(other_than: int = 0) -> int:
    """Kills the one worker there is once it spins; returns its id."""
    await until(lambda: len({*workers_of(os.getpid())} - {other_than}) == 1)
    (worker,) = {*workers_of(os.getpid())} - {other_than}
    await begun(worker)
    os.kill(worker, signal.SIGKILL)
    return worker


@pytest.mark.by_the_clock
async def test_an_image_whose_worker_is_killed_from_outside_gets_another_one_but_no_third(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pool(workers=1, cpu_s=60) as decoder:
        times_s = []
        for attempt in range(3):
            content = poison("spin", str(attempt))
            failing = asyncio.create_task(refusal(decoder, content))
            waiting = asyncio.create_task(decoder.decode(png("red")))
            await kill_at_work(other_than=await kill_at_work())
            died = time.perf_counter()
            await waiting
            times_s.append(time.perf_counter() - died)
            assert (await failing).reason == "IMAGE_DECODE_FAILED"
            await refusal(decoder, content)
        assert min(times_s) < 0.2
    assert [record.getMessage().split(";")[0] for record in caplog.records[::2]] == [
        "a decoder was killed from outside"
    ] * 3


def stop_for(seconds: float) -> None:
    """Does to the event loop what a stopped container or a moved machine does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_row_45_a_pause_of_the_server_is_held_against_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()
    decode = Worker.decode

    async def noted(worker: Worker, content: bytes) -> DecodedImage:
        begun.set()
        return await decode(worker, content)

    monkeypatch.setattr(Worker, "decode", noted)
    async with pool(workers=1, cpu_s=0.25) as decoder:
        innocent = asyncio.create_task(decoder.decode(png("red")))
        await begun.wait()
        stop_for(1.3)
        await innocent
        begun.clear()
        hanging = asyncio.create_task(refusal(decoder, poison("hang")))
        await begun.wait()
        stop_for(1.3)
        assert (await hanging).reason == "IMAGE_DECODE_FAILED", "it got no second time"


async def test_workers_that_die_idle_are_replaced_unnoticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pool(workers=2) as decoder:
        for _ in range(3):
            await asyncio.gather(*(decoder.decode(png("red", (n, n))) for n in (20, 21, 22)))
            for worker in workers_of(os.getpid()):
                os.kill(worker, signal.SIGKILL)
        await decoder.decode(png("red"))
    assert not [record for record in caplog.records if record.name.startswith("clipsearch")]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has its user's priority")
async def test_those_who_decode_leave_the_cores_to_others() -> None:
    async with pool(workers=1):
        for pid in (fork_server_of(os.getpid()), *workers_of(os.getpid())):
            assert os.getpriority(os.PRIO_PROCESS, pid) == 10
            assert niceness_of_session(pid) in (None, 10)


async def test_a_fork_server_that_dies_is_started_again_unnoticed() -> None:
    async with pool(workers=2, cpu_s=60) as decoder:
        await kill_fork_server()
        await decoder.decode(png("red"))
        spinning = asyncio.create_task(decoder.decode(poison("spin")))
        await until(lambda: bool(workers_of(os.getpid())))
        await begun(workers_of(os.getpid())[0])
        await kill_fork_server()
        await decoder.decode(png("red", (30, 30)))
        assert not spinning.done()  # it is tried again: it is not its fault
        spinning.cancel()


async def test_a_cancelled_image_frees_its_place_and_is_not_held_against_it() -> None:
    async with pool(workers=1, cpu_s=0.3) as decoder:
        content = poison("hang")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await decoder.decode(content)
        await decoder.decode(png("red"))
        assert (await refusal(decoder, content)).reason == "IMAGE_DECODE_FAILED"


async def test_a_worker_whose_image_is_given_up_on_is_ended() -> None:
    async with pool(workers=1) as decoder:
        (worker,) = workers_of(os.getpid())
        await refusal(decoder, poison("hang"))
        await until(lambda: not is_running(worker))
        await decoder.decode(png("red"))
        (worker,) = filter(is_running, workers_of(os.getpid()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await decoder.decode(poison("hang", "again"))
        await until(lambda: not is_running(worker))


async def test_what_waits_is_bounded() -> None:
    async with pool(workers=1, max_waiting=1, cpu_s=60) as decoder:
        working = asyncio.create_task(decoder.decode(poison("hang", "1")))
        waiting = asyncio.create_task(decoder.decode(poison("hang", "2")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await decoder.decode(png("red"))
        waiting.cancel()
        await asyncio.wait({waiting})
        last = asyncio.create_task(decoder.decode(png("red")))
        working.cancel()
        await last


async def test_memory_stays_within_the_limit() -> None:
    async with pool(workers=1) as decoder:
        (worker,) = workers_of(os.getpid())
        at_start = peak_mib(worker)
        peaks: list[float] = []

        async def watch() -> None:
            while is_running(worker):
                peaks.append(peak_mib(worker))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await refusal(decoder, poison("eat"))
        await watching
        assert MEMORY_MIB / 2 < max(peaks) - at_start <= MEMORY_MIB


@pytest.mark.skipif(
    ctypes.CDLL(None).syscall(444, None, 0, 1) < 6,  # landlock_create_ruleset: its version
    reason="this kernel's Landlock does not know signals, or there is none",
)
async def test_a_worker_can_do_nothing_but_compute() -> None:
    async with pool(workers=1) as decoder:
        assert (await refusal(decoder, poison("probe"))).message == "nothing"


async def test_large_content_does_not_stop_the_event_loop() -> None:
    mib = 16
    content = os.urandom(mib * 2**20)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with closing(Area.create((3, 8, 8), len(content))) as area:
        turning = asyncio.create_task(turn())
        await area.put_content(content)
        turning.cancel()
        assert area.content(len(content)) == content
    assert turns >= mib


def test_the_fork_server_loads_no_event_loop() -> None:
    loaded = "decoding.process, clipsearch_server.decoding.worker, clipsearch_server.image"
    code = f"import sys, clipsearch_server.{loaded}; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_no_process_outlives_the_pool() -> None:
    async with pool(workers=2) as decoder:
        await asyncio.gather(*(decoder.decode(png("red", (n, n))) for n in range(20, 30)))
        server = fork_server_of(os.getpid())
        processes = [server, *workers_of(os.getpid())]
    await until(lambda: not any(map(is_running, processes)))


async def test_a_decoder_that_cannot_start_says_so_at_once() -> None:
    with pytest.raises(StartupError, match="decodes images exited with 1"):
        async with pool(function="no_such_module:decode"):
            pass


async def test_one_that_cannot_start_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(workers=1) as decoder:
        with monkeypatch.context() as broken:
            broken.setenv("PYTHONPATH", "/nowhere")
            await kill_fork_server()
            with pytest.raises(DecoderUnavailable):
                await decoder.decode(png("red"))
        await decoder.decode(png("red"))


async def test_poison_in_a_stream_is_its_own_items_error(service: ImageSearchServiceStub) -> None:
    deeds = ["abort", "spin", "eat", "hang"]
    contents = [png("red", (n, 20)) for n in range(20, 56)]
    for place, deed in enumerate(deeds):
        contents.insert(10 * place, poison(deed))
    requests = [
        pb.AddImagesRequest(item_id=str(n), request=pb.AddImageRequest(content=content))
        for n, content in enumerate(contents)
    ]
    results = {result.item_id: result async for result in service.AddImages(iter(requests))}
    assert len(results) == 40
    for n in range(40):
        result = results[str(n)]
        if n % 10:
            assert result.HasField("response")
        else:
            assert result.error.code == 3  # INVALID_ARGUMENT
            assert b"IMAGE_DECODE_FAILED" in result.error.SerializeToString()
