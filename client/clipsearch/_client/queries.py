"""Queries: images found by texts, by pictures and by mixes of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from clipsearch._client.connection import Connection
from clipsearch._convert import queries as convert
from clipsearch._convert.filters import filter_message
from clipsearch._models import QueryResult, QueryTerm, Ranking, TextEmbeddings, TextResult
from clipsearch._timing import timings_ms
from clipsearch.filters import Filter
from clipsearch.v1 import image_search_pb2 as pb


class QueryMethods(Connection):
    """A part of SearchClient."""

    def query_text(
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
        """Finds the images that a text describes, best first.

        ``limit`` is the number of hits at most (0: the server's default), ``score_threshold``
        the cosine similarity below which an image is no hit, ``page_token`` an earlier result's
        ``next_page_token``, ``filter`` says which images may be hits and ``ranking`` how they are
        chosen from those. ``prompt_templates``, such as ``a photo of a {}``, stand in for the
        collection's; none of them (``()``) has the text embedded as it is. A text too long for the
        model is cut, and the result says so. Raises InvalidRequestError if the text is empty.
        """
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
        response, call = self._call(self._stub.QueryText, request, timeout_s)
        return convert.text_result(response, timings_ms(call.trailing_metadata() or ()))

    def query_texts(
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
    ) -> Iterator[TextResult]:
        """Finds the images that each of many texts describes, and yields what was found in the
        order of the texts.

        Any number of texts: they are sent in batches, 256 at most, and taken from ``texts`` as
        results are. A bad text yields its error and does not disturb the others. The options are
        those of ``query_text``, which also continues a result by its ``next_page_token``; the
        results tell no timings. ``timeout_s`` bounds a batch, not the whole. Raises SearchError if
        a batch fails as a whole.
        """
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
            response, _ = self._call(self._stub.QueryTexts, request, timeout_s)
            yield from convert.text_results(request, response)

    def query_image(
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
        """Finds the images that look like an image, best first.

        It is a stored image by its ``id``, which is itself no hit, one that the server fetches by
        its ``url`` (with ``fetch_headers``), or encoded ``content``; it is not stored. The other
        options are those of ``query_text``.

        Raises InvalidRequestError, InvalidImageError or SourceError if the image cannot be had or
        is none, NotFoundError if no image has the id, and TypeError unless exactly one of ``id``,
        ``url`` and ``content`` is given.
        """
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
        response, call = self._call(self._stub.QueryImage, request, timeout_s)
        return convert.image_result(response, timings_ms(call.trailing_metadata() or ()))

    def query(
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
        """Finds the images that are like some texts and images, and unlike others, best first.

        The query's embedding is q / |q|, where q is the sum of each term's weight times its
        embedding, which is of L2 norm 1. The options are those of ``query_text``.

        >>> client.query([QueryTerm(image_id=cat.id), QueryTerm(text="a hat", weight=0.5)])

        Raises InvalidRequestError if there are no terms or more than 16, or if they cancel each
        other out, what ``query_image`` raises for an image, and TypeError unless each term is
        exactly one text or image.
        """
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
        response, call = self._call(self._stub.Query, request, timeout_s)
        return convert.mix_result(response, timings_ms(call.trailing_metadata() or ()))

    def embed_texts(
        self,
        texts: Iterable[str],
        *,
        collection: str = "",
        prompt_templates: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> TextEmbeddings:
        """Embeds texts as ``query_text`` would.

        The inner product of two embeddings of one model, of texts or as ``export_images`` yields
        them, is the score that a query would give. Any number of texts: they are sent in batches,
        256 at most, which ``timeout_s`` bounds one by one.

        Raises InvalidRequestError if a text is empty, and ModelMismatchError if the collection's
        model changed between two batches.
        """
        template = pb.EmbedTextsRequest(
            collection=collection, prompt_templates=convert.templates_message(prompt_templates)
        )
        responses = [
            self._call(self._stub.EmbedTexts, request, timeout_s)[0]
            for request in convert.text_batches(texts, template)
        ]
        return convert.text_embeddings(responses)
