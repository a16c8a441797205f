"""What is no gRPC, or too much of it, on the port of a real server: nobody else notices."""

from __future__ import annotations

import random
import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import grpc
import h2.errors
import h2.events
import psutil
import pytest
import trustme

from clipsearch import SearchClient, SearchError, UnavailableError
from clipsearch_server.testing import ServerProcess
from http2_attacker import Attacker

_SERVICE = "/clipsearch.v1.ImageSearchService"
_METHOD = f"{_SERVICE}/GetServerInfo"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_SETTINGS = bytes.fromhex("000000040000000000")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess("--data-dir", str(tmp_path_factory.mktemp("data"))) as server:
        yield server
        assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def tls_server(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    both = str(folder / "both.pem")
    tls = ("--tls-cert-file", both, "--tls-key-file", both)
    with ServerProcess("--data-dir", str(folder / "data"), *tls) as server:
        yield server
        assert "Traceback" not in server.log


@contextmanager
def nobody_else_notices(client: SearchClient) -> Iterator[None]:
    """Somebody else makes call after call meanwhile, and each of them succeeds."""
    over = Event()

    def call() -> int:
        calls = 0
        while not over.is_set() or calls < 3:
            client.server_info(timeout_s=10)
            calls += 1
        return calls

    with ThreadPoolExecutor(1) as threads:
        calls = threads.submit(call)
        try:
            yield
        finally:
            over.set()
        assert calls.result() >= 3


def until_closed(address: str, data: bytes) -> bool:
    """Sends bytes, and says whether the server closes the connection, within 10 seconds."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        try:
            connection.sendall(data)
            while connection.recv(65_536):
                pass
        except TimeoutError:
            return False
        except OSError:  # it was, under what was being sent
            return True
    return True


@pytest.mark.parametrize("path", [f"{_SERVICE}/Nothing", "/no.such.Service/Method", "/", "//"])
def test_row_46_a_method_that_is_not_there(server: ServerProcess, path: str) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/grpc+x"])
def test_row_46_another_content_type_harms_nobody(server: ServerProcess, content_type: str) -> None:
    with (
        SearchClient(server.address) as client,
        nobody_else_notices(client),
        Attacker(server.address) as attacker,
    ):
        answer = attacker.call(_METHOD, content_type)
    # gRPC's core serves it all the same; were it to refuse it one day, it would say so.
    assert answer[":status"] in {"200", "415"}


def test_row_46_metadata_that_is_no_utf8_is_kept_out_of_the_log(server: ServerProcess) -> None:
    before = len(server.log)
    with (
        SearchClient(server.address) as client,
        nobody_else_notices(client),
        Attacker(server.address) as attacker,
    ):
        value = b"Bearer \xff\xfehush-hush"
        names = ("authorization", "x-request-id", "traceparent")
        answer = attacker.call(_METHOD, metadata=[(name, value) for name in names])
    assert answer["grpc-status"] == "0"
    assert re.fullmatch(r"[0-9a-f]{16}", answer["x-request-id"])
    said = server.log[before:]
    assert f"request_id={answer['x-request-id']}" in said
    for word in ("hush", "Invalid encoding", "Traceback"):
        assert word not in said


def test_row_46_what_is_no_http2_is_hung_up_on(server: ServerProcess) -> None:
    noise = random.Random(46)
    with SearchClient(server.address) as client, nobody_else_notices(client):
        assert until_closed(server.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for size in (1, 23, 24, 1_000, 100_000):
            assert until_closed(server.address, noise.randbytes(size)), size
        for size in (100, 10_000):
            garbage = noise.randbytes(size)
            assert until_closed(server.address, _PREFACE + garbage), size
            assert until_closed(server.address, _PREFACE + _NO_SETTINGS + garbage), size


def test_row_46_tls_to_the_plain_port(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    with SearchClient(server.address) as client, nobody_else_notices(client):
        with (
            socket.create_connection((host, int(port)), 10) as connection,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
        with SearchClient(server.address, tls=True) as wrong, pytest.raises(UnavailableError):
            wrong.server_info(timeout_s=5)


def test_row_46_no_tls_to_the_tls_port(tls_server: ServerProcess, ca_file: Path) -> None:
    noise = random.Random(46)
    with SearchClient(tls_server.address, ca_file=ca_file) as client, nobody_else_notices(client):
        with SearchClient(tls_server.address) as wrong, pytest.raises(UnavailableError):
            wrong.server_info(timeout_s=5)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", _PREFACE, noise.randbytes(10_000)):
            assert until_closed(tls_server.address, garbage)


def test_row_47_a_flood_of_pings_is_hung_up_on(server: ServerProcess) -> None:
    with (
        SearchClient(server.address) as client,
        nobody_else_notices(client),
        Attacker(server.address) as attacker,
    ):
        attacker.ping_until_closed(at_most=1_000)
    goaways = [
        (event.error_code, event.additional_data)
        for event in attacker.events
        if isinstance(event, h2.events.ConnectionTerminated)
    ]
    assert goaways == [(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")]


@pytest.mark.by_the_clock
def test_row_47_a_flood_of_resets_holds_up_no_other_method_and_takes_bounded_memory(
    server: ServerProcess,
) -> None:
    """More resets than the 16,000 calls that may wait to be looked at. Callers of the same method
    do wait, or get CANCELLED: docs/reliability.md says so."""
    process = psutil.Process(server.process.pid)
    slowest_s, most = 0.0, 0

    def flood(client: SearchClient) -> None:
        with Attacker(server.address) as attacker:
            attacker.open_and_reset(f"{_SERVICE}/QueryText", 18_000)
        answer = None
        while answer is None:  # of the method whose queue was filled, until that is worked off
            with suppress(SearchError):
                answer = client.query_text("a cat")

    with SearchClient(server.address) as client, ThreadPoolExecutor(1) as threads:
        client.server_info()
        before = process.memory_info().rss
        flooded = threads.submit(flood, client)
        while not flooded.done():
            start = time.perf_counter()
            client.server_info(timeout_s=10)
            slowest_s = max(slowest_s, time.perf_counter() - start)
            most = max(most, process.memory_info().rss)
        flooded.result()
    assert most - before < 400 * 2**20
    assert slowest_s < 2
