"""The real server: its process, the demo model, Qdrant Edge and the client, on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import clipsearch
from benches import bench
from clipsearch import AddItem, AddOutcome, SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.errors import StartupError
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess
from tiny_model import FINGERPRINT, write_tiny_model

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
SERVICE = "clipsearch.v1.ImageSearchService"


def pictures(count: int) -> list[Path]:
    return sorted(path for path in PICTURES.iterdir() if path.suffix in {".png", ".webp"})[:count]


def item(path: Path) -> AddItem:
    return AddItem(item_id=path.name, content=path.read_bytes(), uri=path.name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with 200 pictures, for tests that only read."""
    folder = tmp_path_factory.mktemp("data")
    loopback = ("--fetch-allow-cidrs", "127.0.0.0/8", "--fetch-ports", "1-65535")
    with ServerProcess("--data-dir", str(folder), *loopback) as server:
        with SearchClient(server.address) as client:
            results = list(client.add_images(map(item, pictures(200))))
        assert all(result.error is None for result in results)
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[SearchClient]:
    with SearchClient(server.address) as client:
        yield client


@contextmanager
def image_host(content: bytes) -> Iterator[str]:
    """An HTTP host on loopback that delivers one image."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/image.png" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        thread = Thread(target=host.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()
        thread.join()


def test_a_name_finds_its_picture(client: SearchClient) -> None:
    """The model's own scores are in docs/demo-model.md; here it only has to be the real one."""
    found = 0
    for path in pictures(200)[::10]:
        hits = client.query_text(path.stem.replace("-", " "), limit=10).hits
        found += path.name in {hit.image.uri for hit in hits}
    assert found >= 12  # of 20; by chance it would be 1


def test_a_picture_is_found_by_its_url(client: SearchClient) -> None:
    with image_host(pictures(201)[-1].read_bytes()) as host:
        added = client.add_image(url=f"{host}/image.png")
        assert added.outcome is AddOutcome.ADDED
        assert client.add_image(url=f"{host}/image.png").outcome is AddOutcome.UNCHANGED
        with pytest.raises(clipsearch.SourceError) as caught:
            client.add_image(url=f"{host}/missing.png")
        assert caught.value.reason == "SOURCE_HTTP_STATUS"
    client.delete_image(added.image.id)


def test_every_image_is_listed_once(client: SearchClient) -> None:
    ids = [image.id for image in client.list_images()]
    assert len(ids) == len(set(ids)) == 200
    assert ids == sorted(ids)


def test_what_the_server_says_of_itself(client: SearchClient) -> None:
    info = client.server_info()
    assert info.encoder.startswith("onnxruntime ")
    assert info.index.startswith("qdrant-edge ")
    card = json.loads((DEMO_MODEL_DIR / "model_card.json").read_text())
    assert info.model.fingerprint == card["fingerprint"]
    assert [(c.name, c.image_count) for c in info.collections] == [("images-1", 200)]


def test_special_tokens_and_odd_texts_are_text(client: SearchClient) -> None:
    plain = client.query_text("a cat")
    special = client.query_text("a cat <|endoftext|> and more")
    assert special.token_count > plain.token_count + 2
    for text in ("\0", "\u202eevil", "🐈", "x" * 65_000):
        assert client.query_text(text).hits
    assert client.query_text("cat " * 100).truncated


def test_a_bulk_add_that_is_through_is_logged_as_ok(server: ServerProcess) -> None:
    assert "method=AddImages code=OK" in server.log
    assert "method=AddImages code=CANCELLED" not in server.log


def test_health_is_told_for_every_name(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE, "encoder", "index"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_client_that_knows_nothing_can_query_by_reflection(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        method = DescriptorPool(database).FindServiceByName(SERVICE).FindMethodByName("QueryText")
        request_class = GetMessageClass(method.input_type)
        call = channel.unary_unary(
            f"/{SERVICE}/QueryText",
            request_serializer=request_class.SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        response = call(request_class(text="a black cat", limit=3))
        assert len(response.hits) == 3


def test_a_restart_keeps_everything_and_the_port_is_free_again(tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path)) as server:
        with SearchClient(server.address) as client:
            added = client.add_image(content=pictures(1)[0].read_bytes(), metadata={"n": 1})
        assert server.stop() == 0
        address = server.address
    with (
        ServerProcess("--data-dir", str(tmp_path), "--address", address) as server,
        SearchClient(server.address) as client,
    ):
        assert server.address == address
        assert client.get_image(added.image.id) == added.image
        again = client.add_image(content=pictures(1)[0].read_bytes(), metadata={"n": 1})
        assert again.outcome is AddOutcome.UNCHANGED


def test_row_44_a_call_under_way_is_finished_before_the_server_stops(tmp_path: Path) -> None:
    with (
        ServerProcess("--data-dir", str(tmp_path)) as server,
        SearchClient(server.address) as client,
    ):
        results = client.add_images(map(item, pictures(100)), max_in_flight=8)
        first = next(results)
        server.process.send_signal(signal.SIGTERM)
        rest = list(results)
        assert first.error is None
        assert len(rest) == 99
        assert all(result.error is None for result in rest)
        assert server.process.wait() == 0


def test_row_44_the_server_says_that_it_stops_before_it_does(tmp_path: Path) -> None:
    with (
        ServerProcess("--data-dir", str(tmp_path), "--drain-delay-s", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Load balancers have not noticed yet.
        ImageSearchServiceStub(channel).QueryText(pb.QueryTextRequest(text="a cat"))
        assert list(watch) == []
        assert server.process.wait() == 0


def test_row_44_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path), "--drain-delay-s", "60") as server:
        with grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            next(watch)
            server.process.send_signal(signal.SIGTERM)
            next(watch)  # it drains
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 128 + signal.SIGTERM


@pytest.mark.by_the_clock
def test_row_44_no_call_fails_that_was_under_way(tmp_path: Path) -> None:
    report = bench("drain").run(rounds=1, seed=3, folder=tmp_path, processes=1)
    assert report.failed == []
    assert report.answered > 10


def startup_error(*options: str) -> str:
    """The one line with which a server that cannot start ends."""
    server = ServerProcess(*options)
    with pytest.raises(StartupError) as caught, server:
        pass
    assert server.process.returncode == 1
    said = caught.value.message.splitlines()
    assert "Traceback" not in caught.value.message
    (line,) = (line for line in said if line.startswith("clipsearch-server: "))
    return line


def test_row_42_a_second_server_on_one_folder_is_told_so(tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path)) as server:
        line = startup_error("--data-dir", str(tmp_path))
        assert str(tmp_path) in line
        assert "--data-dir" in line or "another" in line
        with SearchClient(server.address) as client:
            client.server_info()


def test_a_taken_address_is_named(server: ServerProcess, tmp_path: Path) -> None:
    line = startup_error("--data-dir", str(tmp_path), "--address", server.address)
    assert server.address in line


def test_a_wrong_model_folder_is_named(tmp_path: Path) -> None:
    line = startup_error("--data-dir", str(tmp_path / "data"), "--model-dir", str(tmp_path))
    assert str(tmp_path / "model_card.json") in line


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(DEMO_MODEL_DIR, tmp_path / "model")
    file = model / "clip_text" / "1" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    line = startup_error("--data-dir", str(tmp_path / "data"), "--model-dir", str(model))
    assert str(file) in line


def test_row_38_a_swapped_model_ends_the_start(tmp_path: Path) -> None:
    own, data = write_tiny_model(tmp_path / "model"), str(tmp_path / "data")
    with (
        ServerProcess("--data-dir", data, "--model-dir", str(own)) as server,
        SearchClient(server.address) as client,
    ):
        added = client.add_image(content=pictures(1)[0].read_bytes())
    line = startup_error("--data-dir", data)  # with the demo model
    assert FINGERPRINT in line
    assert "extra_model_dirs" in line
    with (
        ServerProcess("--data-dir", data, "--model-dir", str(own)) as server,
        SearchClient(server.address) as client,
    ):
        assert client.get_image(added.image.id) == added.image


def test_row_42_a_damaged_folder_ends_the_start_and_is_left_alone(
    tmp_path: Path,
) -> None:
    options = (
        *("--data-dir", str(tmp_path / "data")),
        *("--model-dir", str(write_tiny_model(tmp_path / "model"))),
    )
    with ServerProcess(*options):
        pass
    file = next((tmp_path / "data").rglob("edge_config.json"))
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    line = startup_error(*options)
    assert str(file) in line
    assert "put back a copy" in line
    assert file.read_text() == whole[: len(whole) // 2]
    file.write_text(whole)
    with ServerProcess(*options):
        pass


def test_random_bytes_do_not_stop_the_server(server: ServerProcess, client: SearchClient) -> None:
    host, _, port = server.address.rpartition(":")
    for junk in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99,
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(junk)
    assert client.query_text("a cat").hits


async def test_calls_that_are_cancelled_do_not_stop_the_server(server: ServerProcess) -> None:
    """gRPC frees a cancelled call under its handler, which must not ask it anything any more."""

    async def requests(items: int) -> AsyncIterator[pb.AddImagesRequest]:
        for number in range(items):
            yield pb.AddImagesRequest(
                item_id=str(number), request=pb.AddImageRequest(content=b"no image")
            )

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = ImageSearchServiceStub(channel)
        for round_ in range(200):
            stream = stub.AddImages(requests(3))
            for _ in range(round_ % 4):
                await stream.read()
            stream.cancel()
            query = stub.QueryText(pb.QueryTextRequest(text="a cat"))
            await asyncio.sleep(0.0005 * (round_ % 10))
            query.cancel()
        assert (await stub.QueryText(pb.QueryTextRequest(text="a cat"))).hits
