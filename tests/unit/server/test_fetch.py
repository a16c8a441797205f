"""The fetcher brings what a URL delivers, within its bounds, and never goes where it must not."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any

import pytest

from clipsearch_server.budget import Budget
from clipsearch_server.errors import (
    ClipsearchError,
    InvalidImage,
    Overloaded,
    SourceFailed,
    SourceNotAllowed,
)
from clipsearch_server.fetch.http import HttpFetcher
from clipsearch_server.fetch.network import Resolver
from clipsearch_server.fetch_policy import FetchPolicy
from clipsearch_server.priority import in_background

MAX_BYTES = 100_000
SHORT_S = 1.0  # half of it must suffice to connect, on a busy machine too
SYSTEM_AUTHORITIES = ssl.create_default_context()  # loading them takes a while: once is enough

# Every socket that this process tried to connect: what counts is not that an error came back, but
# that nothing was connected to.
connects: list[object] = []
sys.addaudithook(
    lambda event, args: connects.append(args[1]) if event == "socket.connect" else None
)

Respond = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request as a host sees it, and the connection to answer on."""

    head: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def path(self) -> str:
        return self.head.split(" ")[1]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class Host:
    """An HTTP server on loopback."""

    port: int
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serve(respond: Respond, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    tasks: set[asyncio.Task[None]] = set()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
            host.heads.append(head)
            await respond(Exchange(head, reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the fetcher hung up, as many tests want it to
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(exchange(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    host = Host(server.sockets[0].getsockname()[1])
    try:
        yield host
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets the connections close


def answer(status: str = "200 OK", body: bytes = b"image", **headers: str) -> Respond:
    async def respond(exchange: Exchange) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        await exchange.send("\r\n".join((*lines, "", "")).encode() + body)

    return respond


def redirect(to: str) -> Respond:
    return answer("302 Found", b"secret body", Location=to)


def resolve_to(*addresses: str) -> Resolver:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


LOOPBACK = FetchPolicy(networks=(ip_network("127.0.0.0/8"),), ports=(range(1, 65_536),))
PUBLIC = FetchPolicy(ports=LOOPBACK.ports)


def fetcher(policy: FetchPolicy = LOOPBACK, **options: Any) -> HttpFetcher:
    defaults = {
        "timeout_s": 5,
        "max_bytes": MAX_BYTES,
        "memory": Budget(2**30),
        "ssl_context": SYSTEM_AUTHORITIES,
    }
    return HttpFetcher(policy, **{**defaults, **options})


async def fetch(url: str, **options: Any) -> bytes:
    async with fetcher(**options) as client:
        return await client.fetch(url)


async def failure(url: str, **options: Any) -> ClipsearchError:
    with pytest.raises(ClipsearchError) as caught:
        await fetch(url, **options)
    assert "127.0.0.1" not in caught.value.message
    assert "secret" not in caught.value.message
    return caught.value


async def test_returns_the_body() -> None:
    async with serve(answer(body=b"\x00image\xff", Content_Length="7")) as host:
        assert await fetch(f"{host.url}/a.jpg?x=1#top") == b"\x00image\xff"
    assert host.heads[0].startswith("GET /a.jpg?x=1 HTTP/1.1\r\n")


async def test_an_empty_body_is_for_the_decoder_to_judge() -> None:
    async with serve(answer(body=b"", Content_Length="0")) as host:
        assert await fetch(host.url) == b""


async def test_says_honestly_who_asks_and_nothing_else() -> None:
    async with serve(answer(Set_Cookie="id=1")) as host, fetcher() as client:
        await client.fetch(host.url)
        await client.fetch(host.url)
    headers = dict(line.split(": ", 1) for line in host.heads[1].strip().split("\r\n")[1:])
    assert headers.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    assert headers["Host"] == f"127.0.0.1:{host.port}"
    assert headers["User-Agent"].startswith("clipsearch-server/")
    assert headers["Accept-Encoding"] == "identity"


async def test_proxies_and_netrc_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with serve(answer()) as proxy, serve(answer()) as host:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        await fetch(host.url)
        monkeypatch.setenv("NO_PROXY", "*")
        assert await fetch("http://images.example/", proxy=proxy.url) == b"image"
        assert len(proxy.heads) == 1
        proxy.heads.clear()
    assert not proxy.heads
    assert "authorization" not in host.heads[0].lower()


@pytest.mark.parametrize("status", ["400 Bad Request", "401 No", "403 No", "404 Not Found",
                                    "410 Gone", "204 No Content", "206 Partial", "304 Same",
                                    "302 Found"])  # fmt: skip
async def test_other_statuses(status: str) -> None:
    async with serve(answer(status, b"secret")) as host:
        error = await failure(host.url)
    assert error.reason == "SOURCE_HTTP_STATUS"
    assert error.metadata == {"retryable": "false", "status": status[:3]}


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "503 Later"])
async def test_statuses_that_may_pass(status: str) -> None:
    async with serve(answer(status, b"secret")) as host:
        error = await failure(host.url)
    assert error.reason == "SOURCE_UNAVAILABLE"
    assert error.metadata == {"retryable": "true", "status": status[:3]}


async def reset(exchange: Exchange) -> None:
    exchange.writer.transport.abort()


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(reset, id="reset"),
        pytest.param(answer(Content_Length="100"), id="ends too early"),
        pytest.param(answer(body=b"5\r\nimage", Transfer_Encoding="chunked"), id="chunk missing"),
        pytest.param(answer(Content_Length="-1"), id="negative length"),
        pytest.param(answer(Content_Length="9" * 5000), id="absurd length"),
        pytest.param(answer(X_Padding="x" * 1_000_000), id="1 MB header"),
        pytest.param(answer(Transfer_Encoding="gzip, chunked"), id="transfer encoding"),
        pytest.param(lambda exchange: exchange.send(b"SSH-2.0-secret\r\n"), id="not HTTP"),
        pytest.param(lambda exchange: exchange.send(b""), id="nothing"),
    ],
)
async def test_a_broken_answer(respond: Respond) -> None:
    async with serve(respond) as host:
        error = await failure(host.url)
    assert error.reason == "SOURCE_UNAVAILABLE"
    assert error.metadata["retryable"] == "true"


async def test_a_refused_connection() -> None:
    async with serve(answer()) as host:
        pass
    error = await failure(host.url)
    assert error.reason == "SOURCE_UNAVAILABLE"
    assert error.metadata["retryable"] == "true"


async def drip(exchange: Exchange, data: bytes) -> None:
    while True:
        await exchange.send(data)
        await asyncio.sleep(SHORT_S / 10)


async def silence(exchange: Exchange) -> None:
    await exchange.reader.read()


async def slow_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    await drip(exchange, b"X-Y: z\r\n")


async def slow_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await drip(exchange, b"x")


async def redirect_slowly(exchange: Exchange) -> None:
    await asyncio.sleep(SHORT_S * 0.4)
    await redirect("/again")(exchange)


async def interim_answers(exchange: Exchange) -> None:
    await drip(exchange, b"HTTP/1.1 102 Processing\r\n\r\n")


async def chunks_without_end(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await drip(exchange, b"1\r\nx\r\n")


@pytest.mark.parametrize(
    "respond",
    [slow_head, slow_body, redirect_slowly, interim_answers, chunks_without_end],
)
async def test_the_deadline_covers_everything(respond: Respond) -> None:
    clock = asyncio.get_running_loop().time
    async with serve(respond) as host:
        started = clock()
        error = await failure(host.url, timeout_s=SHORT_S)
        elapsed_s = clock() - started
    assert error.reason == "SOURCE_TIMEOUT"
    assert error.metadata["retryable"] == "true"
    assert SHORT_S * 0.9 <= elapsed_s < SHORT_S + 10  # without one, these would never end


async def pause_in_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nimage")
    await silence(exchange)


@pytest.mark.by_the_clock
@pytest.mark.parametrize("respond", [silence, pause_in_body])
async def test_a_host_that_falls_silent_is_given_up_sooner(respond: Respond) -> None:
    clock = asyncio.get_running_loop().time
    async with serve(respond) as host:
        started = clock()
        error = await failure(host.url, timeout_s=2)
        elapsed_s = clock() - started
    assert error.reason == "SOURCE_TIMEOUT"
    assert elapsed_s < 2


async def test_a_cancelled_fetch_hangs_up() -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def respond(exchange: Exchange) -> None:
        asked.set()
        await exchange.reader.read()
        hung_up.set()

    async with serve(respond) as host, fetcher() as client:
        task = asyncio.create_task(client.fetch(host.url))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await hung_up.wait()


async def endless(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await exchange.send(bytes(10_000))


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(endless, id="endless"),
        pytest.param(answer(Content_Length=str(MAX_BYTES + 1)), id="announced"),
        pytest.param(answer(body=bytes(MAX_BYTES + 1)), id="no length"),
    ],
)
async def test_too_many_bytes(respond: Respond) -> None:
    async with serve(respond) as host:
        error = await failure(host.url)
    assert isinstance(error, InvalidImage)
    assert error.reason == "IMAGE_TOO_LARGE"
    assert error.metadata["max_image_bytes"] == str(MAX_BYTES)


@pytest.mark.parametrize("head", ["", f"Content-Length: {10**9}\r\n", "Content-Length: 7\r\n"])
async def test_little_more_is_read_than_may_be(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, read = asyncio.get_running_loop(), 0
    receive = loop.sock_recv

    async def count(connection: socket.socket, max_bytes: int) -> bytes:
        nonlocal read
        data = await receive(connection, max_bytes)
        read += len(data)
        return data

    async def respond(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
        while True:
            await exchange.send(bytes(10_000))

    monkeypatch.setattr(loop, "sock_recv", count)
    async with serve(respond) as host:
        with suppress(InvalidImage):
            assert await fetch(host.url) == bytes(7)
    assert 0 < read <= MAX_BYTES + 65_536


async def test_as_many_bytes_as_allowed() -> None:
    async with serve(answer(body=bytes(MAX_BYTES))) as host:
        assert len(await fetch(host.url)) == MAX_BYTES


@pytest.mark.parametrize(
    ("head", "data"),
    [
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, id="interim answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100, id="headers"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"x" * 1000 + b"\r\nx\r\n",
            id="chunk extensions",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X: y\r\n" * 100,
            id="trailers",
        ),
    ],
)
async def test_what_comes_beside_a_body_is_bounded_too(head: bytes, data: bytes) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.send(head)
        while True:
            await exchange.send(data)

    async with serve(respond) as host:
        error = await failure(host.url, timeout_s=60)
    assert error.reason == "SOURCE_UNAVAILABLE"


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "zstd", "GZip", "identity, gzip"])
async def test_encoded_bodies_are_refused(encoding: str) -> None:
    body = gzip.compress(b"image")
    async with serve(answer(body=body, Content_Encoding=encoding)) as host:
        error = await failure(host.url)
    assert error.reason == "SOURCE_ENCODING_NOT_ALLOWED"


async def test_redirects_are_followed() -> None:
    async def respond(exchange: Exchange) -> None:
        here = exchange.path
        hops = {"/": "/a", "/a": f"{host.url}/b", "/b": "c?d"}
        await (redirect(hops[here]) if here in hops else answer(body=here.encode()))(exchange)

    async with serve(respond) as host:
        assert await fetch(host.url) == b"/c?d"


async def test_a_callers_headers_go_to_the_urls_own_origin_only() -> None:
    headers = {"Authorization": "Bearer hush", "accept": "image/webp"}

    async def respond(exchange: Exchange) -> None:
        hops = {"/": "/again", "/again": f"{away.url}/", "/back": "/end"}
        path = exchange.path
        await (redirect(hops[path]) if path in hops else answer())(exchange)

    async with (
        serve(respond) as host,
        serve(redirect(f"{host.url}/back")) as away,
        fetcher(max_redirects=4) as client,
    ):
        assert await client.fetch(host.url, headers) == b"image"
    sent = [head.partition(" ")[2].partition(" ")[0] for head in host.heads if "hush" in head]
    assert sent == ["/", "/again"]  # and not when a redirect led back
    assert "Accept: image/*" not in host.heads[0]
    assert "accept: image/webp\r\n" in host.heads[0]
    assert len(host.heads) == 4
    assert all("hush" not in head and "webp" not in head for head in away.heads)
    assert "Accept: image/*\r\n" in away.heads[0]


async def test_nothing_private_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def respond(exchange: Exchange) -> None:
        gone = answer("404 hush", X_Hush="hush")
        await (redirect("/hush") if exchange.path == "/?key=hush" else gone)(exchange)

    with caplog.at_level(logging.DEBUG):
        async with serve(respond) as host, fetcher() as client:
            for path in ("/?key=hush", "/gone?hush", "/"):
                with pytest.raises(ClipsearchError):
                    await client.fetch(f"{host.url}{path}", {"Authorization": "hush"})
            for url in ("http://hush@h/", "ftp://h/hush", "http://10.0.0.1/hush"):
                with pytest.raises(ClipsearchError):
                    await client.fetch(url, {"Authorization": "hush"})
    assert "hush" not in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_redirects_are_counted() -> None:
    async with serve(redirect("/")) as host:
        error = await failure(host.url, max_redirects=3)
    assert error.reason == "SOURCE_TOO_MANY_REDIRECTS"
    assert len(host.heads) == 4


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://a.example/", "http://u:secret@a.example/", "http://a.example:0/",
     "http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/", "http://a\\b/",
     "/caf\u00e9", "http://" + "x" * 3000],
)  # fmt: skip
async def test_redirects_obey_the_rules_of_urls(location: str) -> None:
    async with serve(redirect(location)) as host:
        connects.clear()
        error = await failure(host.url)
    assert isinstance(error, SourceNotAllowed)
    assert connects == [("127.0.0.1", host.port)]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "https://127.0.0.1/", "http://0.0.0.0/", "http://localhost/",
     "http://2130706433/", "http://0x7f000001/", "http://017700000001/", "http://127.1/",
     "http://0x7f.1/", "http://10.0.0.1/", "http://169.254.169.254/", "http://168.63.129.16/",
     "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
     "http://[2002:7f00:1::1]/", "http://[fec0::1]/", "http://[fd00:ec2::254]/"],
)  # fmt: skip
async def test_addresses_that_are_not_public_are_not_connected_to(url: str) -> None:
    connects.clear()
    error = await failure(url, policy=PUBLIC)
    assert isinstance(error, SourceNotAllowed)
    assert error.message == "this server does not fetch from the URL's address"
    assert not connects


@pytest.mark.parametrize(
    "answers",
    [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["10.0.0.1", "93.184.216.34"],
     ["2606:4700::1111", "fe80::1%eth0"], ["93.184.216.34"] * 200 + ["192.168.0.1"]],
)  # fmt: skip
async def test_one_forbidden_address_forbids_the_name(answers: list[str]) -> None:
    connects.clear()
    error = await failure("http://images.example/", policy=PUBLIC, resolve=resolve_to(*answers))
    assert isinstance(error, SourceNotAllowed)
    assert not connects


async def test_metadata_services_stay_forbidden_where_private_addresses_are_allowed() -> None:
    async with serve(answer()) as host:
        connects.clear()
        resolve = resolve_to("127.0.0.1", "169.254.169.254")
        error = await failure(f"http://images.example:{host.port}/", resolve=resolve)
    assert isinstance(error, SourceNotAllowed)
    assert not connects


async def test_a_name_is_resolved_once() -> None:
    questions: list[tuple[str, int]] = []

    async def rebind(host: str, port: int) -> Sequence[str]:
        questions.append((host, port))
        return ["127.0.0.1"] if len(questions) == 1 else ["127.0.0.2"]

    async with serve(answer()) as host:
        connects.clear()
        await fetch(f"http://Images.example:{host.port}/", resolve=rebind)
    assert questions == [("images.example", host.port)]
    assert connects == [("127.0.0.1", host.port)]
    assert f"Host: images.example:{host.port}\r\n" in host.heads[0]


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    async with serve(answer()) as host:
        resolve = resolve_to("127.0.0.2", "127.0.0.1")
        assert await fetch(f"http://images.example:{host.port}/", resolve=resolve) == b"image"


async def test_the_systems_resolver_is_the_default() -> None:
    async with serve(answer()) as host:
        assert await fetch(f"http://localhost:{host.port}/") == b"image"


async def test_a_name_without_an_address() -> None:
    error = await failure("http://images.example/", resolve=resolve_to())
    assert isinstance(error, SourceFailed)
    assert error.reason == "SOURCE_UNREACHABLE"
    assert error.metadata["retryable"] == "false"


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ("x" * 60 + ".") * 5])
async def test_names_that_cannot_be_resolved(name: str) -> None:
    error = await failure(f"http://{name}/")
    assert error.reason == "SOURCE_UNREACHABLE"


async def test_names_that_hang_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a name's servers are silent, its thread is lost; whoever asked goes on sooner."""
    look_up, over = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host.startswith("silent"):
            over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "timed out")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with serve(answer()) as host, fetcher(timeout_s=SHORT_S, max_concurrent=4) as client:
            for batch in range(3):
                names = [f"http://silent{batch}{i}.example/" for i in range(4)]
                failures = await asyncio.gather(*map(client.fetch, names), return_exceptions=True)
                for error in failures:
                    assert isinstance(error, SourceFailed)
                    assert error.reason == "SOURCE_UNREACHABLE"
            assert await client.fetch(f"http://localhost:{host.port}/") == b"image"
            names = [f"http://silent-{i}.example/" for i in range(8)]
            failures = await asyncio.gather(*map(client.fetch, names), return_exceptions=True)
            assert all(isinstance(error, SourceFailed) for error in failures)
    finally:
        over.set()


@pytest.mark.parametrize(
    ("name", "by_proxy"), [("127.0.0.1", False), ("localhost", False), ("127.0.0.1", True)]
)
async def test_who_may_open_nothing_more_does_not_blame_the_host(name: str, by_proxy: bool) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serve(answer()) as host:
        at = f"http://{name}:{host.port}"
        url = "http://images.example/" if by_proxy else at
        async with fetcher(proxy=at if by_proxy else "") as client:
            await client.fetch(url)  # what is opened once
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
            try:
                with pytest.raises(Overloaded):
                    await client.fetch(url)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert await client.fetch(url) == b"image"


async def test_a_resolver_that_hangs() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    error = await failure("http://images.example/", resolve=resolve, timeout_s=SHORT_S)
    assert error.reason == "SOURCE_UNREACHABLE"
    assert error.metadata["retryable"] == "true"


async def test_fetches_from_one_host_are_bounded_and_waiting_costs_no_time() -> None:
    active = most = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(SHORT_S / 4)
        active -= 1
        await answer()(exchange)

    async with (
        serve(respond) as host,
        fetcher(timeout_s=SHORT_S * 2, max_concurrent_per_host=1) as client,
    ):
        await asyncio.gather(*(client.fetch(host.url) for _ in range(10)))
    assert most == 1


async def test_a_busy_host_does_not_hold_up_another() -> None:
    asked = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        asked.set()
        await silence(exchange)

    async with (
        serve(hang) as busy,
        serve(answer()) as other,
        fetcher(max_concurrent=2, max_concurrent_per_host=1) as client,
    ):
        stuck = [asyncio.create_task(client.fetch(f"{busy.url}/{i}")) for i in range(5)]
        await asked.wait()
        assert await client.fetch(f"http://localhost:{other.port}") == b"image"
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
    assert len(busy.heads) == 1


async def test_a_policys_hosts_and_ports_hold_for_redirects_too() -> None:
    async with serve(answer()) as other, serve(redirect(f"http://b.example:{other.port}/")) as host:
        policy = replace(LOOPBACK, hosts=("a.example",))
        resolve = resolve_to("127.0.0.1")
        error = await failure(f"http://a.example:{host.port}/", policy=policy, resolve=resolve)
        assert isinstance(error, SourceNotAllowed)
        policy = replace(LOOPBACK, ports=(range(host.port, host.port + 1),))
        error = await failure(f"http://a.example:{host.port}/", policy=policy, resolve=resolve)
        assert isinstance(error, SourceNotAllowed)
    assert len(host.heads) == 2
    assert not other.heads


async def test_a_proxy_gets_every_request_and_resolves_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def no_answer(host: str, port: int) -> Sequence[str]:
        raise AssertionError(f"{host} was resolved")

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == "proxy.example" else await no_answer(host, port)

    async with serve(answer()) as proxy:
        options = {
            "proxy": f"http://me:hu%3Ash@proxy.example:{proxy.port}",
            "resolve": resolve,
            "policy": FetchPolicy(),
        }
        async with fetcher(**options) as client:
            assert await client.fetch("http://images.example/a?b", {"X-Key": "k"}) == b"image"
            assert await client.fetch("http://images.example/c") == b"image"
    assert proxy.heads[0].startswith("GET http://images.example:80/a?b HTTP/1.1\r\n")
    for line in ("Host: images.example", "X-Key: k", "Accept-Encoding: identity",
                 "Proxy-Authorization: Basic bWU6aHU6c2g="):  # fmt: skip
        assert f"\r\n{line}\r\n" in proxy.heads[0]
    assert "X-Key" not in proxy.heads[1]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"proxy.example:{proxy.port}" in warnings[0]
    assert "me:" not in warnings[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0x7f.1", "2130706433", "127.0.0.1.", "10.0.0.1", "[::1]",
             "169.254.169.254", "[::ffff:169.254.169.254]", "017700000001"],
)  # fmt: skip
async def test_an_address_is_vetted_before_a_proxy_gets_it(host: str) -> None:
    async with serve(answer()) as proxy:
        error = await failure(f"http://{host}/", policy=FetchPolicy(), proxy=proxy.url)
    assert error.reason in {"SOURCE_NOT_ALLOWED", "SOURCE_UNREACHABLE"}
    assert not proxy.heads


@dataclass
class Tls:
    """A certificate for images.example, and a client that trusts who signed it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def tls() -> Tls:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("images.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Tls(server, client)


async def test_https_checks_the_certificate_against_the_name(tls: Tls) -> None:
    options: dict[str, Any] = {
        "resolve": resolve_to("127.0.0.1"),
        "ssl_context": tls.client,
    }
    async with serve(answer(), tls=tls.server) as host:
        assert await fetch(f"https://images.example:{host.port}/", **options) == b"image"
        error = await failure(f"https://other.example:{host.port}/", **options)
        assert error.reason == "SOURCE_UNREACHABLE"
        assert error.metadata["retryable"] == "false"
        options["ssl_context"] = SYSTEM_AUTHORITIES
        error = await failure(f"https://images.example:{host.port}/", **options)
        assert error.reason == "SOURCE_UNREACHABLE"
    assert len(host.heads) == 1


async def test_https_goes_through_a_tunnel_that_a_proxy_opens(tls: Tls) -> None:
    async with serve(answer(), tls=tls.server) as host:

        async def tunnel(exchange: Exchange) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            await exchange.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            try:
                await asyncio.gather(pump(exchange.reader, writer), pump(reader, exchange.writer))
            finally:
                writer.close()

        async with serve(tunnel) as proxy:
            options: dict[str, Any] = {"proxy": proxy.url, "ssl_context": tls.client}
            async with fetcher(FetchPolicy(), **options) as client:
                assert await client.fetch("https://images.example/", {"X-Key": "k"}) == b"image"
        async with serve(answer("403 Forbidden", b"secret")) as proxy:
            options["proxy"] = proxy.url
            error = await failure("https://images.example/", policy=FetchPolicy(), **options)
    assert error.reason == "SOURCE_UNREACHABLE"
    assert proxy.heads[0].startswith("CONNECT images.example:443 HTTP/1.1\r\n")
    assert "X-Key" not in proxy.heads[0]
    assert "X-Key: k" in host.heads[0]


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_https_does_not_redirect_to_http(tls: Tls) -> None:
    async with (
        serve(answer()) as plain,
        serve(redirect(plain.url), tls=tls.server) as host,
    ):
        error = await failure(
            f"https://images.example:{host.port}/",
            resolve=resolve_to("127.0.0.1"),
            ssl_context=tls.client,
        )
    assert isinstance(error, SourceNotAllowed)
    assert not plain.heads


async def test_a_body_in_tiny_chunks_is_refused_and_does_not_hold_up_others() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await exchange.send(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")

    async with serve(respond) as host, fetcher() as fetch:
        with pytest.raises(SourceFailed) as caught:
            await fetch.fetch(f"{host.url}/image.png")
    assert caught.value.reason == "SOURCE_UNAVAILABLE"
    assert caught.value.metadata["retryable"] == "false"


async def test_a_body_in_ordinary_chunks_is_read() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await exchange.send((b"200\r\n" + b"x" * 512 + b"\r\n") * 150 + b"0\r\n\r\n")

    async with serve(respond) as host, fetcher() as fetch:
        assert await fetch.fetch(f"{host.url}/image.png") == b"x" * 512 * 150


async def test_what_has_no_memory_waits_and_keeps_its_place() -> None:
    asked = asyncio.Queue[int]()
    resolved: list[str] = []

    class WatchedBudget(Budget):
        async def acquire(self, amount: int) -> None:
            asked.put_nowait(amount)
            await super().acquire(amount)

    async def resolve(host: str, port: int) -> Sequence[str]:
        resolved.append(host)
        return ["127.0.0.1"]

    memory = WatchedBudget(10)
    options = {"memory": memory, "max_concurrent": 1, "resolve": resolve}
    async with serve(answer(body=b"0123456789")) as host, fetcher(**options) as client:
        fetches = [asyncio.create_task(client.fetch(host.url)) for _ in range(3)]
        assert [await asked.get(), await asked.get()] == [10, 10]
        for _ in range(20):  # more steps than the third would need, if it had a place
            await asyncio.sleep(0)
        assert [task.done() for task in fetches] == [True, False, False]
        assert len(resolved) == 2
        for _ in fetches:
            memory.release(10)
            await asyncio.sleep(0)
        assert await asyncio.gather(*fetches) == [b"0123456789"] * 3


@pytest.mark.parametrize("bound", ["max_concurrent", "max_concurrent_per_host"])
async def test_an_image_of_a_query_is_fetched_before_those_that_are_added(bound: str) -> None:
    release = asyncio.Event()
    done: list[str] = []

    async def respond(exchange: Exchange) -> None:
        await release.wait()
        await answer(body=b"image")(exchange)

    async with serve(respond) as host, fetcher(**{bound: 1}) as client:

        async def fetch(name: str) -> None:
            with in_background(name != "query"):
                await client.fetch(f"{host.url}/{name}")
            done.append(name)

        tasks = []
        for name in ("add-1", "add-2", "add-3", "query"):
            tasks.append(asyncio.create_task(fetch(name)))
            await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*tasks)
    assert done == ["add-1", "query", "add-2", "add-3"]
