"""Requests that name themselves (AIP-155): a repetition gets what the first one got."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.metrics import CACHE_REQUESTS


@dataclass(slots=True)
class _UnderWay:
    digest: bytes
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0


@dataclass(frozen=True, slots=True)
class _Answered:
    digest: bytes
    response: bytes  # serialised, which is the smallest
    until: float  # by the clock


class RequestIds:
    """Remembers the responses of requests to add an image by their ids.

    Of a request it keeps a digest only. It forgets what is older than ``remember_s`` seconds, and
    before that the oldest of more than ``max_requests``, or of more than ``max_bytes`` together.
    """

    def __init__(
        self,
        *,
        remember_s: float = 600.0,
        max_requests: int = 10_000,
        max_bytes: int = 2**24,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remember_s = remember_s
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._clock = clock
        self._under_way: dict[UUID, _UnderWay] = {}
        self._answered: dict[UUID, _Answered] = {}  # oldest first
        self._bytes = 0  # of the responses remembered

    async def once(
        self,
        request_id: UUID,
        digest: bytes,
        answer: Callable[[], Awaitable[pb.AddImageResponse]],
    ) -> pb.AddImageResponse:
        """Returns what the first request with this id was answered; if it is the first, ``answer``
        does the work. Of requests at the same time one does it, and if that one fails, the next.

        Raises InvalidRequest (REQUEST_ID_REUSED) if another request has the id.
        """
        self._forget()
        call = self._under_way.get(request_id) or _UnderWay(digest)
        for known in (call, self._answered.get(request_id)):
            if known is not None and known.digest != digest:
                raise _reused()
        self._under_way[request_id] = call
        call.callers += 1
        try:
            async with call.turn:
                answered = self._answered.get(request_id)
                CACHE_REQUESTS.labels("request_id", "hit" if answered else "miss").inc()
                if answered is not None:
                    return pb.AddImageResponse.FromString(answered.response)
                response = await answer()
                self._remember(request_id, digest, response)
                return response
        finally:
            call.callers -= 1
            if not call.callers:
                del self._under_way[request_id]

    def _remember(self, request_id: UUID, digest: bytes, response: pb.AddImageResponse) -> None:
        serialised = response.SerializeToString()
        self._answered[request_id] = _Answered(digest, serialised, self._clock() + self._remember_s)
        self._bytes += len(serialised)
        self._forget()

    def _forget(self) -> None:
        while self._answered:
            request_id, oldest = next(iter(self._answered.items()))
            if (
                oldest.until > self._clock()
                and len(self._answered) <= self._max_requests
                and self._bytes <= self._max_bytes
            ):
                return
            del self._answered[request_id]
            self._bytes -= len(oldest.response)


def request_digest(request: pb.AddImageRequest) -> bytes:
    """Returns a digest of everything in a request; takes 30 ms for the largest."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _reused() -> InvalidRequest:
    return InvalidRequest(
        "request_id",
        "was the name of another request; give each its own, and repeat only the same",
        reason="REQUEST_ID_REUSED",
    )
