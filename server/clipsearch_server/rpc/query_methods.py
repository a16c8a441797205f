"""The methods that find images."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

from google.protobuf.message import Message

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer
from clipsearch_server.catalog import Catalog
from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import InvalidRequest, ModelOutputInvalid
from clipsearch_server.rpc import queries
from clipsearch_server.rpc.answers import Answers
from clipsearch_server.rpc.options import Context, ServiceOptions
from clipsearch_server.rpc.page_tokens import Binding, bindings, read_cursor
from clipsearch_server.rpc.status import to_status
from clipsearch_server.searching import Found, Query
from clipsearch_server.stages import Stages

# What is smaller is hashed faster than a thread takes it over.
_INLINE_BYTES = 65_536


class QueryMethods(ImageSearchServiceServicer):
    """A part of ImageSearchServicer."""

    _catalog: Catalog
    _options: ServiceOptions
    _answers: Answers

    async def QueryText(
        self, request: pb.QueryTextRequest, context: Context
    ) -> pb.QueryTextResponse:
        with _timed(context) as stages:
            async with self._catalog.engine(request.collection) as engine:

                async def answer() -> pb.QueryTextResponse:
                    query = queries.text_query(request, self._defaults(engine))
                    found, binding = await _page(engine, query, request, stages)
                    return queries.text_response(found, binding)

                return await self._answers.of(engine, request, answer)

    async def QueryTexts(
        self, request: pb.QueryTextsRequest, context: Context
    ) -> pb.QueryTextsResponse:
        with _timed(context) as stages:
            async with self._catalog.engine(request.collection) as engine:
                read = queries.text_queries(request, self._defaults(engine))
                good = [query for query in read if isinstance(query, Query)]
                answers = zip(
                    await _search_each(engine, good, stages),
                    await _bindings(good, engine, request),
                    strict=True,
                )
                return pb.QueryTextsResponse(
                    results=[
                        _result(query, b"")
                        if isinstance(query, InvalidRequest)
                        else _result(*next(answers))
                        for query in read
                    ]
                )

    async def QueryImage(
        self, request: pb.QueryImageRequest, context: Context
    ) -> pb.QueryImageResponse:
        with _timed(context) as stages:
            async with self._catalog.engine(request.collection) as engine:
                query = queries.image_query(request, self._defaults(engine))
                found, binding = await _page(engine, query, request, stages)
                return queries.image_response(found, binding)

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:
        with _timed(context) as stages:
            async with self._catalog.engine(request.collection) as engine:
                query = queries.mixed_query(request, self._defaults(engine))
                found, binding = await _page(engine, query, request, stages)
                return queries.mixed_response(found, binding)

    async def EmbedTexts(
        self, request: pb.EmbedTextsRequest, context: Context
    ) -> pb.EmbedTextsResponse:
        with _timed(context) as stages:
            async with self._catalog.engine(request.collection) as engine:
                texts = queries.texts_to_embed(request, self._defaults(engine))
                embedded = await engine.embed_texts(texts, stages)
                return pb.EmbedTextsResponse(
                    embeddings=[pb.Embedding(values=text.embedding.tolist()) for text in embedded],
                    model_fingerprint=engine.model_fingerprint,
                )

    def _defaults(self, engine: SearchEngine) -> queries.Defaults:
        return queries.Defaults(
            prompt_templates=engine.prompt_templates,
            limit=self._options.default_limit,
            near_duplicate_similarity=self._options.near_duplicate_similarity,
        )


async def _page(
    engine: SearchEngine,
    query: Query,
    request: pb.QueryTextRequest | pb.QueryImageRequest | pb.QueryRequest,
    stages: Stages,
) -> tuple[Found, Binding]:
    """Finds the page that a request's token names."""
    (binding,) = await _bindings([query], engine, request)
    query = replace(query, after=read_cursor(request.page_token, binding))
    (found,) = await engine.search([query], stages)
    return found, binding


async def _bindings(
    queries: Sequence[Query], engine: SearchEngine, request: Message
) -> list[Binding]:
    if request.ByteSize() <= _INLINE_BYTES:
        return bindings(queries, engine.collection)
    return await asyncio.to_thread(bindings, queries, engine.collection)


async def _search_each(
    engine: SearchEngine, queries: Sequence[Query], stages: Stages
) -> Sequence[Found | ModelOutputInvalid]:
    """Answers queries together; a text that the model cannot take is an error by itself."""
    try:
        return await engine.search(queries, stages) if queries else []
    except ModelOutputInvalid as error:
        if len(queries) == 1:
            return [error]
    return [answer for query in queries for answer in await _search_each(engine, [query], stages)]


def _result(answer: Found | Exception, binding: Binding) -> pb.QueryTextsResult:
    if isinstance(answer, Exception):
        return pb.QueryTextsResult(error=to_status(answer))
    return pb.QueryTextsResult(response=queries.text_response(answer, binding))


@contextmanager
def _timed(context: Context) -> Iterator[Stages]:
    """Tells the caller where the time of the block went, in the format of W3C Server-Timing: names
    and milliseconds."""
    stages = Stages()
    start = perf_counter()
    yield stages
    stages.seconds["total"] = perf_counter() - start
    timing = ", ".join(f"{name};dur={s * 1000:.3f}" for name, s in stages.seconds.items())
    told = context.trailing_metadata() or ()
    context.set_trailing_metadata((*told, ("server-timing", timing)))
