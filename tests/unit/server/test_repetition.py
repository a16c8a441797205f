"""What gRPC repeats by itself, since the first answer was lost, ends as the first attempt did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from clipsearch._channel import open_aio_channel
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import (
    ImageSearchServiceStub,
    add_ImageSearchServiceServicer_to_server,
)
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.interceptors import CallInterceptor, let_anybody_in
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.servicer import ImageSearchServicer
from samples import png


class LosesFirstAnswer(grpc.aio.ServerInterceptor):
    """Has each call of a method done and then fail, as if its server had gone, the first time."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.rpartition("/")[2]

        async def call(request: Any, context: Any) -> Any:
            answer = await handler.unary_unary(request, context)
            if method.startswith("Delete") and method not in self.lost:
                self.lost.append(method)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            return answer

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )


@asynccontextmanager
async def losing(
    catalog: Catalog, memory: Budget
) -> AsyncIterator[tuple[ImageSearchServiceStub, LosesFirstAnswer]]:
    """What a client with the usual retry policy calls, and what loses its answers."""
    options = ServiceOptions(
        default_limit=2,
        near_duplicate_similarity=0.97,
        max_in_flight_per_stream=4,
        memory=memory,
        info=pb.GetServerInfoResponse(),
    )
    loses = LosesFirstAnswer()
    guard = CallInterceptor(
        authenticate=let_anybody_in,
        admission=Admission(dict.fromkeys(Work, 8)),
        default_deadline_s=60,
    )
    server = grpc.aio.server(interceptors=[guard, loses])
    add_ImageSearchServiceServicer_to_server(ImageSearchServicer(catalog, options), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_aio_channel(f"127.0.0.1:{port}", None) as channel:
            yield ImageSearchServiceStub(channel), loses
    finally:
        await server.stop(0)


async def test_what_was_deleted_though_the_answer_was_lost_is_no_failure(
    catalog: Catalog, memory: Budget
) -> None:
    async with losing(catalog, memory) as (service, loses):
        added = await service.AddImage(pb.AddImageRequest(content=png("red")))
        await service.CreateCollection(pb.CreateCollectionRequest(name="cats"))
        await service.SetAlias(pb.SetAliasRequest(alias="pets", collection="cats"))
        image = pb.DeleteImageRequest(id=added.image.id)
        alias = pb.DeleteAliasRequest(alias="pets")
        collection = pb.DeleteCollectionRequest(name="cats", confirm_name="cats")
        await service.DeleteImage(image)
        await service.DeleteAlias(alias)
        await service.DeleteCollection(collection)
        assert loses.lost == ["DeleteImage", "DeleteAlias", "DeleteCollection"]
        # Asked again by the caller itself, each misses what is gone.
        for again in (
            service.DeleteImage(image),
            service.DeleteAlias(alias),
            service.DeleteCollection(collection),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await again
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
