"""Hosts that are slow, endless or liars cost one add an error in time, and the server nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from clipsearch import AddOutcome, AsyncSearchClient, SearchClient, SearchError
from clipsearch_server.testing import ServerProcess
from hostile_hosts import QUICK, SLOW, hostile_hosts

pytestmark = pytest.mark.by_the_clock

PICTURE = Path(__file__).parents[2] / "demo" / "pictures" / "black-cat.png"
FETCH_S = 1.0
SLACK_S = 0.2
MAX_GROWTH_KB = 20_000
MAX_IMAGE_BYTES = 16_000_000  # of which one fetch may hold as many


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with (
        ServerProcess(
            *("--data-dir", str(tmp_path_factory.mktemp("data"))),
            *("--fetch-allow-cidrs", "127.0.0.0/8", "--fetch-ports", "1-65535"),
            *("--fetch-timeout-s", str(FETCH_S), "--image-max-bytes", str(MAX_IMAGE_BYTES)),
        ) as server,
        SearchClient(server.address) as client,
    ):
        client.add_image(content=PICTURE.read_bytes())
        yield server


@pytest.fixture(scope="module")
def memory_at_first_kb(server: ServerProcess) -> int:
    """What the server takes before it has fetched anything; its peak is counted from there."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return memory_kb(server, "VmRSS")


def memory_kb(server: ServerProcess, name: str) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found
    return int(found[1])


@pytest_asyncio.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncSearchClient]:
    async with AsyncSearchClient(server.address) as client:
        yield client


@pytest_asyncio.fixture
async def hosts(
    server: ServerProcess, memory_at_first_kb: int, client: AsyncSearchClient
) -> AsyncIterator[int]:
    """The port of the hosts. After all that they did, the server works, and took no memory."""
    async with hostile_hosts(PICTURE.read_bytes()) as port:
        yield port
        assert memory_kb(server, "VmHWM") - memory_at_first_kb < MAX_GROWTH_KB
        added = await client.add_image(url=f"http://127.0.0.1:{port}/image")
        assert added.outcome is AddOutcome.DUPLICATE


async def refusal(
    client: AsyncSearchClient, url: str, timeout_s: float | None = None
) -> tuple[str, float]:
    """Why an image was refused, and after how many seconds."""
    clock = asyncio.get_running_loop().time
    started = clock()
    with pytest.raises(SearchError) as caught:
        await client.add_image(url=url, timeout_s=timeout_s)
    return caught.value.reason or caught.value.code.name, clock() - started


async def test_slow_hosts_get_as_long_as_a_fetch_may_take(
    client: AsyncSearchClient, hosts: int
) -> None:
    """Each is a host of its own, and all are asked at once."""
    urls = [f"http://127.0.1.{i}:{hosts}/{name}" for i, name in enumerate(SLOW)]
    refusals = await asyncio.gather(*(refusal(client, url) for url in urls))
    for name, (reason, elapsed_s) in zip(SLOW, refusals, strict=True):
        assert reason == "SOURCE_TIMEOUT", name
        assert elapsed_s < FETCH_S + SLACK_S, name


async def test_a_caller_that_waits_less_gets_an_answer_in_his_time(
    client: AsyncSearchClient, hosts: int
) -> None:
    urls = [f"http://127.0.1.{i}:{hosts}/{name}" for i, name in enumerate(SLOW)]
    refusals = await asyncio.gather(*(refusal(client, url, timeout_s=0.4) for url in urls))
    for name, (reason, elapsed_s) in zip(SLOW, refusals, strict=True):
        assert reason == "DEADLINE_EXCEEDED", name
        assert elapsed_s < 0.4 + SLACK_S, name


@pytest.mark.parametrize("name", QUICK)
async def test_floods_bombs_and_lies(client: AsyncSearchClient, hosts: int, name: str) -> None:
    reason, elapsed_s = await refusal(client, f"http://127.0.0.1:{hosts}/{name}")
    assert reason == QUICK[name][1]
    assert elapsed_s < FETCH_S + SLACK_S


async def test_the_floods_of_one_host_do_not_hold_up_an_image_of_another(
    client: AsyncSearchClient, hosts: int
) -> None:
    names = [name for name, (_, reason) in QUICK.items() if reason != "IMAGE_TOO_LARGE"]
    floods = [f"http://127.0.0.3:{hosts}/{name}" for name in names]
    waiting = [asyncio.create_task(refusal(client, url)) for url in floods]
    await client.add_image(url=f"http://127.0.0.2:{hosts}/image")
    for name, (reason, _) in zip(names, await asyncio.gather(*waiting), strict=True):
        assert reason == QUICK[name][1]
