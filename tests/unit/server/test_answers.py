"""A query that comes again is not searched again, unless something has changed."""

from __future__ import annotations

import asyncio

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.engine import SearchEngine
from clipsearch_server.rpc.answers import Answers
from fakes import FakeEncoder, FakeIndex
from samples import png
from searches import find

Stub = ImageSearchServiceStub
RED = pb.QueryTextRequest(text="red")


async def test_a_query_that_comes_again_is_answered_from_memory(
    service: Stub, index: FakeIndex
) -> None:
    await service.AddImage(pb.AddImageRequest(content=png("red")))
    first = await service.QueryText(RED)
    assert len(first.hits) == 1
    assert await service.QueryText(RED) == first
    assert index.searches == 1
    await service.QueryText(pb.QueryTextRequest(text="red", limit=1))
    assert index.searches == 2


async def test_a_change_is_seen_by_the_next_query(service: Stub, index: FakeIndex) -> None:
    added = await service.AddImage(pb.AddImageRequest(content=png("red")))
    assert len((await service.QueryText(RED)).hits) == 1
    await service.AddImage(pb.AddImageRequest(content=png("blue")))
    assert len((await service.QueryText(RED)).hits) == 2
    await service.DeleteImage(pb.DeleteImageRequest(id=added.image.id))
    assert [hit.image.id for hit in (await service.QueryText(RED)).hits] != [added.image.id]
    assert index.searches == 3


async def test_no_more_is_remembered_than_there_is_room_for(engine: SearchEngine) -> None:
    made: list[str] = []
    answers = Answers(max_bytes=2_000)

    async def ask(text: str) -> None:
        async def answer() -> pb.QueryTextResponse:
            made.append(text)
            return pb.QueryTextResponse(next_page_token="t" * 900)

        await answers.of(engine, pb.QueryTextRequest(text=text), answer)

    for text in ("a", "b", "a", "c", "a", "b"):
        await ask(text)
    assert made == ["a", "b", "c", "b"]  # b was used longest ago when c came


async def test_what_many_ask_for_at_a_time_is_embedded_once(
    engine: SearchEngine, encoder: FakeEncoder
) -> None:
    await asyncio.gather(*(find(engine, "red", limit=1) for _ in range(8)))
    assert encoder.text_calls == [1]
