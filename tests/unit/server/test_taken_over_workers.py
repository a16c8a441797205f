"""A worker that an image has taken over can lie about images, and do no more than that."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clipsearch_server.decoding.pool import WorkerPool
from clipsearch_server.decoding.protocol import Decoded, Ended, Refused, line, parse
from clipsearch_server.errors import InvalidImage
from decode_workers import is_running, workers_of
from poison_decoder import poison
from samples import png

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets worker processes import what tests can."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def pool() -> WorkerPool:
    return WorkerPool(
        size_px=8,
        resize_px=8,
        resample="bicubic",
        max_pixels=1_000_000,
        max_bytes=2**20,
        workers=1,
        memory_bytes=2**28,
        cpu_s=60,
        max_waiting=100,
        function="poison_decoder:decode_image",
    )


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def running() -> list[int]:
    return [worker for worker in workers_of(os.getpid()) if is_running(worker)]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@linux
@pytest.mark.parametrize(
    "deed",
    ["say-nothing-known", "say-too-much", "say-deep-nesting", "say-no-numbers", "say-no-texts",
     "say-untimely"],
)  # fmt: skip
async def test_one_that_talks_nonsense_is_ended_at_once(deed: str) -> None:
    async with pool() as decoder:
        (worker,) = running()
        async with asyncio.timeout(10):  # not when its time is up, in four minutes
            with pytest.raises(InvalidImage) as caught:
                await decoder.decode(poison(deed))
            assert caught.value.reason == "IMAGE_DECODE_FAILED"
            await until(lambda: not is_running(worker))
        await decoder.decode(png("red"))


@linux
@pytest.mark.parametrize("deed", ["answer-and-hang-up", "answer-ahead"])
async def test_one_that_goes_its_own_way_is_ended(deed: str) -> None:
    async with pool() as decoder:
        for salt in "abc":
            await decoder.decode(poison(deed, salt))
        await decoder.decode(png("red"))
        async with asyncio.timeout(10):
            await until(lambda: len(running()) == 1)


@linux
async def test_one_has_no_right_to_raise_its_limits() -> None:
    async with pool():
        (worker,) = running()
        sets = dict(re.findall(r"^Cap(Inh|Prm|Eff):\s+(\w+)", status_of(worker), re.MULTILINE))
    assert {name: int(bits, 16) for name, bits in sets.items()} == {"Inh": 0, "Prm": 0, "Eff": 0}


@linux
async def test_one_cannot_tell_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSEARCH_QDRANT_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with pool() as decoder:
        with pytest.raises(InvalidImage) as caught:
            await decoder.decode(poison("name-variables"))
    assert "PYTHONPATH" in caught.value.message
    assert "CLIPSEARCH" not in caught.value.message
    assert "AWS" not in caught.value.message


@linux
async def test_a_caller_that_goes_while_a_worker_starts_leaves_nothing_open() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with pool() as decoder:
        with pytest.raises(InvalidImage):
            await decoder.decode(poison("exit"))
        before = open_files()
        for steps in range(12):  # each a point at which it may be cancelled
            starting = asyncio.create_task(decoder.decode(png("red")))
            for _ in range(steps):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait({starting})
            with pytest.raises(InvalidImage):
                await decoder.decode(poison("exit", str(steps)))  # so that there is no idle one
        await asyncio.sleep(0)  # lets the connections close
        assert open_files() == before


@pytest.mark.parametrize(
    "message",
    [Ended(3, -9), Decoded("image/png", 3, 2), Refused("no", "WHY", {"limit": "3"})],
)
def test_messages_arrive_as_they_were_sent(message: Decoded | Refused | Ended) -> None:
    assert parse(line(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[[], {}]",
        b'["Decoded"]',
        b'["OutOfMemory", {"more": 1}]',
        b"[" * 60_000,
        b'["Ended", {"number": true, "code": 0}]',
        b'["Ended", {"number": 1, "code": 0.5}]',
        b'["Decoded", {"media_type": "image/png", "width_px": 1e9, "height_px": 1}]',
        b'["Decoded", {"media_type": "image/png", "width_px": 9999999999, "height_px": 1}]',
        b'["Refused", {"message": "\\ud800", "reason": "A", "metadata": {}}]',
        b'["Refused", {"message": "two\\nlines", "reason": "A", "metadata": {}}]',
        b'["Refused", {"message": "", "reason": "A", "metadata": {"a": 1}}]',
    ],
)
def test_what_is_no_message_is_none(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(data)
