"""The real server while its Qdrant is gone, hangs, or does not say that a write is applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from qdrant_client import grpc as q

from clipsearch import (
    AddItem,
    AddOutcome,
    AsyncSearchClient,
    DeadlineExceededError,
    UnavailableError,
)
from clipsearch_server.testing import ServerProcess
from fake_qdrant import FakeQdrant, Hang
from samples import png
from tiny_model import write_tiny_model

RED = png("red")
REFUSED = (grpc.StatusCode.UNAVAILABLE, "connection reset")
SERVER_TRIES = 3  # of one call to a Qdrant that cannot be reached

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def qdrant() -> AsyncIterator[FakeQdrant]:
    qdrant = FakeQdrant()
    await qdrant.start()
    yield qdrant
    await qdrant.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    qdrant: FakeQdrant, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    model = write_tiny_model(tmp_path_factory.mktemp("server") / "model")
    server = ServerProcess(
        *("--index-backend", "qdrant", "--qdrant-url", qdrant.url),
        *("--model-dir", str(model), "--index-timeout-s", "1"),
    )
    await asyncio.to_thread(server.__enter__)
    yield server
    await asyncio.to_thread(server.stop)
    assert "Traceback" not in server.log


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: ServerProcess) -> AsyncIterator[AsyncSearchClient]:
    async with AsyncSearchClient(server.address) as client:
        yield client


async def watch_until(server: ServerProcess, status: int) -> None:
    """Returns once the whole server is told to be so."""
    async with grpc.aio.insecure_channel(server.address) as channel, asyncio.timeout(30):
        async for told in HealthStub(channel).Watch(HealthCheckRequest(service="")):
            if told.status == status:
                return


async def test_row_39_a_qdrant_that_is_down_is_unavailable_until_it_is_back(
    qdrant: FakeQdrant, server: ServerProcess, client: AsyncSearchClient
) -> None:
    await qdrant.stop()
    await watch_until(server, HealthCheckResponse.NOT_SERVING)
    errors = await asyncio.gather(
        *(client.query_text("red"), client.add_image(content=RED), client.get_image("7" * 32)),
        return_exceptions=True,
    )
    for error in errors:
        assert isinstance(error, UnavailableError)
        assert error.reason == "INDEX_UNAVAILABLE"
        assert "the index is not available" in error.message
        assert "127.0.0.1" not in error.message
    (result,) = [it async for it in client.add_images([AddItem(item_id="1", content=RED)])]
    assert result.error is not None
    assert result.error.reason == "INDEX_UNAVAILABLE"
    await qdrant.start()
    await watch_until(server, HealthCheckResponse.SERVING)
    await client.query_text("red")
    assert (await client.add_image(content=RED)).outcome is AddOutcome.ADDED


@pytest.mark.parametrize("method", ["QueryBatch", "Upsert"])
async def test_row_39_the_client_tries_again(
    qdrant: FakeQdrant, server: ServerProcess, client: AsyncSearchClient, method: str
) -> None:
    qdrant.answer(f"Points/{method}", *[REFUSED] * (SERVER_TRIES + 1))
    ours = "QueryText" if method == "QueryBatch" else "AddImage"
    before = server.log.count(f"method={ours} code=UNAVAILABLE")
    if method == "QueryBatch":
        await client.query_text("red")
    else:
        await client.add_image(content=RED)
    assert server.log.count(f"method={ours} code=UNAVAILABLE") == before + 1


@pytest.mark.parametrize("status", ["Acknowledged", "WaitTimeout", None])
async def test_row_40_a_write_that_is_not_confirmed_is_no_success_and_safe_to_repeat(
    qdrant: FakeQdrant, client: AsyncSearchClient, status: str | None
) -> None:
    qdrant.requests.clear()

    def fail_once() -> None:
        """Takes the write in, and says nothing, or not that it is applied."""
        if status is None:
            qdrant.answer("Points/Upsert", Hang())
        else:
            result = q.UpdateResult(status=q.UpdateStatus.Value(status))
            qdrant.answer("Points/Upsert", q.PointsOperationResponse(result=result))

    fail_once()
    with pytest.raises(
        DeadlineExceededError, match="repeating it by the same id is safe"
    ) as caught:
        await client.add_image(content=RED)
    assert caught.value.reason == "OUTCOME_UNKNOWN"
    fail_once()
    (result,) = [it async for it in client.add_images([AddItem(item_id="1", content=RED)])]
    assert result.error is not None
    assert result.error.reason == "OUTCOME_UNKNOWN"
    again = await client.add_image(content=RED)
    written = [point.id.uuid for it in qdrant.requests["Points/Upsert"] for point in it.points]
    assert written == [again.image.id] * 3


async def test_row_40_a_search_that_qdrant_is_too_slow_for_ends_in_time(
    qdrant: FakeQdrant, client: AsyncSearchClient
) -> None:
    qdrant.answer("Points/QueryBatch", Hang())
    with pytest.raises(DeadlineExceededError):
        await client.query_text("red")
    await client.query_text("red")
