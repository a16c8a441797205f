"""Queries, and what they find."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from grpc import StatusCode

from clipsearch._convert.images import image
from clipsearch._errors import ModelMismatchError, error_from_status
from clipsearch._models import Hit, QueryResult, QueryTerm, Ranking, TextEmbeddings, TextResult
from clipsearch.v1 import image_search_pb2 as pb

# A batch of texts: as many as a request may have, and so small that it is below the smallest limit
# on messages that a server can have, 1 MiB, even if one text more makes it larger.
_BATCH_TEXTS = 256
_BATCH_BYTES = 2**19
# What the texts of a request, each in every template, may have together.
_BATCH_PROMPT_BYTES = 2**22
# The hits that the response to a batch of texts has at most.
_BATCH_HITS = 10_000
_MAX_LIMIT = 1_000

_Texts = TypeVar("_Texts", pb.QueryTextsRequest, pb.EmbedTextsRequest)


def set_source(
    request: pb.QueryImageRequest, *, id: str | None, url: str | None, content: bytes | None
) -> None:
    """Raises TypeError unless exactly one of id, url and content is given."""
    if [id, url, content].count(None) != 2:
        raise TypeError("give one of id, url and content")
    if id is not None:
        request.id = id
    if url is not None:
        request.url = url
    if content is not None:
        request.content = content


def query_term(term: QueryTerm) -> pb.QueryTerm:
    """Raises TypeError unless the term is exactly one thing."""
    sources = [term.text, term.image_id, term.image_url, term.image_content]
    if sources.count(None) != 3:
        raise TypeError("a term has one of text, image_id, image_url and image_content")
    message = pb.QueryTerm(weight=term.weight)
    if term.text is not None:
        message.text = term.text
    if term.image_id is not None:
        message.image_id = term.image_id
    if term.image_url is not None:
        message.image_url = term.image_url
    if term.image_content is not None:
        message.image_content = term.image_content
    return message


def ranking_message(ranking: Ranking | None) -> pb.Ranking | None:
    if ranking is None:
        return None
    return pb.Ranking(
        auto_cut=ranking.auto_cut,
        collapse=ranking.collapse,
        collapse_similarity=ranking.collapse_similarity,
        diversity=ranking.diversity,
        exact=ranking.exact,
    )


def templates_message(templates: Sequence[str] | None) -> pb.PromptTemplates | None:
    """Raises TypeError if the templates are one string."""
    if templates is None:
        return None
    if isinstance(templates, str):
        raise TypeError("prompt_templates is a string; give a sequence of them")
    return pb.PromptTemplates(templates=templates)


def text_batches(texts: Iterable[str], request: _Texts) -> Iterator[_Texts]:
    """Yields copies of the request with the texts, as many in each as one call may have.

    Raises TypeError if the texts are one string.
    """
    if isinstance(texts, str):
        raise TypeError("texts is a string; give an iterable of them")
    max_texts = _BATCH_TEXTS
    if isinstance(request, pb.QueryTextsRequest) and request.limit > 0:
        # More texts, and the server would lower the limit.
        max_texts = min(max_texts, _BATCH_HITS // min(request.limit, _MAX_LIMIT))
    for group in _groups(texts, max_texts, request.prompt_templates.templates):
        batch = type(request)(texts=group)
        batch.MergeFrom(request)
        yield batch


def _groups(
    texts: Iterable[str], max_texts: int, templates: Sequence[str]
) -> Iterator[Sequence[str]]:
    """Yields each group as soon as it is full."""
    template_bytes = sum(len(it.encode()) for it in templates)
    group: list[str] = []
    group_bytes = prompt_bytes = 0
    for text in texts:
        text_bytes = len(text.encode())
        own_prompt_bytes = template_bytes + len(templates) * text_bytes
        if group and prompt_bytes + own_prompt_bytes > _BATCH_PROMPT_BYTES:
            yield group
            group, group_bytes, prompt_bytes = [], 0, 0
        group.append(text)
        group_bytes += text_bytes
        prompt_bytes += own_prompt_bytes
        if len(group) == max_texts or group_bytes >= _BATCH_BYTES:
            yield group
            group, group_bytes, prompt_bytes = [], 0, 0
    if group:
        yield group


def text_results(
    request: pb.QueryTextsRequest, response: pb.QueryTextsResponse
) -> Iterator[TextResult]:
    for text, message in zip(request.texts, response.results, strict=True):
        if message.WhichOneof("result") == "error":
            yield TextResult(text=text, error=error_from_status(message.error))
        else:
            yield TextResult(text=text, result=text_result(message.response, {}))


def text_result(message: pb.QueryTextResponse, timings_ms: Mapping[str, float]) -> QueryResult:
    return QueryResult(
        hits=_hits(message.hits),
        truncated=message.text_truncated,
        token_count=message.token_count,
        next_page_token=message.next_page_token,
        timings_ms=timings_ms,
        cut_off=_cut_off(message),
    )


def image_result(message: pb.QueryImageResponse, timings_ms: Mapping[str, float]) -> QueryResult:
    return QueryResult(
        hits=_hits(message.hits),
        truncated=False,
        token_count=0,
        next_page_token=message.next_page_token,
        timings_ms=timings_ms,
        cut_off=_cut_off(message),
    )


def mix_result(message: pb.QueryResponse, timings_ms: Mapping[str, float]) -> QueryResult:
    return QueryResult(
        hits=_hits(message.hits),
        truncated=bool(message.truncated_terms),
        token_count=0,
        next_page_token=message.next_page_token,
        timings_ms=timings_ms,
        cut_off=_cut_off(message),
        truncated_terms=tuple(message.truncated_terms),
    )


def text_embeddings(responses: Sequence[pb.EmbedTextsResponse]) -> TextEmbeddings:
    """Raises ModelMismatchError if another model embedded the last texts than the first."""
    fingerprints = {response.model_fingerprint: None for response in responses}
    if len(fingerprints) > 1:
        raise ModelMismatchError(
            StatusCode.FAILED_PRECONDITION,
            "the collection's model has changed while the texts were embedded: "
            f"{', then '.join(fingerprints)}; embed them again",
            "MODEL_MISMATCH",
        )
    return TextEmbeddings(
        embeddings=tuple(
            array("f", embedding.values)
            for response in responses
            for embedding in response.embeddings
        ),
        model_fingerprint="".join(fingerprints),
    )


def _hits(messages: Iterable[pb.Hit]) -> tuple[Hit, ...]:
    return tuple(
        Hit(image=image(it.image), score=it.score, near_duplicate_count=it.near_duplicate_count)
        for it in messages
    )


def _cut_off(
    message: pb.QueryTextResponse | pb.QueryImageResponse | pb.QueryResponse,
) -> float | None:
    return message.cut_off.score if message.HasField("cut_off") else None
