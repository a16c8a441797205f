"""Queries: images found by texts, by pictures and by mixes of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from clipsearch._aio_client.connection import AioConnection
from clipsearch._convert import queries as convert
from clipsearch._convert.filters import filter_message
from clipsearch._models import QueryResult, QueryTerm, Ranking, TextEmbeddings, TextResult
from clipsearch._timing import timings_ms
from clipsearch.filters import Filter
from clipsearch.v1 import image_search_pb2 as pb


class AioQueryMethods(AioConnection):
    """A part of AsyncSearchClient."""

    async def query_text(
        self,
        text: str,
        *,
        limit: int = 0,
        page_token: str = "",
        score_threshold: float | None = None,
        collection: str = "",
        filter: Filter | None = None,
        ranking: Ranking | None = None,
        prompt_templates: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> QueryResult:
        """Finds the images that a text describes; as ``SearchClient.query_text``."""
        request = pb.QueryTextRequest(
            text=text,
            limit=limit,
            page_token=page_token,
            score_threshold=score_threshold,
            collection=collection,
            filter=filter_message(filter),
            ranking=convert.ranking_message(ranking),
            prompt_templates=convert.templates_message(prompt_templates),
        )
        response, call = await self._call(self._stub.QueryText, request, timeout_s)
        return convert.text_result(response, timings_ms(await call.trailing_metadata()))

    async def query_texts(
        self,
        texts: Iterable[str],
        *,
        limit: int = 0,
        score_threshold: float | None = None,
        collection: str = "",
        filter: Filter | None = None,
        ranking: Ranking | None = None,
        prompt_templates: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[TextResult]:
        """Finds the images that each of many texts describes; as ``SearchClient.query_texts``."""
        batches = convert.text_batches(
            texts,
            pb.QueryTextsRequest(
                limit=limit,
                score_threshold=score_threshold,
                collection=collection,
                filter=filter_message(filter),
                ranking=convert.ranking_message(ranking),
                prompt_templates=convert.templates_message(prompt_templates),
            ),
        )
        for request in batches:
            response, _ = await self._call(self._stub.QueryTexts, request, timeout_s)
            for result in convert.text_results(request, response):
                yield result

    async def query_image(
        self,
        *,
        id: str | None = None,
        url: str | None = None,
        content: bytes | None = None,
        fetch_headers: Mapping[str, str] | None = None,
        limit: int = 0,
        page_token: str = "",
        score_threshold: float | None = None,
        collection: str = "",
        filter: Filter | None = None,
        ranking: Ranking | None = None,
        timeout_s: float | None = None,
    ) -> QueryResult:
        """Finds the images that look like an image; as ``SearchClient.query_image``."""
        request = pb.QueryImageRequest(
            fetch_headers=fetch_headers,
            limit=limit,
            page_token=page_token,
            score_threshold=score_threshold,
            collection=collection,
            filter=filter_message(filter),
            ranking=convert.ranking_message(ranking),
        )
        convert.set_source(request, id=id, url=url, content=content)
        response, call = await self._call(self._stub.QueryImage, request, timeout_s)
        return convert.image_result(response, timings_ms(await call.trailing_metadata()))

    async def query(
        self,
        terms: Sequence[QueryTerm],
        *,
        limit: int = 0,
        page_token: str = "",
        score_threshold: float | None = None,
        collection: str = "",
        filter: Filter | None = None,
        ranking: Ranking | None = None,
        prompt_templates: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> QueryResult:
        """Finds the images that are like some texts and images; as ``SearchClient.query``."""
        request = pb.QueryRequest(
            terms=map(convert.query_term, terms),
            limit=limit,
            page_token=page_token,
            score_threshold=score_threshold,
            collection=collection,
            filter=filter_message(filter),
            ranking=convert.ranking_message(ranking),
            prompt_templates=convert.templates_message(prompt_templates),
        )
        response, call = await self._call(self._stub.Query, request, timeout_s)
        return convert.mix_result(response, timings_ms(await call.trailing_metadata()))

    async def embed_texts(
        self,
        texts: Iterable[str],
        *,
        collection: str = "",
        prompt_templates: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> TextEmbeddings:
        """Embeds texts; as ``SearchClient.embed_texts``."""
        template = pb.EmbedTextsRequest(
            collection=collection, prompt_templates=convert.templates_message(prompt_templates)
        )
        responses = [
            (await self._call(self._stub.EmbedTexts, request, timeout_s))[0]
            for request in convert.text_batches(texts, template)
        ]
        return convert.text_embeddings(responses)
