"""What is measured: clipsearch-server, with the settings that it comes with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import psutil
from dump_load import random_images
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from clipsearch import SearchClient
from clipsearch_server.testing import ServerProcess
from speed.workload import photographs


@dataclass(frozen=True, slots=True)
class AtRest:
    """A server that was just started, and has done a little."""

    start_s: float  # from the start of its process until it says that it serves
    memory_bytes: int


@contextmanager
def serving(model: Path, *, stored: int) -> Iterator[ServerProcess]:
    """A server of this model folder with so many images in it."""
    with (
        TemporaryDirectory() as data_dir,
        ServerProcess("--data-dir", data_dir, "--model-dir", str(model)) as server,
        SearchClient(server.address) as client,
    ):
        for _ in client.import_images(random_images(stored, client.server_info().model)):
            pass
        yield server


def start(model: Path) -> AtRest:
    """Starts a server, asks it and adds to it a few times, and stops it."""
    with TemporaryDirectory() as data_dir:
        begun = time.perf_counter()
        with ServerProcess("--data-dir", data_dir, "--model-dir", str(model)) as server:
            _wait_for_health(server.address)
            start_s = time.perf_counter() - begun
            with SearchClient(server.address) as client:
                for number, content in enumerate(photographs(0, 8)):
                    client.add_image(content=content)
                    client.query_text(f"photograph {number}")
            return AtRest(start_s, _memory_bytes(server.process.pid))


def _wait_for_health(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health = HealthStub(channel)
        while health.Check(HealthCheckRequest()).status != HealthCheckResponse.SERVING:
            time.sleep(0.02)


def _memory_bytes(pid: int) -> int:
    """What all processes of a server take: of what several have in common, each its share."""
    server = psutil.Process(pid)
    processes = (server, *server.children(recursive=True))
    return sum(process.memory_full_info().pss for process in processes)
