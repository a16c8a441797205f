"""Who may call a real server that has keys and a certificate, while both change under it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from uuid import uuid4

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from clipsearch import (
    AddItem,
    AddResult,
    AsyncSearchClient,
    NotFoundError,
    PermissionDeniedError,
    SearchClient,
    UnauthenticatedError,
    UnavailableError,
)
from clipsearch_server.identity.api_keys import hash_of
from clipsearch_server.testing import ServerProcess
from samples import png

SERVICE = "clipsearch.v1.ImageSearchService"
EXPIRED = f"cs_{'e' * 43}"


class Deployment:
    """The files that an operator keeps for a server, and what is done with them."""

    def __init__(self, folder: Path) -> None:
        self.keys = folder / "keys.toml"
        self.ca_file = folder / "ca.pem"
        self.certificate = folder / "tls.pem"
        self.data = folder / "data"
        self.given: list[str] = []
        self.renew_certificate()
        self.reader = self.make_key("reader", "read")
        self.writer = self.make_key("writer", "read,write")

    def renew_certificate(self) -> None:
        """Puts a certificate of a new authority in the place of the one that is there."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        self.replace(self.certificate, issued.bytes())
        self.replace(self.ca_file, authority.cert_pem.bytes())

    def replace(self, file: Path, content: bytes) -> None:
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.chmod(0o600)
        new.replace(file)

    def make_key(self, name: str, scopes: str) -> str:
        key = self.run("new", name, "--scopes", scopes).strip()
        self.given.append(key)
        return key

    def run(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "clipsearch_server", "keys", *arguments]
        done = subprocess.run(
            [*command, "--file", str(self.keys)], capture_output=True, text=True, check=True
        )
        return done.stdout

    @property
    def options(self) -> list[str]:
        return [
            *("--data-dir", str(self.data), "--auth-keys-file", str(self.keys)),
            *("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.certificate)),
        ]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    deployment = Deployment(tmp_path_factory.mktemp("identity"))
    with deployment.keys.open("a") as file:
        file.write(
            f'[[keys]]\nname = "former"\nsha256 = "{hash_of(EXPIRED)}"\n'
            'scopes = ["read", "write", "admin"]\nexpires = 2026-01-01T00:00:00Z\n'
        )
    return deployment


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Iterator[ServerProcess]:
    with ServerProcess(*deployment.options) as server:
        yield server
    assert "Traceback" not in server.log
    assert "UNAUTHENTICATED" not in server.log  # strangers fill no disk: they are summed up
    assert "refused calls of strangers: " in server.log
    for key in (*deployment.given, EXPIRED):
        assert key not in server.log


@pytest.fixture
def client_of(
    server: ServerProcess, deployment: Deployment
) -> Callable[[str | None], SearchClient]:
    return lambda key: SearchClient(
        server.address, ca_file=deployment.ca_file, api_key=key, timeout_s=10
    )


@contextmanager
def channel_to(server: ServerProcess, deployment: Deployment) -> Iterator[grpc.Channel]:
    credentials = grpc.ssl_channel_credentials(deployment.ca_file.read_bytes())
    with grpc.secure_channel(server.address, credentials) as channel:
        yield channel


def until(condition: Callable[[], bool]) -> None:
    """Returns once it is so, which takes a server that looks every second not much longer."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


ClientOf = Callable[[str | None], SearchClient]


@pytest.mark.parametrize("key", [None, f"cs_{'x' * 43}", "nonsense", EXPIRED])
async def test_row_29_without_a_valid_key(
    server: ServerProcess, deployment: Deployment, client_of: ClientOf, key: str | None
) -> None:
    item = AddItem(item_id="red", content=png("red"))
    expected = "asks for an API key" if key is None else "is not valid"
    with client_of(key) as client:
        with pytest.raises(UnauthenticatedError, match=expected) as caught:
            client.query_text("red")
        assert caught.value.reason == "UNAUTHENTICATED"
        with pytest.raises(UnauthenticatedError, match=expected):
            list(client.add_images([item]))
        with pytest.raises(UnauthenticatedError, match=expected):
            list(client.export_images())
    async with AsyncSearchClient(
        server.address, ca_file=deployment.ca_file, api_key=key
    ) as aio_client:
        with pytest.raises(UnauthenticatedError, match=expected):
            await aio_client.server_info()
        # While messages are being sent, grpc.aio would forget what the server said.
        for _ in range(10):
            with pytest.raises(UnauthenticatedError, match=expected):
                _ = [result async for result in aio_client.add_images([item] * 20)]


def test_row_29_a_stranger_is_refused_before_the_message_is_read(
    server: ServerProcess, deployment: Deployment
) -> None:
    # A message that is never sent, so whoever waited for it would answer never.
    never: SimpleQueue[bytes | None] = SimpleQueue()
    with channel_to(server, deployment) as channel:
        for method in ("AddImage", "QueryText"):
            call = channel.stream_unary(f"/{SERVICE}/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call(iter(never.get, None), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            never.put(None)


def test_row_29_two_keys_and_other_schemes_are_no_key(
    server: ServerProcess, deployment: Deployment
) -> None:
    good = f"Bearer {deployment.reader}"
    with channel_to(server, deployment) as channel:
        call = channel.unary_unary(f"/{SERVICE}/GetServerInfo")
        for values in ([good, good], [f"Basic {deployment.reader}"], [deployment.reader], [""]):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=[("authorization", value) for value in values], timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert call(b"", metadata=[("authorization", good.replace("B", "b", 1))], timeout=10)


async def test_a_key_goes_with_streams_too(server: ServerProcess, deployment: Deployment) -> None:
    items = [AddItem(item_id=colour, content=png(colour)) for colour in ("cyan", "pink")]
    async with AsyncSearchClient(
        server.address, ca_file=deployment.ca_file, api_key=deployment.writer
    ) as client:
        assert [result.error async for result in client.add_images(items)] == [None, None]
        images = [image async for image in client.export_images()]
        assert len(images) >= 2
        assert [count async for count in client.import_images(images)] == [len(images)]


def test_row_29_a_key_does_what_its_scopes_allow(
    deployment: Deployment, client_of: ClientOf
) -> None:
    with client_of(deployment.reader) as reader, client_of(deployment.writer) as writer:
        added = writer.add_image(content=png("red"))
        assert reader.get_image(added.image.id) == added.image
        with pytest.raises(PermissionDeniedError, match="lacks the scope write"):
            reader.delete_image(added.image.id)
        with pytest.raises(PermissionDeniedError, match="lacks the scope write"):
            list(reader.add_images([AddItem(item_id="red", content=png("red"))]))
        # Asked before anything is looked up: nobody learns what there is.
        for collection in ("images", "no-such-collection"):
            with pytest.raises(PermissionDeniedError, match="lacks the scope admin"):
                writer.delete_collection(collection)


def test_health_and_reflection_need_no_key(server: ServerProcess, deployment: Deployment) -> None:
    with channel_to(server, deployment) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_row_29_keys_come_and_go_without_a_restart(
    deployment: Deployment, client_of: ClientOf
) -> None:
    guest = deployment.make_key("guest", "write")
    items: SimpleQueue[AddItem | None] = SimpleQueue()

    def is_known(client: SearchClient) -> bool:
        try:
            client.delete_image(str(uuid4()))
        except UnauthenticatedError:
            return False
        except NotFoundError:
            return True

    with client_of(guest) as client:
        until(lambda: is_known(client))
        results: Iterator[AddResult] = client.add_images(iter(items.get, None), max_in_flight=1)
        items.put(AddItem(item_id="1", content=png("green")))
        assert next(results).error is None
        deployment.run("revoke", "guest")
        until(lambda: not is_known(client))
        # A stream that was let in goes on to its end.
        items.put(AddItem(item_id="2", content=png("blue")))
        assert next(results).error is None
        items.put(None)
        assert list(results) == []
    with client_of(deployment.reader) as reader:
        reader.server_info()


def test_a_broken_file_of_keys_changes_nothing_and_is_told_once(
    server: ServerProcess, deployment: Deployment, client_of: ClientOf
) -> None:
    good = deployment.keys.read_bytes()
    deployment.replace(deployment.keys, good + b'[[keys]]\nname = "half')
    until(lambda: "the new keys cannot be used" in server.log)
    with client_of(deployment.reader) as reader:
        reader.server_info()
    deployment.replace(deployment.keys, good + b"# whole again\n")
    until(lambda: server.log.rfind("read the new keys") > server.log.rfind("cannot be used"))
    (line,) = re.findall(r".*the new keys cannot be used.*", server.log)
    assert f"{deployment.keys}: is not TOML" in line


def test_a_new_certificate_is_for_new_connections(
    server: ServerProcess, deployment: Deployment, client_of: ClientOf
) -> None:
    good = deployment.certificate.read_bytes()
    with client_of(deployment.reader) as early:
        early.server_info()
        deployment.replace(deployment.certificate, b"-----BEGIN CERTIFICATE-----\nhalf")
        until(lambda: "the new certificate cannot be used, the former stay" in server.log)
        with client_of(deployment.reader) as client:
            client.server_info()
        deployment.replace(deployment.certificate, good)
        former = deployment.ca_file.with_name("former.pem")
        former.write_bytes(deployment.ca_file.read_bytes())
        deployment.renew_certificate()
        until(lambda: "read the new certificate" in server.log)
        with client_of(deployment.reader) as client:
            client.server_info()
        early.server_info()
    with (
        SearchClient(server.address, ca_file=former, api_key=deployment.reader) as late,
        pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        late.server_info(timeout_s=5)
