"""A name server whose answers a test writes down, and may change from question to question."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

_A, _CNAME, _AAAA = 1, 5, 28
_MAX_UDP_BYTES = 512
_NXDOMAIN = 3


class DnsStub(asyncio.DatagramProtocol):
    """Answers questions for IPv4 and IPv6 addresses, by UDP and, where that is too small, TCP.

    ``addresses`` has the answers to the first question for a name, to the second, and so on, the
    last one for ever; ``aliases`` the names that are others. ``questions`` counts what was asked.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, list[list[str]]] = {}
        self.aliases: dict[str, str] = {}
        self.questions: Counter[tuple[str, int]] = Counter()

    @asynccontextmanager
    async def serve(self, address: str) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._exchange, address, 53)
        transport, _ = await loop.create_datagram_endpoint(lambda: self, (address, 53))
        self._transport = transport
        try:
            yield
        finally:
            transport.close()
            server.close()

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        answer = self._answer(data, _MAX_UDP_BYTES)
        self._transport.sendto(answer, peer)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                answer = self._answer(await reader.readexactly(size), 65_535)
                writer.write(struct.pack(">H", len(answer)) + answer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def _answer(self, query: bytes, max_bytes: int) -> bytes:
        name, end = _name(query, 12)
        kind, _ = struct.unpack(">HH", query[end : end + 4])
        question = query[12 : end + 4]
        records = []
        owner = name
        while owner in self.aliases:
            target = _encoded(self.aliases[owner])
            records.append(_encoded(owner) + _record(_CNAME, target))
            owner = self.aliases[owner]
        known = owner in self.addresses
        addresses = self._addresses(owner, kind) if known else []
        records += [_encoded(owner) + _record(kind, ip_address(it).packed) for it in addresses]
        flags = 0x8180 | (0 if known else _NXDOMAIN)  # a recursive answer
        answer = b"".join(records)
        count = len(records)
        if 12 + len(question) + len(answer) > max_bytes:
            answer, count, flags = b"", 0, flags | 0x0200  # truncated: ask by TCP
        else:
            self.questions[owner, kind] += 1
        return query[:2] + struct.pack(">5H", flags, 1, count, 0, 0) + question + answer

    def _addresses(self, name: str, kind: int) -> list[str]:
        answers = self.addresses[name]
        answer = answers[min(self.questions[name, kind], len(answers) - 1)]
        return [it for it in answer if (":" in it) == (kind == _AAAA) and kind in (_A, _AAAA)]


def _name(message: bytes, start: int) -> tuple[str, int]:
    labels = []
    while length := message[start]:
        labels.append(message[start + 1 : start + 1 + length].decode("ascii"))
        start += 1 + length
    return ".".join(labels).lower(), start + 1


def _encoded(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _record(kind: int, data: bytes) -> bytes:
    return struct.pack(">HHIH", kind, 1, 0, len(data)) + data
