"""Several processes on one port: calls reach each, one that ends is replaced, and all drain."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.errors import StartupError
from clipsearch_server.testing import ServerProcess
from fake_qdrant import FakeQdrant
from scripted_triton import ScriptedTriton, serving, write_model_folder

WORKERS = 2
# The kernel gives each connection to a worker by chance: all to one, once in 2 billion runs.
CONNECTIONS = 32
WAIT_S = 30.0  # for what takes a second; CI's cores are shared


class Neighbours:
    """What the workers need, here in the process of the test."""

    def __init__(self, triton: ScriptedTriton, options: tuple[str, ...]) -> None:
        self.triton = triton
        self.options = options


@pytest_asyncio.fixture
async def neighbours(tmp_path: Path) -> AsyncIterator[Neighbours]:
    triton, qdrant = ScriptedTriton(), FakeQdrant()
    await qdrant.start()
    async with serving(triton) as address:
        model = write_model_folder(tmp_path / "model")
        yield Neighbours(
            triton,
            (
                *("--workers", str(WORKERS), "--model-dir", str(model)),
                *("--encoder-backend", "triton", "--triton-address", address),
                *("--index-backend", "qdrant", "--qdrant-url", qdrant.url),
            ),
        )
    await qdrant.stop()


@asynccontextmanager
async def running(neighbours: Neighbours, *options: str) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(*neighbours.options, *options)
    await asyncio.to_thread(process.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.kill)


def workers_of(server: ServerProcess) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(server.process.pid).children()
        if "clipsearch_server.workers.process" in child.cmdline()
    ]


def connections(worker: psutil.Process, server: ServerProcess) -> int:
    """How many callers' connections a worker has."""
    port = int(server.address.rpartition(":")[2])
    return sum(
        it.status == psutil.CONN_ESTABLISHED and it.laddr.port == port
        for it in worker.net_connections("tcp")
    )


@asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Channels, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    server.address, options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield channels


def query(channel: grpc.aio.Channel, **options: Any) -> Any:
    request = pb.QueryTextRequest(text="a cat")
    return ImageSearchServiceStub(channel).QueryText(request, timeout=WAIT_S, **options)


async def watching(channel: grpc.aio.Channel) -> Any:
    """A watch of the health of the worker on the other end, which has said that it serves."""
    watch = HealthStub(channel).Watch(HealthCheckRequest())
    assert (await watch.read()).status == HealthCheckResponse.SERVING
    return watch


async def draining(watch: Any) -> None:
    """Returns once the worker says that it drains."""
    assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING


def scraped(server: ServerProcess) -> str:
    """What Prometheus is told of all workers together."""
    (address,) = re.findall(r"metrics address=(\S+)", server.log)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_S) as response:
        return str(response.read().decode())


def answered_queries(server: ServerProcess) -> int:
    counts = re.findall(r'grpc_server_handled_total{.*"OK".*"QueryText".*} (\S+)', scraped(server))
    return int(sum(map(float, counts)))


def metrics_folder(worker: psutil.Process) -> Path:
    return Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])


async def health(server: ServerProcess) -> int:
    """As an orchestrator asks, over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        answer = await HealthStub(channel).Check(HealthCheckRequest(), timeout=WAIT_S)
    return int(answer.status)


async def serving_until(server: ServerProcess, line: str, times: int = 1) -> None:
    """Returns once the log has the line so many times; until then the server must serve."""
    async with asyncio.timeout(WAIT_S):
        while server.log.count(line) < times:
            assert await health(server) == HealthCheckResponse.SERVING
            await asyncio.sleep(0.05)  # so that a new worker has a core to start on


async def test_every_worker_answers_and_one_that_is_killed_is_replaced(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    async with running(neighbours, "--metrics-address", "127.0.0.1:0") as server:
        workers = await asyncio.to_thread(workers_of, server)
        assert len(workers) == WORKERS
        assert server.log.count("serving address=") == 1
        async with connected(server) as channels:
            for worker in workers:
                assert await asyncio.to_thread(connections, worker, server) > 0
            await asyncio.gather(*map(query, channels))
            assert await asyncio.to_thread(answered_queries, server) == CONNECTIONS

            card = tmp_path / "model" / "model_card.json"
            away = card.rename(tmp_path / "away")  # so that no worker can start
            workers[0].kill()
            await asyncio.to_thread(workers[0].wait)
            await serving_until(server, "worker=1 cannot start: ")
            told = await asyncio.to_thread(scraped, server)
            assert sorted(re.findall(r"clipsearch_worker_serving{.*} \S+", told)) == [
                'clipsearch_worker_serving{worker="1"} 0.0',
                'clipsearch_worker_serving{worker="2"} 1.0',
            ]
            away.rename(card)
            await serving_until(server, "serving pid=", WORKERS + 1)
            # Those who were connected to it are connected to another by now.
            await asyncio.gather(*(query(channel, wait_for_ready=True) for channel in channels))
            # What it had counted is not lost with it.
            assert await asyncio.to_thread(answered_queries, server) == 2 * CONNECTIONS
            told = await asyncio.to_thread(scraped, server)
            restarts = dict(
                re.findall(r'clipsearch_worker_restarts_total{worker="(.)"} (\S+)', told)
            )
            assert float(restarts["1"]) >= 2  # killed, and not started once or more
            assert restarts["2"] == "0.0"
            assert 'clipsearch_worker_serving{worker="1"} 1.0' in told
            assert "process_resident_memory_bytes" in told
        assert f"worker=1 pid={workers[0].pid} ended: signal 9 (SIGKILL)" in server.log
        replaced = await asyncio.to_thread(workers_of, server)
        assert len(replaced) == WORKERS
        assert workers[0] not in replaced

        folder = await asyncio.to_thread(metrics_folder, replaced[0])
        await asyncio.to_thread(server.kill)  # which leaves nobody behind
        _, alive = await asyncio.to_thread(psutil.wait_procs, replaced, WAIT_S)
        assert not alive
        await asyncio.to_thread(shutil.rmtree, folder)


async def test_workers_drain_however_many_are_told_to_stop(neighbours: Neighbours) -> None:
    finish = asyncio.Event()

    async def slowly(request: Any, context: Any) -> Any:
        await finish.wait()
        return await neighbours.triton.first_axis(request, context)

    async with running(neighbours) as server:
        neighbours.triton.infer = slowly
        async with connected(server) as channels:
            calls = [query(channel) for channel in channels]
            for _ in range(WORKERS):  # each embeds the text once, and has others wait for it
                await neighbours.triton.arrived.acquire()
            watches = await asyncio.gather(*map(watching, channels))
            workers = await asyncio.to_thread(workers_of, server)
            stopped = asyncio.create_task(asyncio.to_thread(server.stop))
            for worker in workers:  # as systemd does
                worker.send_signal(signal.SIGTERM)
            await asyncio.gather(*map(draining, watches))
            finish.set()
            await asyncio.gather(*calls)
        assert await stopped == 0
        assert server.log.count("stopped") == WORKERS


async def test_a_second_signal_ends_every_worker_at_once(
    neighbours: Neighbours,
) -> None:
    options = ("--grace-s", "300", "--metrics-address", "127.0.0.1:0")
    async with running(neighbours, *options) as server:
        neighbours.triton.infer = neighbours.triton.never
        async with connected(server) as channels:
            calls = [query(channel) for channel in channels]
            for _ in range(WORKERS):
                await neighbours.triton.arrived.acquire()
            watches = await asyncio.gather(*map(watching, channels))
            workers = await asyncio.to_thread(workers_of, server)
            folder = await asyncio.to_thread(metrics_folder, workers[0])
            assert await asyncio.to_thread(folder.exists)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*map(draining, watches))
            assert await asyncio.to_thread(server.stop) == 128 + signal.SIGTERM
            assert not await asyncio.to_thread(folder.exists)
            _, alive = await asyncio.to_thread(psutil.wait_procs, workers, WAIT_S)
            assert not alive
            failed = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(it, grpc.aio.AioRpcError) for it in failed)


async def test_workers_that_cannot_start_end_the_server_with_one_line(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    missing = tmp_path / "no-model"
    process = ServerProcess(*neighbours.options, "--model-dir", str(missing))
    with pytest.raises(StartupError) as caught:
        await asyncio.to_thread(process.__enter__)
    assert process.process.returncode == 1
    (line,) = caught.value.message.splitlines()
    assert line.startswith(f"clipsearch-server: {missing / 'model_card.json'}: No such file")
