"""A Qdrant server that does as a test tells it, on Qdrant's own gRPC interface.

It knows collections, and of points only that a write completes and that there are none to read:
what a test wants beyond that, failures above all, it scripts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from qdrant_client import grpc as q
from qdrant_client.grpc.collections_service_pb2_grpc import (
    CollectionsServicer,
    add_CollectionsServicer_to_server,
)
from qdrant_client.grpc.points_service_pb2_grpc import (
    PointsServicer,
    add_PointsServicer_to_server,
)
from qdrant_client.grpc.qdrant_pb2_grpc import QdrantServicer, add_QdrantServicer_to_server

Failure: TypeAlias = (
    tuple[grpc.StatusCode, str] | tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]
)  # code, details, trailing metadata
Step: TypeAlias = Message | Failure | Callable[[], Awaitable[Message]] | None

_DATA_TYPES = {
    q.FieldType.FieldTypeKeyword: q.PayloadSchemaType.Keyword,
    q.FieldType.FieldTypeFloat: q.PayloadSchemaType.Float,
    q.FieldType.FieldTypeBool: q.PayloadSchemaType.Bool,
    q.FieldType.FieldTypeDatetime: q.PayloadSchemaType.Datetime,
}

COMPLETED = q.PointsOperationResponse(result=q.UpdateResult(status=q.UpdateStatus.Completed))


class FakeQdrant:
    """Serves between ``start`` and ``stop``, on one port; what it holds outlives that.

    Methods are named as "Points/Upsert"; ``requests`` has what each was asked, ``headers`` what
    came with the last call.
    """

    def __init__(self) -> None:
        self.version = "1.20.1"
        self.collections: dict[str, q.CollectionInfo] = {}
        self.aliases: dict[str, str] = {}
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.headers: dict[str, str] = {}
        self.port = 0
        self._script: dict[str, list[Step]] = defaultdict(list)
        self._server: grpc.aio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, *steps: Step) -> None:
        """Sets what the next calls of a method get: a response, an error, what a function returns,
        or, for None, what they would get anyway."""
        self._script[method] = list(steps)

    def drop(self, name: str) -> q.CollectionInfo:
        """Deletes a collection and, as Qdrant does, its aliases; returns what it was."""
        self.aliases = {alias: it for alias, it in self.aliases.items() if it != name}
        return self.collections.pop(name)

    async def start(self, tls: grpc.ServerCredentials | None = None) -> None:
        self._server = grpc.aio.server(interceptors=[_Script(self)])
        add_QdrantServicer_to_server(_Root(self), self._server)
        add_CollectionsServicer_to_server(_Collections(self), self._server)
        add_PointsServicer_to_server(_Points(self), self._server)
        address = f"127.0.0.1:{self.port}"
        if tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, tls)
        await self._server.start()

    async def stop(self) -> None:
        """Hangs up at once, as if killed."""
        if self._server is not None:
            await self._server.stop(0)

    async def scripted(self, method: str, request: Message) -> Step:
        self.requests[method].append(request)
        steps = self._script[method]
        step = steps.pop(0) if steps else None
        return await step() if callable(step) else step


class Hang:
    """A step that never answers. ``entered`` and ``cancelled`` tell what became of the call."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self) -> Message:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError("unreachable")


class _Script(grpc.aio.ServerInterceptor):
    def __init__(self, qdrant: FakeQdrant) -> None:
        self._qdrant = qdrant

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        method = details.method.removeprefix("/qdrant.")

        async def call(request: Message, context: Any) -> Any:
            self._qdrant.headers = dict(context.invocation_metadata())
            step = await self._qdrant.scripted(method, request)
            if isinstance(step, tuple):
                await context.abort(*step)
            return step or await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )


class _Root(QdrantServicer):
    def __init__(self, qdrant: FakeQdrant) -> None:
        self._qdrant = qdrant

    async def HealthCheck(self, request: Any, context: Any) -> Message:
        return q.HealthCheckReply(title="qdrant", version=self._qdrant.version)


class _Collections(CollectionsServicer):
    def __init__(self, qdrant: FakeQdrant) -> None:
        self._qdrant = qdrant
        self._collections = qdrant.collections

    async def List(self, request: Any, context: Any) -> Message:
        names = [q.CollectionDescription(name=name) for name in self._collections]
        return q.ListCollectionsResponse(collections=names)

    async def ListAliases(self, request: Any, context: Any) -> Message:
        return q.ListAliasesResponse(
            aliases=[
                q.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self._qdrant.aliases.items()
            ]
        )

    async def Get(self, request: Any, context: Any) -> Message:
        name = self._qdrant.aliases.get(request.collection_name, request.collection_name)
        if name not in self._collections:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Collection `{name}` doesn't exist!")
        return q.GetCollectionInfoResponse(result=self._collections[name])

    async def Create(self, request: Any, context: Any) -> Message:
        self._collections[request.collection_name] = made(request)
        return q.CollectionOperationResponse(result=True)

    async def Update(self, request: Any, context: Any) -> Message:
        metadata = self._collections[request.collection_name].config.metadata
        for key, value in request.metadata.items():
            metadata[key].CopyFrom(value)
        return q.CollectionOperationResponse(result=True)

    async def UpdateAliases(self, request: Any, context: Any) -> Message:
        for action in request.actions:
            if action.HasField("create_alias"):
                created = action.create_alias
                self._qdrant.aliases[created.alias_name] = created.collection_name
            else:
                del self._qdrant.aliases[action.delete_alias.alias_name]
        return q.CollectionOperationResponse(result=True)

    async def Delete(self, request: Any, context: Any) -> Message:
        self._qdrant.drop(request.collection_name)
        return q.CollectionOperationResponse(result=True)


class _Points(PointsServicer):
    def __init__(self, qdrant: FakeQdrant) -> None:
        self._collections = qdrant.collections

    async def CreateFieldIndex(self, request: Any, context: Any) -> Message:
        self._collections[request.collection_name].payload_schema[request.field_name].CopyFrom(
            q.PayloadSchemaInfo(data_type=_DATA_TYPES[request.field_type])
        )
        return COMPLETED

    async def Upsert(self, request: Any, context: Any) -> Message:
        return COMPLETED

    async def Delete(self, request: Any, context: Any) -> Message:
        return COMPLETED

    async def Count(self, request: Any, context: Any) -> Message:
        return q.CountResponse(result=q.CountResult(count=0))

    async def QueryBatch(self, request: Any, context: Any) -> Message:
        return q.QueryBatchResponse(result=[q.BatchResult() for _ in request.query_points])

    async def Get(self, request: Any, context: Any) -> Message:
        return q.GetResponse()

    async def Scroll(self, request: Any, context: Any) -> Message:
        return q.ScrollResponse()


def made(request: q.CreateCollection) -> q.CollectionInfo:
    """What Qdrant says of a collection that was made so."""
    return q.CollectionInfo(
        status=q.CollectionStatus.Green,
        optimizer_status=q.OptimizerStatus(ok=True),
        config=q.CollectionConfig(
            params=q.CollectionParams(vectors_config=request.vectors_config),
            # What is not asked for has defaults, and qdrant_client insists on some of them.
            hnsw_config=q.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=q.OptimizersConfigDiff(
                deleted_threshold=0.2,
                vacuum_min_vector_number=1000,
                default_segment_number=0,
                flush_interval_sec=5,
            ),
            wal_config=q.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
            quantization_config=request.quantization_config
            if request.HasField("quantization_config")
            else None,
            metadata=request.metadata,
        ),
    )
