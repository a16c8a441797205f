"""The load generator: what its process does. The messages are made before the clock starts, and
answers stay the bytes that they are, so that it takes little of the processor that it shares."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import TypeAlias

import grpc

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from speed.contestants.infinity import image_requests
from speed.http import HttpCalls
from speed.loops import Call, Samples, closed_loop, open_loop
from speed.workload import photographs

Bytes: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

QUERY_TEXT = "/clipsearch.v1.ImageSearchService/QueryText"


def query_texts(address: str, texts: Sequence[str], *, callers: int, seconds: float) -> Samples:
    """Asks QueryText for each text once, in a closed loop."""
    return _unary(address, QUERY_TEXT, _queries(texts), callers, seconds)


def repeat(address: str, method: str, request: bytes, *, callers: int, seconds: float) -> Samples:
    """Makes one unary call again and again, in a closed loop."""
    return _unary(address, method, [request], callers, seconds)


def query_on_schedule(
    address: str, texts: Sequence[str], *, rate: float, seconds: float
) -> Samples:
    """Asks QueryText for each text once, in an open loop."""

    async def run() -> Samples:
        async with grpc.aio.insecure_channel(address) as channel:
            call = _call(channel, QUERY_TEXT, _queries(texts))
            return await open_loop(call, rate=rate, seconds=seconds)

    return asyncio.run(run())


def add_images(address: str, first: int, number: int) -> float:
    """Adds so many photographs over one stream of AddImages, and returns how many a second were
    stored. The clock runs from the first message to the last answer."""
    requests = [_add(content) for content in photographs(first, number)]
    _, elapsed_s = asyncio.run(_stream(address, _each(requests)))
    return number / elapsed_s


def add_for(address: str, first: int, seconds: float) -> float:
    """Adds photographs as fast as the server takes them, and after a while gives up what is under
    way; images a second."""

    async def endless() -> AsyncIterator[pb.AddImagesRequest]:
        for number in count(first):
            yield _add(*photographs(number, 1))

    added, elapsed_s = asyncio.run(_stream(address, endless(), seconds))
    return added / elapsed_s


def infinity_texts(
    address: str, requests: Sequence[bytes], *, callers: int, seconds: float
) -> Samples:
    """Posts each of these HTTP requests once, in a closed loop."""

    async def run() -> Samples:
        async with HttpCalls(address, requests, connections=callers) as call:
            return await closed_loop(call, callers=callers, seconds=seconds)

    return asyncio.run(run())


def infinity_images(address: str, first: int, number: int, *, callers: int) -> float:
    """Posts so many photographs, each in a request, and returns how many a second were answered."""
    requests = image_requests(photographs(first, number))

    async def run() -> float:
        async with HttpCalls(address, requests, connections=callers) as call:
            start = time.perf_counter()
            await asyncio.gather(*map(call, range(number)))
            return number / (time.perf_counter() - start)

    return asyncio.run(run())


def answer_bytes(address: str, text: str) -> int:
    """The size of QueryText's answer."""

    async def run() -> int:
        async with grpc.aio.insecure_channel(address) as channel:
            unary: Bytes = channel.unary_unary(QUERY_TEXT)
            return len(await unary(_queries([text])[0]))

    return asyncio.run(run())


def _unary(
    address: str, method: str, requests: Sequence[bytes], callers: int, seconds: float
) -> Samples:
    async def run() -> Samples:
        async with grpc.aio.insecure_channel(address) as channel:
            call = _call(channel, method, requests)
            return await closed_loop(call, callers=callers, seconds=seconds)

    return asyncio.run(run())


def _call(channel: grpc.aio.Channel, method: str, requests: Sequence[bytes]) -> Call:
    """Call ``number`` sends the request of that number; of one request, the same each time."""
    unary: Bytes = channel.unary_unary(method)
    repeated = len(requests) == 1

    async def call(number: int) -> None:
        await unary(requests[0 if repeated else number])

    return call


def _queries(texts: Sequence[str]) -> list[bytes]:
    return [pb.QueryTextRequest(text=text).SerializeToString() for text in texts]


def _add(content: bytes) -> pb.AddImagesRequest:
    return pb.AddImagesRequest(request=pb.AddImageRequest(content=content))


async def _each(requests: Sequence[pb.AddImagesRequest]) -> AsyncIterator[pb.AddImagesRequest]:
    for request in requests:
        yield request


async def _stream(
    address: str, requests: AsyncIterator[pb.AddImagesRequest], at_most_s: float = math.inf
) -> tuple[int, float]:
    """Returns how many were added, and in how many seconds."""
    added = 0
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        start = time.perf_counter()
        call = ImageSearchServiceStub(channel).AddImages(requests)
        async for answer in call:
            if answer.response.outcome != pb.ADD_OUTCOME_ADDED:
                raise RuntimeError(f"an image was not added: {answer}")
            added += 1
            if time.perf_counter() - start > at_most_s:
                call.cancel()
                break
        return added, time.perf_counter() - start
