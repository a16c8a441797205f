"""Has the real fetcher, and the real server, asked for what strangers should not get.

Runs in network and mount namespaces of its own, where every address of the world is this machine's:
any connection would succeed, and is seen. What came of it is printed as JSON.

    unshare --net --mount python tests/ssrf_driver.py FOLDER
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from urllib.parse import quote, unquote

import hostile_urls
from clipsearch import SearchClient, SearchError
from clipsearch_server.budget import Budget
from clipsearch_server.errors import ClipsearchError
from clipsearch_server.fetch.http import HttpFetcher
from clipsearch_server.fetch_policy import FetchPolicy
from clipsearch_server.testing import ServerProcess
from dns_stub import DnsStub

PUBLIC_V4, PUBLIC_V6, OWN = "93.184.216.34", "2606:4700::1111", "151.101.1.69"
PUBLIC = {PUBLIC_V4, PUBLIC_V6}
HOST = "images.public.test"
REDIRECTS = (301, 302, 303, 307, 308)
IMAGE = b"\x89PNG from a public host"
SYSTEM_AUTHORITIES = ssl.create_default_context()

DEFAULT = FetchPolicy()
Attempt = tuple[str, str, int]  # protocol, address, port


def enter_world() -> None:
    """Makes every address this machine's own, and the stub its name server."""
    resolv_conf = Path(sys.argv[1]) / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.53\noptions timeout:2 attempts:1\n")
    for command in (
        "ip link set lo up",
        f"ip address add {PUBLIC_V4}/32 dev lo",
        f"ip address add {PUBLIC_V6}/128 dev lo",
        "ip route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo",
        "ip link add own type veth peer name other",
        f"ip address add {OWN}/32 dev own",
        "ip link set own up",
        f"mount --bind {resolv_conf} /etc/resolv.conf",
    ):
        subprocess.run(command.split(), check=True)


class Canary:
    """Sees every attempt to reach any port of any address, whether somebody listens or not: each
    begins with a packet on the loopback interface."""

    def __init__(self) -> None:
        everything = 3  # ETH_P_ALL
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 2**20)
        self._socket.bind(("lo", 0))
        self._socket.setblocking(False)
        self._attempts: Counter[Attempt] = Counter()
        self.expected: set[Attempt] = set()

    def __enter__(self) -> Canary:
        asyncio.get_running_loop().add_reader(self._socket, self._drain)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def seen(self) -> Counter[Attempt]:
        """Returns what was tried since the last time, but for what is expected."""
        self._drain()
        # struct tpacket_stats: packets, drops. Missing one would make all of this worth nothing.
        _, drops = struct.unpack("II", self._socket.getsockopt(263, 6, 8))
        assert not drops, f"{drops} packets were not seen"
        attempts, self._attempts = self._attempts, Counter()
        return Counter({key: n for key, n in attempts.items() if key not in self.expected})

    def _drain(self) -> None:
        while True:
            try:
                packet = self._socket.recv(256)
            except BlockingIOError:
                return
            if attempt := _attempt(packet[14:]):
                self._attempts[attempt] += 1


def _attempt(packet: bytes) -> Attempt | None:
    if packet[0] >> 4 == 4:
        protocol, target = packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20])
        payload = packet[(packet[0] & 15) * 4 :]
    else:
        protocol, target = packet[6], str(IPv6Address(packet[24:40]))
        payload = packet[40:]
    port = int.from_bytes(payload[2:4], "big")
    if protocol == socket.IPPROTO_UDP:
        # A host's answer goes to a port that asked: only what is asked counts.
        return ("udp", target, port) if port < 1024 else None
    if protocol == socket.IPPROTO_TCP and payload[13] & 0x12 == 0x02:  # SYN without ACK
        return "tcp", target, port
    return None


async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers on every address: with an image, a redirect to whatever the path says, or a 404."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode("ascii")
        kind, _, rest = path[1:].partition("/")
        if kind == "image":
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
        elif kind.isdecimal():
            location = unquote(rest, "latin-1").encode("latin-1")
            answer = b"HTTP/1.1 %s See\r\nLocation: %b\r\n\r\n" % (kind.encode(), location)
        else:
            answer = b"HTTP/1.1 404 Not Found\r\n\r\n"
        writer.write(answer)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def world() -> AsyncIterator[tuple[DnsStub, Canary]]:
    dns = DnsStub()
    dns.addresses[HOST] = [[PUBLIC_V4]]
    dns.addresses["v6.public.test"] = [[PUBLIC_V6]]
    servers = [await asyncio.start_server(host, address, 80) for address in ("0.0.0.0", "::")]
    async with dns.serve("127.0.0.53"):
        with Canary() as canary:
            canary.expected |= {(kind, "127.0.0.53", 53) for kind in ("udp", "tcp")}
            canary.expected |= {("tcp", address, 80) for address in PUBLIC}
            yield dns, canary
    for server in servers:
        server.close()


def literal(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


def redirect(code: int, target: str) -> str:
    return f"http://{HOST}/{code}/{quote(target.encode('utf-8', 'surrogateescape'), safe='')}"


async def outcome(fetcher: HttpFetcher, url: str) -> str:
    """The reason of the refusal; OK if there is none."""
    try:
        return "OK" if await fetcher.fetch(url) == IMAGE else "OTHER"
    except ClipsearchError as error:
        return error.reason


async def outcomes(fetcher: HttpFetcher, urls: Iterable[str]) -> Counter[str]:
    return Counter(await asyncio.gather(*(outcome(fetcher, url) for url in urls)))


def fetcher(policy: FetchPolicy = DEFAULT) -> HttpFetcher:
    return HttpFetcher(
        policy,
        timeout_s=10,
        max_bytes=10_000,
        memory=Budget(2**30),
        max_concurrent=16,
        max_concurrent_per_host=16,
        ssl_context=SYSTEM_AUTHORITIES,
    )


async def attack(dns: DnsStub, canary: Canary) -> list[dict[str, object]]:
    """Returns for each way of asking: how many URLs, what came of them, what the canary saw."""
    addresses, urls, names = hostile_urls.addresses(), hostile_urls.urls(), hostile_urls.NAMES
    dns.addresses |= {name: [[address]] for name, address in names.items()}
    named = [f"http://{name}/" for name in names]
    rows: list[dict[str, object]] = []

    async def row(name: str, urls: Sequence[str]) -> None:
        async with fetcher() as client:
            results = await outcomes(client, urls)
        seen = [f"{kind} {address} {port}" for kind, address, port in canary.seen()]
        rows.append({"name": name, "urls": len(urls), "outcomes": results, "canary": seen})

    def names_for(kind: str, answers: Iterable[list[list[str]]]) -> list[str]:
        """A name for each, which resolves to its answers one after the other."""
        hosts = {f"{kind}{i}.test": answer for i, answer in enumerate(answers)}
        dns.addresses |= hosts
        return list(hosts)

    await row("direct: addresses", [literal(address) for address in addresses])
    await row("direct: urls", urls)
    await row("direct: own", [literal(OWN)])
    await row("dns: names", named)
    alone = names_for("dns", ([[it]] for it in addresses))
    await row("dns: alone", [f"http://{name}/" for name in alone])
    mixed = names_for("mixed", ([[PUBLIC_V4, it, PUBLIC_V6]] for it in addresses))
    await row("dns: with public ones", [f"http://{name}/image" for name in mixed])
    aliases = names_for("alias", ([[it]] for it in addresses))
    dns.aliases |= {f"alias-of-{name}": name for name in aliases}
    await row("dns: by alias", [f"http://alias-of-{name}/" for name in aliases])
    many = names_for("many", ([[PUBLIC_V4] * 200 + [it]] for it in addresses[:20]))
    await row("dns: by tcp", [f"http://{name}/image" for name in many])
    for code in REDIRECTS:  # which differ in nothing but that each is followed: one has them all
        some = addresses if code == 302 else addresses[::8]
        await row(f"redirect: {code}", [redirect(code, literal(address)) for address in some])
    await row("redirect: to urls", [redirect(302, url) for url in urls])
    alone += names
    await row("redirect: to names", [redirect(302, f"http://{name}/") for name in alone])
    rebinding = names_for("rebind", ([[PUBLIC_V4], [it]] for it in addresses))
    await row("rebinding: first", [f"http://{name}/image" for name in rebinding])
    await row("rebinding: then", [f"http://{name}/image" for name in rebinding])
    rebinding = names_for("rebound", ([[PUBLIC_V4], [it]] for it in addresses))
    again = [f"http://{name}/302/%2Fimage" for name in rebinding]
    await row("rebinding: between two hops", again)
    return rows


async def control(dns: DnsStub, canary: Canary) -> dict[str, object]:
    """That what is public is fetched, and that the canary would have seen the rest."""
    public = [f"http://{HOST}/image", "http://v6.public.test/image", f"http://{PUBLIC_V4}/image",
              f"http://[{PUBLIC_V6}]/image", redirect(302, f"http://[{PUBLIC_V6}]/image"),
              redirect(308, "/image")]  # fmt: skip
    async with fetcher() as client:
        fetched = await outcomes(client, public)
    everything = FetchPolicy(networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    private = ["http://127.0.0.1/image", "http://[::1]/image", "http://10.0.0.1/image",
               f"http://{OWN}/image", redirect(302, "http://192.168.0.1/image")]  # fmt: skip
    async with fetcher(everything) as client:
        allowed = await outcomes(client, private)
        seen_of_allowed = len(canary.seen())
        metadata = await outcomes(client, ["http://169.254.169.254/", "http://168.63.129.16/"])
    seen_of_metadata = len(canary.seen())

    async def naive(address: str) -> str:
        try:
            _, writer = await asyncio.open_connection(address, 80)
        except OSError:
            return "no route"
        writer.close()
        return "connected"

    canary.expected = {it for it in canary.expected if it[1] not in PUBLIC}  # one embeds such
    reached = Counter([await naive(address) for address in hostile_urls.addresses()])
    questions = [n for (name, _), n in dns.questions.items() if name.startswith("rebind")]
    return {
        "public": fetched,
        "allowed": allowed,
        "seen_of_allowed": seen_of_allowed,
        "metadata": metadata,
        "seen_of_metadata": seen_of_metadata,
        "naive": reached,
        "seen_of_naive": canary.seen().total(),
        "questions_in_two_fetches": sorted(set(questions)),
    }


def through_the_server(canary: Canary) -> dict[str, object]:
    """A sample of everything, asked of the real server by the real client."""
    addresses, urls = hostile_urls.addresses(), hostile_urls.urls()
    sample = [literal(address) for address in addresses[::12]] + urls[::12]
    sample += [redirect(302, url) for url in sample if url.isprintable()]
    sample += [f"http://dns{i}.test/" for i in range(0, len(addresses), 30)]
    results: Counter[str] = Counter()
    told: set[str] = set()
    with ServerProcess("--data-dir", sys.argv[1], "--log-level", "DEBUG") as server:
        _, _, port = server.address.rpartition(":")
        canary.expected.add(("tcp", "127.0.0.1", int(port)))
        with SearchClient(server.address) as client:
            for url in [*sample, f"http://{HOST}/image"]:
                try:
                    client.add_image(url=url)
                except SearchError as error:
                    results[f"{error.code.name} {error.reason}"] += 1
                    if error.reason == "SOURCE_NOT_ALLOWED":
                        told.add(str(error))
    return {"calls": len(sample) + 1, "results": results, "told": sorted(told), "log": server.log}


async def main() -> None:
    enter_world()
    async with world() as (dns, canary):
        report: dict[str, object] = {"rows": await attack(dns, canary)}
        report["control"] = await control(dns, canary)
        canary.expected |= {("tcp", address, 80) for address in PUBLIC}
        report["server"] = await asyncio.to_thread(through_the_server, canary)
        report["seen_of_server"] = [str(attempt) for attempt in canary.seen()]
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
