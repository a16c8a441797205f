"""TLS, against a server with a certificate of its own authority."""

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
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_ImageSearchServiceServicer_to_server(service, server)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(grace=None).wait()


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
