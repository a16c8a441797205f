"""Whether several processes may serve, how they share what there is, and their port."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from clipsearch_server.configuration import load_settings
from clipsearch_server.cores import cores
from clipsearch_server.errors import StartupError
from clipsearch_server.stopping import Stopping
from clipsearch_server.workers import shared_metrics
from clipsearch_server.workers.port import reserved
from clipsearch_server.workers.shared_metrics import SharedMetrics
from clipsearch_server.workers.supervisor import settings_of_each, supervise, workers_of

REMOTE = ["--encoder-backend", "triton", "--index-backend", "qdrant"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "the folder of an embedded index belongs to one process"),
        (REMOTE[:2], "the folder of an embedded index belongs to one process"),
        (REMOTE[2:], "each process would load the model for itself"),
    ],
)
@pytest.mark.parametrize("workers", ["2", "0"])
def test_what_is_embedded_is_served_by_one_process(
    argv: list[str], expected: str, workers: str
) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings([*argv, "--workers", workers], {})
    assert expected in caught.value.message
    assert "or --workers 1" in caught.value.message
    assert workers_of(load_settings(argv, {})) == 1


def test_there_may_be_a_worker_for_each_core() -> None:
    assert workers_of(load_settings([*REMOTE, "--workers", "0"], {})) == cores()
    assert workers_of(load_settings([*REMOTE, "--workers", "3"], {})) == 3


@pytest.mark.parametrize(("decoders", "each"), [(7, 3), (2, 1), (1, 1)])
def test_workers_share_the_processes_that_decode(decoders: int, each: int) -> None:
    settings = load_settings([*REMOTE, "--image-decode-workers", str(decoders)], {})
    worker = settings_of_each(settings, 2, "127.0.0.1:1234")
    assert worker.image.decode_workers == each
    assert worker.address == "127.0.0.1:1234"
    assert worker.qdrant == settings.qdrant


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::]"])
async def test_a_reserved_port_is_shared_by_those_who_say_so(host: str) -> None:
    with reserved(f"{host}:0") as address:
        servers = [grpc.aio.server(options=[("grpc.so_reuseport", 1)]) for _ in range(2)]
        for server in servers:
            assert f"{host}:{server.add_insecure_port(address)}" == address
            await server.start()
        with pytest.raises(StartupError, match="it is taken"), reserved(address):
            pass
        alone = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        with pytest.raises(RuntimeError):
            alone.add_insecure_port(address)
        for server in servers:
            await server.stop(0)


def test_a_port_that_others_have_is_not_reserved() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with (
            pytest.raises(StartupError, match=f"cannot listen on {address}: it is taken"),
            reserved(address),
        ):
            pass
    with reserved(address) as free:
        assert free == address


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_an_address_of_another_machine_is_refused(address: str) -> None:
    with pytest.raises(StartupError, match=f"cannot listen on {address}"), reserved(address):
        pass


async def test_a_system_without_processes_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    settings = await asyncio.to_thread(load_settings, [*REMOTE, "--address", "127.0.0.1:0"], {})
    with pytest.raises(StartupError, match="no process for worker 1: Resource temporarily"):
        await supervise(settings, 2, Stopping(), on_serving=lambda address: None)


_COUNTING = """
from prometheus_client import Counter, Gauge, Histogram
Counter("calls", "Calls", ("code",)).labels("OK").inc(3)
Gauge("in_flight", "Calls under way", multiprocess_mode="livesum").set(1)
seconds = Histogram("seconds", "Seconds", buckets=(1, 10))
seconds.observe(0.5)
seconds.observe(5)
"""


def test_what_workers_counted_that_ended_is_kept_in_files_that_do_not_multiply(
    tmp_path: Path,
) -> None:
    shared = SharedMetrics(str(tmp_path))
    for _ in range(3):
        worker = subprocess.Popen([sys.executable, "-c", _COUNTING], env=shared.environment)
        assert worker.wait() == 0
        asyncio.run(shared.forget(worker.pid))
    assert {it.name for it in tmp_path.iterdir()} == {"counter_ended.db", "histogram_ended.db"}
    samples = {
        (it.name, it.labels.get("le", "")): it.value
        for metric in shared.collect()
        for it in metric.samples
    }
    assert samples == {
        ("calls_total", ""): 9,
        ("seconds_bucket", "1.0"): 3,
        ("seconds_bucket", "10.0"): 6,
        ("seconds_bucket", "+Inf"): 6,
        ("seconds_count", ""): 6,
        ("seconds_sum", ""): 16.5,
    }


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="killed as it made the file"),
        pytest.param(lambda data: data[:20], id="cut"),
        pytest.param(lambda data: data[:8] + bytes(len(data) - 8), id="a page was not written"),
        pytest.param(lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:], id="overlong"),
    ],
)
def test_counts_that_cannot_be_read_are_lost_and_nothing_else_is(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = SharedMetrics(str(tmp_path))
    worker = subprocess.Popen([sys.executable, "-c", _COUNTING], env=shared.environment)
    assert worker.wait() == 0
    for file in [*tmp_path.iterdir()]:
        content = file.read_bytes()
        for pid in (1, 2):  # as if there had been more
            file.with_name(file.name.replace(str(worker.pid), str(pid))).write_bytes(content)
    damaged = tmp_path / "counter_1.db"
    damaged.write_bytes(damage(damaged.read_bytes()))
    for pid in (worker.pid, 1, 2):
        asyncio.run(shared.forget(pid))
    (record,) = caplog.records
    assert record.getMessage().startswith("counts of worker pid=1 are lost: ")
    assert {it.name for it in tmp_path.iterdir()} == {"counter_ended.db", "histogram_ended.db"}
    samples = {it.name: it.value for metric in shared.collect() for it in metric.samples}
    assert samples["calls_total"] == 6
    assert samples["seconds_count"] == 4


@pytest.mark.parametrize("has_shm", [True, False])
async def test_metrics_are_shared_in_memory_where_there_is_such_a_folder(
    has_shm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, shm = tmp_path / "disk", tmp_path / "shm"
    for folder in (disk, *([shm] if has_shm else [])):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    monkeypatch.setattr(shared_metrics, "_MEMORY", str(shm))
    async with shared_metrics.serving_shared_metrics("127.0.0.1:0", Stopping()) as metrics:
        (folder,) = map(Path, metrics.environment.values())
        assert folder.parent == (shm if has_shm else disk)
    assert not await asyncio.to_thread(folder.exists)


@pytest.mark.skipif(sys.platform != "linux", reason="sets affinity")
def test_only_cores_that_the_process_may_run_on_count() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
