"""Queries of both clients: what is asked, what comes back."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

import clipsearch
from clipsearch import AnyOf, Exists, Filter, Match, Prefix, QueryTerm, Range, Ranking
from clipsearch.v1 import filter_pb2
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import Driver, ScriptedService, make_image, make_status

FILTER = Filter(must=[Match("colour", "red")])
FILTER_MESSAGE = filter_pb2.Filter(
    must=[filter_pb2.Condition(field="colour", match=filter_pb2.Scalar(string_value="red"))]
)
RANKING = Ranking(auto_cut=True, collapse=True, collapse_similarity=0.5, diversity=0.25, exact=True)
RANKING_MESSAGE = pb.Ranking(
    auto_cut=True, collapse=True, collapse_similarity=0.5, diversity=0.25, exact=True
)
OPTIONS: dict[str, Any] = {
    "limit": 2,
    "score_threshold": 0.0,
    "collection": "pets",
    "filter": FILTER,
    "ranking": RANKING,
}
OPTION_MESSAGES: dict[str, Any] = OPTIONS | {"filter": FILTER_MESSAGE, "ranking": RANKING_MESSAGE}
TEMPLATES = pb.PromptTemplates(templates=["a {}"])
HITS = [pb.Hit(image=make_image(1), score=0.5, near_duplicate_count=3)]
UNAVAILABLE = make_status(grpc.StatusCode.UNAVAILABLE, "no index", "INDEX_UNAVAILABLE")
EMPTY = make_status(grpc.StatusCode.INVALID_ARGUMENT, "text: is empty", "INVALID_FIELD")


async def test_a_text_with_every_option(service: ScriptedService, driver: Driver) -> None:
    cut_off = pb.CutOff(score=0.25)
    service.answer("QueryText", pb.QueryTextResponse(hits=HITS, cut_off=cut_off))
    result = await driver.call("query_text", "a cat", prompt_templates=["a {}"], **OPTIONS)
    assert [hit.near_duplicate_count for hit in result.hits] == [3]
    assert result.cut_off == 0.25
    assert service.requests["QueryText"] == [
        pb.QueryTextRequest(text="a cat", prompt_templates=TEMPLATES, **OPTION_MESSAGES)
    ]


async def test_no_templates_are_not_the_default(service: ScriptedService, driver: Driver) -> None:
    service.answer("QueryText", pb.QueryTextResponse())
    assert (await driver.call("query_text", "a cat", prompt_templates=())).cut_off is None
    [request] = service.requests["QueryText"]
    assert request.HasField("prompt_templates")


@pytest.mark.parametrize("source", [{"id": "1"}, {"url": "http://a"}, {"content": b""}])
async def test_an_image(source: dict[str, Any], service: ScriptedService, driver: Driver) -> None:
    def found(_: Any, context: grpc.ServicerContext) -> pb.QueryImageResponse:
        context.set_trailing_metadata((("server-timing", "total;dur=5.10"),))
        return pb.QueryImageResponse(
            hits=HITS, next_page_token="next", cut_off=pb.CutOff(score=0.25)
        )

    service.answer("QueryImage", found)
    result = await driver.call("query_image", page_token="t", **source, **OPTIONS)
    assert [hit.score for hit in result.hits] == [0.5]
    assert (result.next_page_token, result.cut_off) == ("next", 0.25)
    assert result.timings_ms == {"total": 5.1}
    assert service.requests["QueryImage"] == [
        pb.QueryImageRequest(page_token="t", **source, **OPTION_MESSAGES)
    ]


@pytest.mark.parametrize("sources", [{}, {"id": "1", "url": "http://a.example"}])
async def test_an_image_is_one_thing(sources: dict[str, Any], driver: Driver) -> None:
    with pytest.raises(TypeError, match="one of id, url and content"):
        await driver.call("query_image", **sources)


async def test_headers_go_with_an_image(service: ScriptedService, driver: Driver) -> None:
    service.answer("QueryImage", pb.QueryImageResponse())
    await driver.call("query_image", url="http://a", fetch_headers={"Authorization": "x"})
    [request] = service.requests["QueryImage"]
    assert dict(request.fetch_headers) == {"Authorization": "x"}


async def test_a_mix(service: ScriptedService, driver: Driver) -> None:
    service.answer("Query", pb.QueryResponse(hits=HITS, truncated_terms=[0]))
    terms = [
        QueryTerm(text="a cat"),
        QueryTerm(image_id="1", weight=-0.5),
        QueryTerm(image_url="http://a"),
        QueryTerm(image_content=b"x", weight=2),
    ]
    result = await driver.call("query", terms, prompt_templates=["a {}"], **OPTIONS)
    assert (result.truncated, result.truncated_terms) == (True, (0,))
    expected = [
        pb.QueryTerm(text="a cat", weight=1),
        pb.QueryTerm(image_id="1", weight=-0.5),
        pb.QueryTerm(image_url="http://a", weight=1),
        pb.QueryTerm(image_content=b"x", weight=2),
    ]
    assert service.requests["Query"] == [
        pb.QueryRequest(terms=expected, prompt_templates=TEMPLATES, **OPTION_MESSAGES)
    ]


@pytest.mark.parametrize("term", [QueryTerm(), QueryTerm(text="a", image_id="1")])
async def test_a_term_is_one_thing(term: QueryTerm, driver: Driver) -> None:
    with pytest.raises(TypeError, match="a term has one of"):
        await driver.call("query", [term])


def answer_each(request: pb.QueryTextsRequest, _: grpc.ServicerContext) -> pb.QueryTextsResponse:
    """Finds as many tokens as the text says."""
    results = [
        pb.QueryTextsResult(response=pb.QueryTextResponse(token_count=int(text)))
        if text
        else pb.QueryTextsResult(error=EMPTY)
        for text in request.texts
    ]
    return pb.QueryTextsResponse(results=results)


@pytest.mark.parametrize(
    ("limit", "sizes"), [(0, [256, 256, 88]), (39, [256, 256, 88]), (100, [100] * 6)]
)
async def test_many_texts_are_asked_in_batches(
    limit: int, sizes: list[int], service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryTexts", answer_each)
    texts = [str(number) for number in range(600)]
    results = await driver.collect("query_texts", iter(texts), limit=limit)
    assert [result.text for result in results] == texts
    assert [result.result.token_count for result in results] == list(range(600))
    assert [len(request.texts) for request in service.requests["QueryTexts"]] == sizes


async def test_texts_with_every_option(service: ScriptedService, driver: Driver) -> None:
    service.answer("QueryTexts", answer_each)
    await driver.collect("query_texts", ["1"], prompt_templates=["a {}"], **OPTIONS)
    assert service.requests["QueryTexts"] == [
        pb.QueryTextsRequest(texts=["1"], prompt_templates=TEMPLATES, **OPTION_MESSAGES)
    ]


async def test_a_bad_text_does_not_disturb_the_others(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryTexts", answer_each)
    good, bad, also_good = await driver.collect("query_texts", ["1", "", "2"])
    assert (good.result.token_count, also_good.result.token_count) == (1, 2)
    assert (good.error, bad.result) == (None, None)
    assert isinstance(bad.error, clipsearch.InvalidRequestError)


async def test_long_texts_go_in_smaller_batches(service: ScriptedService, driver: Driver) -> None:
    service.answer("QueryTexts", answer_each)
    await driver.collect("query_texts", ["1" + " " * 60_000] * 10)
    assert max(request.ByteSize() for request in service.requests["QueryTexts"]) < 2**20


async def test_many_templates_make_smaller_batches(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryTexts", answer_each)
    templates = [f"{'a' * 100} {{}}"] * 100  # 10 kB a text, and each text a hundred times
    texts = ["1" + " " * 200] * 200 + ["1" + " " * 30_000] + ["1"]
    await driver.collect("query_texts", texts, prompt_templates=templates)
    requests = service.requests["QueryTexts"]
    assert sum(len(request.texts) for request in requests) == len(texts)
    for request in requests:
        prompts = [it.format(text) for text in request.texts for it in templates]
        assert sum(map(len, prompts)) < 2**22


async def test_no_texts_are_no_call(service: ScriptedService, driver: Driver) -> None:
    assert await driver.collect("query_texts", []) == []
    embeddings = await driver.call("embed_texts", [])
    assert (embeddings.embeddings, embeddings.model_fingerprint) == ((), "")
    assert not service.requests


async def test_texts_are_taken_as_results_are(service: ScriptedService, driver: Driver) -> None:
    service.answer("QueryTexts", answer_each)
    taken = 0

    def texts() -> Any:
        nonlocal taken
        for taken in range(1, 1001):  # noqa: B007 - it is what is counted
            yield "1"

    async for _ in driver.iterate("query_texts", texts()):
        break
    assert taken == 256


@pytest.mark.parametrize("method", ["embed_texts", "query_texts"])
async def test_one_string_is_not_texts(method: str, driver: Driver) -> None:
    call = driver.call if method == "embed_texts" else driver.collect
    with pytest.raises(TypeError, match="texts is a string"):
        await call(method, "a cat")
    with pytest.raises(TypeError, match="prompt_templates is a string"):
        await call(method, ["a cat"], prompt_templates="a {}")


def embed(request: pb.EmbedTextsRequest, _: grpc.ServicerContext) -> pb.EmbedTextsResponse:
    embeddings = [pb.Embedding(values=[float(text), 0.1]) for text in request.texts]
    return pb.EmbedTextsResponse(embeddings=embeddings, model_fingerprint="abc")


async def test_embeddings(service: ScriptedService, driver: Driver) -> None:
    service.answer("EmbedTexts", embed)
    texts = [str(number) for number in range(300)]
    found = await driver.call("embed_texts", texts, collection="pets", prompt_templates=["a {}"])
    assert found.model_fingerprint == "abc"
    assert list(found.embeddings) == [array("f", [number, 0.1]) for number in range(300)]
    first, second = service.requests["EmbedTexts"]
    assert (len(first.texts), len(second.texts)) == (256, 44)
    assert (second.collection, second.prompt_templates) == ("pets", TEMPLATES)


async def test_embeddings_of_two_models_do_not_mix(
    service: ScriptedService, driver: Driver
) -> None:
    other = pb.EmbedTextsResponse(embeddings=[pb.Embedding()] * 44, model_fingerprint="def")
    service.answer("EmbedTexts", embed, other)
    with pytest.raises(clipsearch.ModelMismatchError, match="abc, then def"):
        await driver.call("embed_texts", ["1"] * 300)


@pytest.mark.parametrize(
    ("method", "arguments", "rpc", "response"),
    [
        ("query", [[QueryTerm(text="a")]], "Query", pb.QueryResponse()),
        ("embed_texts", [["a"]], "EmbedTexts", pb.EmbedTextsResponse()),
    ],
)
async def test_reading_is_repeated(
    method: str, arguments: Any, rpc: str, response: Any, service: ScriptedService, driver: Driver
) -> None:
    service.answer(rpc, UNAVAILABLE, response)
    await driver.call(method, *arguments)
    assert len(service.requests[rpc]) == 2


TIME = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Match("a", "x"), {"field": "a", "match": {"stringValue": "x"}}),
        (Match("a", True), {"field": "a", "match": {"boolValue": True}}),
        (Match("a", 2), {"field": "a", "match": {"numberValue": 2.0}}),
        (Match("a", 0.5), {"field": "a", "match": {"numberValue": 0.5}}),
        (
            AnyOf("a", ["x", "y"]),
            {"field": "a", "anyOf": {"values": [{"stringValue": "x"}, {"stringValue": "y"}]}},
        ),
        (Range("a", gt=0, lte=0.5), {"field": "a", "numberRange": {"gt": 0.0, "lte": 0.5}}),
        (Range("a", gte=1, lt=2), {"field": "a", "numberRange": {"gte": 1.0, "lt": 2.0}}),
        (Range("a", lt=TIME), {"field": "a", "timeRange": {"lt": "2026-11-01T12:30:00Z"}}),
        (Exists("a"), {"field": "a", "exists": True}),
        (Exists("a", False), {"field": "a", "exists": False}),
        (Prefix("a", "x"), {"field": "a", "prefix": "x"}),
        (
            Filter(should=[Exists("a")], must_not=[Exists("b")]),
            {
                "filter": {
                    "should": [{"field": "a", "exists": True}],
                    "mustNot": [{"field": "b", "exists": True}],
                }
            },
        ),
    ],
)
async def test_a_condition(
    condition: clipsearch.Condition, expected: Any, service: ScriptedService
) -> None:
    service.answer("QueryText", pb.QueryTextResponse())
    async with clipsearch.AsyncSearchClient(service.target) as client:
        await client.query_text("a cat", filter=Filter(must=[condition]))
    [request] = service.requests["QueryText"]
    assert json_format.MessageToDict(request.filter) == {"must": [expected]}


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        ({}, ValueError),
        ({"gt": 1, "lt": TIME}, TypeError),
        ({"gt": datetime(2026, 11, 1)}, ValueError),
    ],
)
def test_a_range_is_of_one_kind(bounds: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="the range of a"):
        Range("a", **bounds)


@pytest.mark.parametrize("condition", [Match("a", None), AnyOf("a", [b"x"]), "a = 1"])
def test_what_is_no_condition_is_told(condition: Any, service: ScriptedService) -> None:
    with (
        clipsearch.SearchClient(service.target) as client,
        pytest.raises(TypeError, match="is no"),
    ):
        client.query_text("a cat", filter=Filter(must=[condition]))


def test_the_values_of_a_condition_are_no_string() -> None:
    with pytest.raises(TypeError, match="is a string"):
        AnyOf("a", "red")


def test_filters_can_be_compared_and_hashed() -> None:
    assert Filter(must=[AnyOf("a", [1])]) == Filter(must=(AnyOf("a", (1,)),))
    assert len({Filter(must=[AnyOf("a", [1])]), Filter(must=(AnyOf("a", (1,)),))}) == 1
