"""The methods that find images."""

from __future__ import annotations

from time import perf_counter

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer
from clipsearch_server.catalog import Catalog
from clipsearch_server.rpc import convert
from clipsearch_server.rpc.options import Context, ServiceOptions


class QueryMethods(ImageSearchServiceServicer):
    """A part of ImageSearchServicer."""

    _catalog: Catalog
    _options: ServiceOptions

    async def QueryText(
        self, request: pb.QueryTextRequest, context: Context
    ) -> pb.QueryTextResponse:
        start = perf_counter()
        query = convert.text_query(request, default_limit=self._options.default_limit)
        async with self._catalog.engine(request.collection) as engine:
            found = await engine.query_text(
                query.text,
                limit=query.limit,
                offset=query.offset,
                score_threshold=query.score_threshold,
            )
        response = convert.query_text_response(request, query, found)
        timing = found.stages.seconds | {"total": perf_counter() - start}
        context.set_trailing_metadata((("server-timing", _server_timing(timing)),))
        return response

    async def QueryTexts(
        self, request: pb.QueryTextsRequest, context: Context
    ) -> pb.QueryTextsResponse:
        raise NotImplementedError

    async def QueryImage(
        self, request: pb.QueryImageRequest, context: Context
    ) -> pb.QueryImageResponse:
        raise NotImplementedError

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:
        raise NotImplementedError

    async def EmbedTexts(
        self, request: pb.EmbedTextsRequest, context: Context
    ) -> pb.EmbedTextsResponse:
        raise NotImplementedError


def _server_timing(seconds: dict[str, float]) -> str:
    """Stages in the format of W3C Server-Timing: names and milliseconds."""
    return ", ".join(f"{name};dur={value * 1000:.3f}" for name, value in seconds.items())
