"""Queries over real gRPC, on fakes: by texts, by images and by mixes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from clipsearch.v1 import filter_pb2
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.budget import Budget
from clipsearch_server.errors import ModelOutputInvalid
from clipsearch_server.ports import Embeddings, TokenIds
from fakes import FakeEncoder, FakeFetcher, FakeIndex
from samples import png
from stored_images import an_image
from unit.server.test_service import reason_of, status_of

Stub = ImageSearchServiceStub
RED, GREEN, BLUE = (UUID(int=n) for n in (1, 2, 3))
URL = "https://example.com/red.png"


@pytest.fixture(autouse=True)
async def colours(service: Stub) -> None:
    """Red, green and blue, under ids of their own."""
    for colour, image_id in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        request = pb.AddImageRequest(content=png(colour), id=str(image_id), uri=colour)
        await service.AddImage(request)


def uris(response: Any) -> list[str]:
    return [hit.image.uri for hit in response.hits]


def scores(response: Any) -> list[float]:
    return [hit.score for hit in response.hits]


def field_of(status: status_pb2.Status) -> str:
    violation = error_details_pb2.BadRequest()
    assert any(detail.Unpack(violation) for detail in status.details)
    return violation.field_violations[0].field


async def fill(index: FakeIndex, rows: Embeddings, *, first: int = 100) -> None:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    await index.upsert([an_image(first + n) for n in range(len(rows))], rows.astype(np.float32))


async def pages(service: Stub, request: Any, limits: Sequence[int]) -> list[pb.Hit]:
    hits: list[pb.Hit] = []
    method = type(request).__name__.removesuffix("Request")
    for number in range(1000):
        request.limit = limits[number % len(limits)]
        response = await getattr(service, method)(request)
        assert len(response.hits) <= request.limit
        hits += response.hits
        if not response.next_page_token:
            return hits
        request.page_token = response.next_page_token
    raise AssertionError("there is no end")


async def test_an_image_finds_what_looks_like_it(service: Stub, fetcher: FakeFetcher) -> None:
    fetcher.bodies[URL] = png("#ff2000")
    by_content = await service.QueryImage(pb.QueryImageRequest(content=png("#ff2000"), limit=3))
    assert uris(by_content) == ["red", "green", "blue"]
    request = pb.QueryImageRequest(url=URL, fetch_headers={"Authorization": "hush"}, limit=3)
    by_url = await service.QueryImage(request)
    assert by_url.hits == by_content.hits
    assert fetcher.headers == {URL: {"Authorization": "hush"}}


async def test_a_stored_image_is_no_hit_of_itself(service: Stub) -> None:
    found = await service.QueryImage(pb.QueryImageRequest(id=str(RED), limit=3))
    assert sorted(uris(found)) == ["blue", "green"]
    status = await status_of(service.QueryImage(pb.QueryImageRequest(id=str(UUID(int=9)))))
    assert (status.code, reason_of(status)) == (code_pb2.NOT_FOUND, "IMAGE_NOT_FOUND")


async def test_a_mix_is_like_this_but_not_like_that(service: Stub) -> None:
    terms = [pb.QueryTerm(text="red blue"), pb.QueryTerm(image_id=str(RED), weight=-0.9)]
    found = await service.Query(pb.QueryRequest(terms=terms, limit=3))
    assert uris(found) == ["blue", "green"]
    assert scores(found)[1] < 0.1


async def test_a_query_of_one_term_is_the_same_query(service: Stub, encoder: FakeEncoder) -> None:
    text = await service.QueryText(pb.QueryTextRequest(text="red green", limit=3))
    mixed = await service.Query(
        pb.QueryRequest(terms=[pb.QueryTerm(text="red green", weight=7)], limit=3)
    )
    assert mixed.hits == text.hits
    image = await service.QueryImage(pb.QueryImageRequest(content=png("#334400"), limit=3))
    mixed = await service.Query(
        pb.QueryRequest(terms=[pb.QueryTerm(image_content=png("#334400"))], limit=3)
    )
    assert mixed.hits == image.hits


async def test_all_texts_of_a_query_are_embedded_in_one_call_and_then_remembered(
    service: Stub, encoder: FakeEncoder
) -> None:
    terms = [pb.QueryTerm(text=text) for text in ("red", "green blue", "red")]
    terms.append(pb.QueryTerm(image_content=png("#00ffff")))
    embedded = encoder.images_embedded
    first = await service.Query(pb.QueryRequest(terms=terms, limit=3))
    again = await service.Query(pb.QueryRequest(terms=terms, limit=3))
    assert again == first
    assert encoder.text_calls == [2]
    assert encoder.images_embedded == embedded + 1


async def test_an_encoder_gets_no_more_prompts_at_a_time_than_it_takes(
    service: Stub, encoder: FakeEncoder
) -> None:
    templates = [f"{{}} {'red ' * n}" for n in range(30)]
    request = pb.EmbedTextsRequest(
        texts=["red", "green", "blue"], prompt_templates=pb.PromptTemplates(templates=templates)
    )
    embedded = (await service.EmbedTexts(request)).embeddings
    assert encoder.text_calls == [64, 26]
    alone = await service.EmbedTexts(
        pb.EmbedTextsRequest(texts=["blue"], prompt_templates=request.prompt_templates)
    )
    assert alone.embeddings[0] == embedded[2]
    assert len(encoder.text_calls) == 2  # remembered


async def test_terms_that_cancel_each_other_out_are_refused(service: Stub) -> None:
    terms = [pb.QueryTerm(text="red"), pb.QueryTerm(text="red", weight=-1)]
    status = await status_of(service.Query(pb.QueryRequest(terms=terms)))
    assert (status.code, field_of(status)) == (code_pb2.INVALID_ARGUMENT, "terms")


def term(**values: Any) -> pb.QueryTerm:
    return pb.QueryTerm(**values)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.QueryTextRequest(text=" \n"), "text"),
        (pb.QueryTextRequest(text="é" * 40_000), "text"),
        (pb.QueryTextRequest(text="a", limit=-1), "limit"),
        (pb.QueryTextRequest(text="a", score_threshold=1.5), "score_threshold"),
        (pb.QueryTextRequest(text="a", score_threshold=float("nan")), "score_threshold"),
        (pb.QueryTextRequest(text="a", ranking=pb.Ranking(diversity=1.1)), "ranking.diversity"),
        (
            pb.QueryTextRequest(text="a", ranking=pb.Ranking(diversity=float("nan"))),
            "ranking.diversity",
        ),
        (
            pb.QueryTextRequest(text="a", ranking=pb.Ranking(collapse_similarity=0)),
            "ranking.collapse_similarity",
        ),
        (
            pb.QueryTextRequest(text="a", prompt_templates=pb.PromptTemplates(templates=["{}{}"])),
            "prompt_templates.templates[0]",
        ),
        (
            pb.QueryTextRequest(
                text="a" * 65_000, prompt_templates=pb.PromptTemplates(templates=["{}"] * 100)
            ),
            "text",
        ),
        (pb.QueryTextsRequest(), "texts"),
        (pb.QueryTextsRequest(texts=["a"] * 257), "texts"),
        (
            pb.QueryTextsRequest(
                texts=["a" * 65_000] * 33,
                prompt_templates=pb.PromptTemplates(templates=["{}", "a {}"]),
            ),
            "texts",
        ),
        (pb.EmbedTextsRequest(texts=["a", "b", "c", " "]), "texts[3]"),
        (pb.EmbedTextsRequest(), "texts"),
        (pb.QueryImageRequest(), "source"),
        (pb.QueryImageRequest(id="7"), "id"),
        (pb.QueryImageRequest(url=""), "url"),
        (pb.QueryImageRequest(content=b""), "content"),
        (pb.QueryImageRequest(content=b"text"), "content"),
        (pb.QueryImageRequest(content=b"x" * 100_001), "content"),
        (pb.QueryImageRequest(id=str(RED), fetch_headers={"a": "b"}), "fetch_headers"),
        (pb.QueryImageRequest(url=URL, fetch_headers={"host": "b"}), "fetch_headers"),
        (pb.QueryRequest(), "terms"),
        (pb.QueryRequest(terms=[term(text="a")] * 17), "terms"),
        (pb.QueryRequest(terms=[term(text="a"), term()]), "terms[1].source"),
        (pb.QueryRequest(terms=[term(text="a"), term(text="")]), "terms[1].text"),
        (
            pb.QueryRequest(terms=[*[term(text="a")] * 2, term(text="a", weight=0)]),
            "terms[2].weight",
        ),
        (pb.QueryRequest(terms=[term(text="a", weight=-101)]), "terms[0].weight"),
        (pb.QueryRequest(terms=[term(text="a", weight=float("nan"))]), "terms[0].weight"),
        (pb.QueryRequest(terms=[term(image_id="x")]), "terms[0].image_id"),
        (pb.QueryRequest(terms=[term(image_url="")]), "terms[0].image_url"),
        (
            pb.QueryRequest(terms=[term(text="red"), term(image_content=b"no image")]),
            "terms[1].image_content",
        ),
        (
            pb.QueryTextRequest(text="a", filter=filter_pb2.Filter(must=[filter_pb2.Condition()])),
            "filter.must[0]",
        ),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told_of_its_field(
    service: Stub, request_: Message, field: str
) -> None:
    method = getattr(service, type(request_).__name__.removesuffix("Request"))
    status = await status_of(method(request_))
    assert (status.code, field_of(status)) == (code_pb2.INVALID_ARGUMENT, field)


async def test_many_texts_find_what_each_would_alone(service: Stub, encoder: FakeEncoder) -> None:
    texts = ["red", "blue blue green", " ", "green " * 30, "red"]
    found = await service.QueryTexts(pb.QueryTextsRequest(texts=texts, limit=2))
    assert encoder.text_calls == [3]
    assert [result.WhichOneof("result") for result in found.results] == [
        "response", "response", "error", "response", "response",
    ]  # fmt: skip
    error = found.results[2].error
    assert error == await status_of(service.QueryText(pb.QueryTextRequest(text=" ")))
    for text, result in zip(texts, found.results, strict=True):
        if text.strip():
            alone = await service.QueryText(pb.QueryTextRequest(text=text, limit=2))
            assert result.response == alone
    assert found.results[3].response.text_truncated


async def test_a_page_of_one_of_many_texts_goes_on_alone(service: Stub) -> None:
    request = pb.QueryTextsRequest(texts=["red", "green"], limit=2)
    found = await service.QueryTexts(request)
    token = found.results[1].response.next_page_token
    rest = await service.QueryText(pb.QueryTextRequest(text="green", page_token=token))
    assert sorted(uris(found.results[1].response) + uris(rest)) == ["blue", "green", "red"]
    status = await status_of(service.QueryText(pb.QueryTextRequest(text="red", page_token=token)))
    assert field_of(status) == "page_token"


async def test_all_results_together_are_bounded(service: Stub, index: FakeIndex) -> None:
    await fill(index, np.random.default_rng(1).random((100, 3)))
    found = await service.QueryTexts(pb.QueryTextsRequest(texts=["red"] * 200, limit=1000))
    assert {len(result.response.hits) for result in found.results} == {50}


class Poisoned(FakeEncoder):
    """Answers texts with the word green, and whatever comes with them, with nonsense."""

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        if (token_ids == 4).any():
            raise ModelOutputInvalid("poison")
        return await super().encode_text(token_ids)


class TestPoisoned:
    @pytest.fixture
    def encoder(self) -> FakeEncoder:
        return Poisoned()

    async def test_a_poison_text_fails_alone(self, service: Stub) -> None:
        request = pb.QueryTextsRequest(texts=["red", "green", "blue"])
        found = await service.QueryTexts(request)
        assert [result.error.code for result in found.results] == [0, code_pb2.INTERNAL, 0]
        assert uris(found.results[2].response)[0] == "blue"


async def test_texts_are_embedded_as_a_query_would(service: Stub, index: FakeIndex) -> None:
    embedded = await service.EmbedTexts(pb.EmbedTextsRequest(texts=["red", "green blue"]))
    assert embedded.model_fingerprint == "c" * 64
    stored = (await index.get_embeddings([RED]))[RED]
    for text, embedding in zip(["red", "green blue"], embedded.embeddings, strict=True):
        found = await service.QueryText(pb.QueryTextRequest(text=text, limit=3))
        score = next(hit.score for hit in found.hits if hit.image.uri == "red")
        assert np.asarray(embedding.values, np.float32) @ stored == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("prompt_templates", [("{} red", "green {} green")])
async def test_prompts_are_averaged_unless_a_query_brings_its_own(service: Stub) -> None:
    def embed(**more: Any) -> Any:
        return service.EmbedTexts(pb.EmbedTextsRequest(texts=["blue"], **more))

    prompts = await service.EmbedTexts(
        pb.EmbedTextsRequest(
            texts=["blue red", "green blue green"], prompt_templates=pb.PromptTemplates()
        )
    )
    total = np.sum([embedding.values for embedding in prompts.embeddings], axis=0)
    collections = (await embed()).embeddings[0].values
    np.testing.assert_allclose(collections, total / np.linalg.norm(total), atol=1e-6)
    one = await embed(prompt_templates=pb.PromptTemplates(templates=["green {} green"]))
    np.testing.assert_array_equal(one.embeddings[0].values, prompts.embeddings[1].values)
    found = await service.QueryText(pb.QueryTextRequest(text="blue"))
    assert found.token_count == 5  # of the longer prompt
    assert not found.text_truncated


async def test_a_prompt_that_is_cut_is_told(service: Stub) -> None:
    templates = pb.PromptTemplates(templates=["{}", "red green blue red {}"])
    request = pb.QueryTextRequest(text="red red red", prompt_templates=templates)
    found = await service.QueryText(request)
    assert (found.token_count, found.text_truncated) == (8, True)
    terms = [pb.QueryTerm(text="red"), pb.QueryTerm(text="red red red")]
    mixed = await service.Query(pb.QueryRequest(terms=terms, prompt_templates=templates))
    assert list(mixed.truncated_terms) == [1]


@pytest.mark.parametrize(
    "ranking",
    [
        pb.Ranking(),
        pb.Ranking(collapse=True, collapse_similarity=0.9999),
        pb.Ranking(diversity=0.4),
        pb.Ranking(collapse=True, collapse_similarity=0.999, diversity=0.7),
    ],
)
async def test_pages_of_any_sizes_are_one_ranking(
    service: Stub, index: FakeIndex, ranking: pb.Ranking
) -> None:
    rows = np.random.default_rng(2).random((140, 3)) + 0.01
    await fill(index, np.concatenate([rows, rows]))
    whole = await service.QueryText(pb.QueryTextRequest(text="red", ranking=ranking, limit=1000))
    assert not whole.next_page_token
    for limits in ([100, 30, 7], [64]):
        request = pb.QueryTextRequest(text="red", ranking=ranking)
        assert await pages(service, request, limits) == list(whole.hits)


async def test_row_26_a_page_token_is_of_its_query_alone(service: Stub) -> None:
    term_ = pb.QueryTerm(text="red")
    request = pb.QueryRequest(terms=[term_], limit=1)
    token = (await service.Query(request)).next_page_token
    templates = pb.PromptTemplates(templates=["{} red"])
    others: list[Message] = [
        pb.QueryRequest(terms=[pb.QueryTerm(text="green")]),
        pb.QueryRequest(terms=[pb.QueryTerm(text="red", weight=2)]),
        pb.QueryRequest(terms=[term_, term_]),
        pb.QueryRequest(terms=[term_], score_threshold=0),
        pb.QueryRequest(terms=[term_], ranking=pb.Ranking(exact=True)),
        pb.QueryRequest(terms=[term_], ranking=pb.Ranking(collapse=True)),
        pb.QueryRequest(terms=[term_], prompt_templates=templates),
        pb.QueryImageRequest(id=str(RED)),
    ]
    for other in others:
        other.page_token = token  # type: ignore[attr-defined]
        method = getattr(service, type(other).__name__.removesuffix("Request"))
        assert field_of(await status_of(method(other))) == "page_token"
    request.page_token = token
    request.limit = 7
    request.collection = "images"
    assert len((await service.Query(request)).hits) == 2
    for bad in ("!", "AAAA", token[:-1], token + "A", token[:-1] + "é", token + "="):
        request.page_token = bad
        assert field_of(await status_of(service.Query(request))) == "page_token"


async def test_near_duplicates_are_left_out_and_counted(service: Stub, index: FakeIndex) -> None:
    rows = np.array([[1, 0.1, 0], [1, 0.1, 0.001], [0, 1, 0.1], [1, 0.1, 0.002]])
    await fill(index, rows)
    request = pb.QueryTextRequest(text="green", limit=9, ranking=pb.Ranking(collapse=True))
    found = await service.QueryText(request)
    counts = {hit.image.id: hit.near_duplicate_count for hit in found.hits}
    assert sum(counts.values()) + len(counts) == 7
    assert sorted(counts.values()) == [0, 1, 3]  # blue, green and its like, red and its like
    plain = await service.QueryText(pb.QueryTextRequest(text="green", limit=9))
    assert {hit.near_duplicate_count for hit in plain.hits} == {0}


async def test_diverse_hits_differ_from_each_other(service: Stub, index: FakeIndex) -> None:
    await fill(index, np.array([[1, 0.2, 0.2]] * 5))
    request = pb.QueryTextRequest(text="red green", limit=2)
    plain = await service.QueryText(request)
    request.ranking.diversity = 0.5
    diverse = await service.QueryText(request)
    assert diverse.hits[0] == plain.hits[0]
    assert uris(diverse)[1] in ("green", "blue")
    assert uris(plain)[1] != uris(diverse)[1]


async def test_what_stands_out_is_kept_and_the_score_is_told(
    service: Stub, index: FakeIndex
) -> None:
    random = np.random.default_rng(3)
    greys = np.abs(random.normal([0.2, 1, 1], 0.1, (100, 3)))
    await fill(index, greys)
    request = pb.QueryTextRequest(text="red", limit=50, ranking=pb.Ranking(auto_cut=True))
    found = await service.QueryText(request)
    assert uris(found) == ["red"]
    assert 0.3 < found.cut_off.score < 1
    request.text = "green blue"
    nothing = await service.QueryText(request)
    assert not nothing.hits
    assert nothing.HasField("cut_off")
    request.ranking.auto_cut = False
    assert not (await service.QueryText(request)).HasField("cut_off")
    request.score_threshold = 0.999
    request.ranking.auto_cut = True
    assert not (await service.QueryText(request)).hits


async def test_images_of_queries_wait_for_memory_and_give_it_back(
    service: Stub, fetcher: FakeFetcher, memory: Budget
) -> None:
    """More than there is, by contents and by URLs together: one after the other, it fits."""
    big = {f"https://example.com/{n}.png": png(f"#00{n}000") + bytes(90_000) for n in range(4)}
    fetcher.bodies |= big
    terms = [pb.QueryTerm(image_url=url) for url in big]
    terms += [pb.QueryTerm(image_content=content) for content in big.values()]
    found = await service.Query(pb.QueryRequest(terms=terms, limit=3))
    assert len(found.hits) == 3
    terms.append(pb.QueryTerm(image_url="https://example.com/missing.png"))
    status = await status_of(service.Query(pb.QueryRequest(terms=terms)))
    assert reason_of(status) == "SOURCE_HTTP_STATUS"
    async with memory.take(200_000):
        pass  # all of it was given back
