"""The real server when it is short of descriptors, and when it or a process of it is stopped."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from clipsearch import DeadlineExceededError, InvalidImageError, SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.testing import ServerProcess
from decode_workers import workers_of
from samples import png
from tiny_model import write_tiny_model

CONNECTIONS = 60
SPARE_DESCRIPTORS = 20
PAUSE_S = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with ServerProcess(
        *("--data-dir", str(folder / "data")),
        *("--model-dir", str(write_tiny_model(folder / "model"))),
        *("--fetch-allow-cidrs", "127.0.0.0/8", "--fetch-ports", "1-65535"),
        *("--image-decode-workers", "1", "--image-decode-cpu-s", "1", "--index-timeout-s", "5"),
    ) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[SearchClient]:
    with SearchClient(server.address) as client:
        client.add_image(content=png("red"))
        yield client


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another process does, and so can only be looked for."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def health(server: ServerProcess, name: str = "") -> int:
    with grpc.insecure_channel(server.address) as channel:
        return int(HealthStub(channel).Check(HealthCheckRequest(service=name), timeout=30).status)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_row_45_without_descriptors_new_work_waits_or_is_refused_and_old_goes_on(
    server: ServerProcess, client: SearchClient
) -> None:
    pid = server.process.pid
    descriptors = Path(f"/proc/{pid}/fd")

    def used() -> int:
        return len(list(descriptors.iterdir()))

    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    host, _, port = server.address.rpartition(":")
    with (
        grpc.insecure_channel(server.address) as channel,
        grpc.insecure_channel(
            server.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as new_channel,
        ExitStack() as limit,
    ):
        service = ImageSearchServiceStub(channel)
        service.QueryText(pb.QueryTextRequest(text="red"))
        limit.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, (soft, hard))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used() + SPARE_DESCRIPTORS, hard))
        with ExitStack() as many:
            for _ in range(CONNECTIONS):
                many.enter_context(socket.create_connection((host, int(port))))
            most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
            until(lambda: used() == most)
            # Who is connected is served: queries, and adds with a decoder and an index process.
            assert service.QueryText(pb.QueryTextRequest(text="red")).hits
            assert client.add_image(content=png("blue")).image
            # What needs a descriptor is an overload, and not a failure of the URL's host.
            with pytest.raises(grpc.RpcError) as caught:
                service.AddImage(pb.AddImageRequest(url=f"http://{server.address}/picture.png"))
            status = rpc_status.from_call(caught.value)
            info = error_details_pb2.ErrorInfo()
            status.details[0].Unpack(info)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert info.reason == "SERVER_OVERLOADED"
            assert status.details[1].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
            # A new connection waits,
            new = ImageSearchServiceStub(new_channel).QueryText.future(
                pb.QueryTextRequest(text="red"), timeout=60, wait_for_ready=True
            )
        assert new.result().hits  # until others have gone.
    assert health(server) == HealthCheckResponse.SERVING


def test_row_45_a_server_that_was_stopped_goes_on_where_it_was(
    server: ServerProcess, client: SearchClient
) -> None:
    hasty = SearchClient(server.address)
    with hasty, ThreadPoolExecutor(20) as callers:
        server.pause()
        try:
            queries = [callers.submit(client.query_text, "red") for _ in range(10)]
            adds = [
                callers.submit(client.add_image, content=png("green", (n, n))) for n in range(1, 10)
            ]
            with pytest.raises(DeadlineExceededError):
                hasty.query_text("red", timeout_s=PAUSE_S)
        finally:
            server.resume()
        assert all(query.result().hits for query in queries)
        assert len({add.result().image.id for add in adds}) == 9
    assert health(server) == HealthCheckResponse.SERVING


def test_row_45_a_stopped_index_process_is_a_deadline_for_callers_and_red(
    server: ServerProcess, client: SearchClient
) -> None:
    pid = server.process.pid
    (index,) = (
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if b"edge.process" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    with stopped(index):
        with pytest.raises(DeadlineExceededError):
            client.query_text("red")
        until(lambda: health(server) == HealthCheckResponse.NOT_SERVING)
        assert health(server, "encoder") == HealthCheckResponse.SERVING
    assert client.query_text("red").hits
    until(lambda: health(server) == HealthCheckResponse.SERVING)


def test_row_45_a_stopped_decoder_costs_one_image_and_is_replaced(
    server: ServerProcess, client: SearchClient
) -> None:
    (worker,) = workers_of(server.process.pid)
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(3) as callers:
        adds = [
            callers.submit(client.add_image, content=png(colour))
            for colour in ("yellow", "cyan", "pink")
        ]
        (error,) = (error for add in adds if (error := add.exception()))
    assert isinstance(error, InvalidImageError)
    assert error.reason == "IMAGE_DECODE_FAILED"
    until(lambda: worker not in workers_of(server.process.pid))
    assert client.add_image(content=png("magenta")).image
    assert health(server) == HealthCheckResponse.SERVING
