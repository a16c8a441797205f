"""Queries from messages, with the checks that need only the request, and what was found to
messages.

Every function is pure. What is wrong with a field raises InvalidRequest with the field's path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.rpc import convert
from clipsearch_server.rpc.fetch_headers import fetch_headers
from clipsearch_server.rpc.filters import filter_of
from clipsearch_server.rpc.page_tokens import Binding, write_cursor
from clipsearch_server.rpc.prompt_templates import prompt_templates_of
from clipsearch_server.searching import Found, Query
from clipsearch_server.terms import ImageTerm, StoredTerm, Term, TextTerm
from clipsearch_server.text_embedding import PromptedText

MAX_TEXT_BYTES = 65_536
MAX_TEXTS = 256
MAX_TERMS = 16
MAX_WEIGHT = 100
# Of all results of one request together.
MAX_HITS = 10_000
# A text may be put into a hundred templates, each of which is tokenised: 4 MiB take seconds.
MAX_PROMPT_BYTES = 4 * 2**20

_Request: TypeAlias = (
    "pb.QueryTextRequest | pb.QueryTextsRequest | pb.QueryImageRequest | pb.QueryRequest"
)
_Prompting: TypeAlias = (
    "pb.QueryTextRequest | pb.QueryTextsRequest | pb.QueryRequest | pb.EmbedTextsRequest"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a request says nothing: the collection's and the server's settings."""

    prompt_templates: tuple[str, ...]
    limit: int
    near_duplicate_similarity: float


def text_query(request: pb.QueryTextRequest, defaults: Defaults) -> Query:
    """Checks a request to find images by a text."""
    text = _text("text", request.text, _templates(request, defaults))
    _check_prompts([text], "text")
    return _query([TextTerm(text=text)], request, defaults)


def text_queries(request: pb.QueryTextsRequest, defaults: Defaults) -> list[Query | InvalidRequest]:
    """Checks a request to find images by each of many texts; a text that is bad is its error."""
    _check_count("texts", request.texts, MAX_TEXTS)
    templates = _templates(request, defaults)
    _check_prompts([PromptedText(text, templates) for text in request.texts], "texts")
    common = _query([], request, defaults)
    common = replace(common, limit=min(common.limit, MAX_HITS // len(request.texts)))
    queries: list[Query | InvalidRequest] = []
    for text in request.texts:
        try:
            # Named as QueryText would.
            queries.append(replace(common, terms=[TextTerm(text=_text("text", text, templates))]))
        except InvalidRequest as error:
            queries.append(error)
    return queries


def image_query(request: pb.QueryImageRequest, defaults: Defaults) -> Query:
    """Checks a request to find images by an image."""
    source = request.WhichOneof("source")
    if source is None:
        raise InvalidRequest("source", "set id, url or content: one of them is the image")
    if request.fetch_headers and source != "url":
        raise InvalidRequest("fetch_headers", "are for the host of a url; leave them out")
    headers = fetch_headers(request.fetch_headers)
    return _query([_image(request, source, path="", headers=headers)], request, defaults)


def mixed_query(request: pb.QueryRequest, defaults: Defaults) -> Query:
    """Checks a request to find images by a mix of texts and images."""
    _check_count("terms", request.terms, MAX_TERMS)
    templates = _templates(request, defaults)
    terms = [
        _term(f"terms[{place}].", message, templates) for place, message in enumerate(request.terms)
    ]
    _check_prompts([term.text for term in terms if isinstance(term, TextTerm)], "terms")
    return _query(terms, request, defaults)


def texts_to_embed(request: pb.EmbedTextsRequest, defaults: Defaults) -> list[PromptedText]:
    """Checks a request to embed texts."""
    _check_count("texts", request.texts, MAX_TEXTS)
    templates = _templates(request, defaults)
    texts = [_text(f"texts[{place}]", text, templates) for place, text in enumerate(request.texts)]
    _check_prompts(texts, "texts")
    return texts


def text_response(found: Found, binding: Binding) -> pb.QueryTextResponse:
    (text,) = found.texts
    assert text is not None  # a text was asked for
    return pb.QueryTextResponse(
        hits=_hits(found),
        next_page_token=write_cursor(found.next, binding),
        token_count=text.token_count,
        text_truncated=text.truncated,
        cut_off=_cut_off(found),
    )


def image_response(found: Found, binding: Binding) -> pb.QueryImageResponse:
    return pb.QueryImageResponse(
        hits=_hits(found),
        next_page_token=write_cursor(found.next, binding),
        cut_off=_cut_off(found),
    )


def mixed_response(found: Found, binding: Binding) -> pb.QueryResponse:
    return pb.QueryResponse(
        hits=_hits(found),
        next_page_token=write_cursor(found.next, binding),
        cut_off=_cut_off(found),
        truncated_terms=[
            place for place, text in enumerate(found.texts) if text is not None and text.truncated
        ],
    )


def _query(terms: Sequence[Term], request: _Request, defaults: Defaults) -> Query:
    threshold = request.score_threshold if request.HasField("score_threshold") else None
    if threshold is not None and not -1 <= threshold <= 1:  # NaN is out of range too
        raise InvalidRequest("score_threshold", "must be a number from -1 to 1")
    ranking = request.ranking
    similarity = defaults.near_duplicate_similarity
    if ranking.HasField("collapse_similarity"):
        similarity = ranking.collapse_similarity
        if not 0 < similarity <= 1:
            raise InvalidRequest(
                "ranking.collapse_similarity", "must be a number above 0 and at most 1"
            )
    if not 0 <= ranking.diversity <= 1:
        raise InvalidRequest("ranking.diversity", "must be a number from 0 to 1")
    return Query(
        terms=terms,
        limit=convert.page_limit("limit", request.limit, default=defaults.limit),
        score_threshold=threshold,
        filter=filter_of(request.filter) if request.HasField("filter") else None,
        auto_cut=ranking.auto_cut,
        collapse_similarity=similarity if ranking.collapse else None,
        diversity=ranking.diversity,
        exact=ranking.exact,
    )


def _term(path: str, message: pb.QueryTerm, templates: tuple[str, ...]) -> Term:
    weight = message.weight if message.HasField("weight") else 1.0
    if not 0 < abs(weight) <= MAX_WEIGHT:
        raise InvalidRequest(
            f"{path}weight", f"must be a number from -{MAX_WEIGHT} to {MAX_WEIGHT}, and not 0"
        )
    source = message.WhichOneof("source")
    if source is None:
        raise InvalidRequest(
            f"{path}source", "set text, image_id, image_url or image_content: one is the term"
        )
    if source == "text":
        return TextTerm(text=_text(f"{path}text", message.text, templates), weight=weight)
    return _image(message, source, path=path, weight=weight)


def _image(
    message: pb.QueryImageRequest | pb.QueryTerm,
    source: str,
    *,
    path: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    weight: float = 1.0,
) -> Term:
    """Reads an image from the field named ``source``; ``path`` leads to the message."""
    value = getattr(message, source)
    path += source
    if isinstance(value, bytes):
        convert.check_content(path, value)
        return ImageTerm(content=value, path=path, weight=weight)
    if source.endswith("id"):
        return StoredTerm(id=convert.image_id(value, path), weight=weight)
    convert.check_url(path, value)
    return ImageTerm(url=value, fetch_headers=headers, path=path, weight=weight)


def _text(path: str, text: str, templates: tuple[str, ...]) -> PromptedText:
    if not text.strip():
        raise InvalidRequest(path, "is empty; describe the image to find")
    convert.check_bytes(path, text, MAX_TEXT_BYTES)
    return PromptedText(text, templates)


def _templates(request: _Prompting, defaults: Defaults) -> tuple[str, ...]:
    if not request.HasField("prompt_templates"):
        return defaults.prompt_templates
    return prompt_templates_of(request.prompt_templates, "prompt_templates")


def _check_prompts(texts: Sequence[PromptedText], path: str) -> None:
    """Checks that a request's texts, each in every template, are not too long together."""
    size = sum(text.size_bytes() for text in texts)
    if size > MAX_PROMPT_BYTES:
        raise InvalidRequest(
            path,
            f"make prompts of {size:,} bytes together; at most {MAX_PROMPT_BYTES:,} are taken: "
            "send fewer at a time, or fewer templates",
        )


def _check_count(name: str, values: Sized, at_most: int) -> None:
    if not 1 <= len(values) <= at_most:
        raise InvalidRequest(name, f"are {len(values)}; 1 to {at_most} are taken")


def _hits(found: Found) -> list[pb.Hit]:
    return [
        pb.Hit(
            image=convert.image(hit.image),
            score=hit.score,
            near_duplicate_count=hit.near_duplicate_count,
        )
        for hit in found.hits
    ]


def _cut_off(found: Found) -> pb.CutOff | None:
    return None if found.cut_off is None else pb.CutOff(score=found.cut_off)
