"""What is stored in Qdrant at the same time crosses in batches, and none fails for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import grpc
import pytest
import pytest_asyncio
from qdrant_client import grpc as q

from clipsearch_server import errors
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from fake_qdrant import COMPLETED, FakeQdrant
from qdrant_calls import VECTOR, an_image, an_index

CODES = grpc.StatusCode


@pytest_asyncio.fixture
async def index(qdrant: FakeQdrant) -> AsyncIterator[QdrantIndex]:
    async with an_index(qdrant) as index:
        yield index


class Gate:
    """A step that answers when it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> q.PointsOperationResponse:
        self.entered.set()
        await self.open.wait()
        return COMPLETED


def upserting(index: QdrantIndex, number: int, uri: str = "") -> asyncio.Task[None]:
    return asyncio.create_task(index.upsert([an_image(number, uri=uri)], VECTOR[None]))


def upserted(qdrant: FakeQdrant) -> list[list[int]]:
    """The ids of the points of each request that was made."""
    return [
        [UUID(point.id.uuid).int for point in request.points]
        for request in qdrant.requests["Points/Upsert"]
    ]


async def test_what_is_stored_meanwhile_crosses_together(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant, max_in_flight=1000) as index:
        gate = Gate()
        qdrant.answer("Points/Upsert", gate)
        first = upserting(index, 0)
        await gate.entered.wait()
        rest = [upserting(index, number) for number in range(1, 100)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *rest)
    assert upserted(qdrant) == [[0], [*range(1, 65)], [*range(65, 100)]]


async def test_each_is_answered_as_soon_as_it_is_stored(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    gates = [Gate(), Gate()]
    qdrant.answer("Points/Upsert", *gates)
    first = upserting(index, 0)
    await gates[0].entered.wait()
    second = upserting(index, 1)
    gates[0].open.set()
    await first
    await gates[1].entered.wait()
    assert not second.done()
    gates[1].open.set()
    await second


async def test_of_one_id_the_later_is_stored_last(index: QdrantIndex, qdrant: FakeQdrant) -> None:
    gate = Gate()
    qdrant.answer("Points/Upsert", gate)
    calls = [upserting(index, 1, uri="0")]
    await gate.entered.wait()
    calls += [upserting(index, 1, uri="1"), upserting(index, 2), upserting(index, 1, uri="2")]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*calls)
    assert upserted(qdrant) == [[1], [1, 2]]
    stored = [request.points[0] for request in qdrant.requests["Points/Upsert"]]
    assert [point.payload["uri"].string_value for point in stored] == ["0", "2"]


async def test_a_point_that_qdrant_refuses_fails_alone(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    gate, refusal = Gate(), (CODES.INVALID_ARGUMENT, "Wrong input: no such payload")
    # The batch is refused, and then of its points the second.
    qdrant.answer("Points/Upsert", gate, refusal, None, refusal, None)
    calls = [upserting(index, 0)]
    await gate.entered.wait()
    calls += [upserting(index, number) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    gate.open.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers.pop(2), errors.IndexUnavailable)
    assert answers == [None] * 3
    assert upserted(qdrant) == [[0], [1, 2, 3], [1], [2], [3]]


@pytest.mark.parametrize(
    ("code", "details"), [(CODES.RESOURCE_EXHAUSTED, "busy"), (CODES.UNAUTHENTICATED, "no key")]
)
async def test_what_every_point_would_meet_is_not_tried_point_by_point(
    index: QdrantIndex, qdrant: FakeQdrant, code: grpc.StatusCode, details: str
) -> None:
    gate = Gate()
    qdrant.answer("Points/Upsert", gate, (code, details))
    calls = [upserting(index, 0)]
    await gate.entered.wait()
    calls += [upserting(index, number) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    gate.open.set()
    first, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert first is None
    assert all(isinstance(answer, errors.ClipsearchError) for answer in others)
    assert upserted(qdrant) == [[0], [1, 2, 3]]


async def test_who_gives_up_before_it_is_sent_stores_nothing(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    gate = Gate()
    qdrant.answer("Points/Upsert", gate)
    first = upserting(index, 0)
    await gate.entered.wait()
    gone, stays = upserting(index, 1), upserting(index, 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    gate.open.set()
    await asyncio.gather(first, stays)
    assert upserted(qdrant) == [[0], [2]]
