"""TLS and API keys, against a server with a certificate of its own authority."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme

from clipsearch import AsyncSearchClient, SearchClient, UnavailableError
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import add_ImageSearchServiceServicer_to_server
from unit.client.scripted_service import ScriptedService


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_target(authority: trustme.CA) -> Iterator[str]:
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    service = ScriptedService()
    service.answer("QueryText", pb.QueryTextResponse(token_count=3))
    service.answer("GetServerInfo", the_key)
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_ImageSearchServiceServicer_to_server(service, server)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(grace=None).wait()


def the_key(request: object, context: grpc.ServicerContext) -> pb.GetServerInfoResponse:
    """Answers with what the call brought, in place of a version."""
    return pb.GetServerInfoResponse(version=dict(context.invocation_metadata())["authorization"])


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


async def test_a_server_of_ones_own_authority_is_trusted(tls_target: str, ca_file: Path) -> None:
    with SearchClient(tls_target, ca_file=ca_file) as client:
        assert client.query_text("a cat").token_count == 3
    async with AsyncSearchClient(tls_target, ca_file=ca_file) as aio_client:
        assert (await aio_client.query_text("a cat")).token_count == 3


def test_a_stranger_is_not_trusted(tls_target: str) -> None:
    with (
        SearchClient(tls_target, tls=True) as client,
        pytest.raises(
            UnavailableError, match=f"cannot reach {tls_target}: .*CERTIFICATE_VERIFY_FAILED"
        ),
    ):
        client.query_text("a cat")


def test_a_ca_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        SearchClient("localhost:1", ca_file="no-such-file.pem")


async def test_a_key_goes_with_every_call(tls_target: str, ca_file: Path) -> None:
    with SearchClient(tls_target, ca_file=ca_file, api_key="cs_key") as client:
        assert client.server_info().version == "Bearer cs_key"
        assert "cs_key" not in repr(client)
    async with AsyncSearchClient(tls_target, ca_file=ca_file, api_key="cs_key") as aio_client:
        assert (await aio_client.server_info()).version == "Bearer cs_key"


@pytest.mark.parametrize(
    "target",
    [
        "search.example.com:443",
        "10.0.0.1:50051",
        "127.0.0.1.example.com:1",
        "localhost:1\n",
        "dns:///x",
    ],
)
async def test_a_key_crosses_no_network_for_all_to_read(target: str) -> None:
    for client in (SearchClient, AsyncSearchClient):
        with pytest.raises(ValueError, match="unencrypted") as caught:
            client(target, api_key="hush-hush")
        assert "hush" not in str(caught.value)
    SearchClient(target, api_key="hush-hush", tls=True).close()
    SearchClient(target, api_key="hush-hush", send_key_unencrypted=True).close()


@pytest.mark.parametrize(
    "target", ["localhost", "LOCALHOST:1", "127.0.0.1:1", "127.1.2.3", "[::1]:1"]
)
def test_a_key_needs_no_tls_within_the_machine(target: str) -> None:
    SearchClient(target, api_key="hush-hush").close()


@pytest.mark.parametrize("key", ["", "hush hush", "hush\n", "hush\N{BLACK STAR}"])
def test_what_is_no_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="an API key is printable ASCII") as caught:
        SearchClient("localhost:1", api_key=key)
    assert "hush" not in str(caught.value)


def test_a_certificate_comes_with_its_key(ca_file: Path) -> None:
    for half in ("client_cert_file", "client_key_file"):
        with pytest.raises(ValueError, match="given together"):
            SearchClient("localhost:1", **{half: ca_file})
