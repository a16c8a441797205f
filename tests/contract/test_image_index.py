"""What every ImageIndex promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio

from clipsearch_server.ports import (
    Embedding,
    Embeddings,
    ImageIndex,
    NearestQuery,
    Revision,
    ScoredId,
    StoredImage,
)
from fakes import FakeIndex
from stored_images import DIM, KINDS, an_image, an_open_index, embeddings

SCORE_TOLERANCE = 1e-5  # float32, summed in whatever order
EMBEDDING_TOLERANCE = 1e-6  # a store may normalise once more


pytestmark = [
    # One index for all tests, emptied before each: to start Edge takes longer than to use it.
    pytest.mark.asyncio(loop_scope="module"),
    # qdrant_client's local mode needs no index on a payload, is always exact, and warns of either.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fake", *KINDS])
async def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ImageIndex]:
    if request.param == "fake":
        yield FakeIndex(DIM)
        return
    async with an_open_index(request.param, tmp_path_factory.mktemp("data")) as index:
        yield index


@pytest_asyncio.fixture(loop_scope="module")
async def index(opened: ImageIndex) -> ImageIndex:
    await opened.delete([image.id for image in (await opened.list(limit=1000)).images])
    return opened


async def nearest(
    index: ImageIndex, embedding: Embedding, *, limit: int = 10, **options: Any
) -> list[ScoredId]:
    (hits,) = await index.search([NearestQuery(embedding=embedding, limit=limit, **options)])
    return hits


async def test_an_image_comes_back_as_it_was(index: ImageIndex) -> None:
    image = an_image(
        2**128 - 1,
        url="",
        uri="Ελληνικά \u0000 \U0001f600",
        size_bytes=2**40,
        duplicate_of=UUID(int=1),
        metadata={
            "": None,
            "a.b": True,
            "number": 1.5,
            "whole": 3.0,
            "huge": 1e300,
            "tiny": 5e-324,
            "nested": {"list": [1.0, "two", [], {}, None, False]},
        },
    )
    await index.upsert([image], embeddings(1))
    assert await index.get([image.id]) == [image]
    assert await index.find(image.id, image.sha256) == (image, image)
    assert (await index.list(limit=1)).images == [image]
    assert [hit.id for hit in await nearest(index, embeddings(1)[0], limit=1)] == [image.id]


async def test_metadata_keeps_its_types(index: ImageIndex) -> None:
    await index.upsert([an_image(1, metadata={"whole": 3.0, "bool": True})], embeddings(1))
    (image,) = await index.get([UUID(int=1)])
    assert isinstance(image.metadata["whole"], float)
    assert image.metadata["bool"] is True


async def test_upsert_replaces_an_image_and_its_embedding(index: ImageIndex) -> None:
    old, new = embeddings(2)
    await index.upsert([an_image(1)], old[None])
    await index.upsert([an_image(1, uri="new")], new[None])
    assert [image.uri for image in await index.get([UUID(int=1)])] == ["new"]
    (hit,) = await nearest(index, new)
    assert hit.score == pytest.approx(1, abs=SCORE_TOLERANCE)
    assert await index.count() == 1


async def test_the_last_of_one_id_wins(index: ImageIndex) -> None:
    first, last = embeddings(2)
    images = [an_image(1, uri="first"), an_image(1, uri="last")]
    await index.upsert(images, np.stack([first, last]))
    (hit,) = await nearest(index, last)
    assert [image.uri for image in await index.get([hit.id])] == ["last"]
    assert hit.score == pytest.approx(1, abs=SCORE_TOLERANCE)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, DIM), np.float32),
        np.zeros((1, DIM - 1), np.float32),
        np.zeros(DIM, np.float32),
        np.full((1, DIM), np.nan, np.float32),
        np.full((1, DIM), np.inf, np.float32),
    ],
    ids=["rows", "dimensions", "axes", "nan", "inf"],
)
async def test_upsert_refuses_what_is_no_embedding(index: ImageIndex, bad: Embeddings) -> None:
    with pytest.raises(ValueError, match="embedding"):
        await index.upsert([an_image(1)], bad)
    assert await index.count() == 0


async def test_upsert_takes_any_number(index: ImageIndex) -> None:
    await index.upsert([], np.empty((0, DIM), np.float32))
    await index.upsert([an_image(n) for n in range(300)], embeddings(300))
    assert await index.count() == 300


async def test_search_returns_the_nearest_best_first(index: ImageIndex) -> None:
    vectors = embeddings(200)
    await index.upsert([an_image(n) for n in range(200)], vectors)
    query = embeddings(1, seed=1)[0]
    cosines = vectors @ query
    expected = np.argsort(-cosines)
    hits = await nearest(index, query)
    assert [hit.id.int for hit in hits] == expected[:10].tolist()
    assert [hit.score for hit in hits] == pytest.approx(
        cosines[expected[:10]].tolist(), abs=SCORE_TOLERANCE
    )
    assert len(await nearest(index, query, limit=1000)) == 200


async def test_search_answers_several_queries_in_their_order(index: ImageIndex) -> None:
    vectors = embeddings(30)
    await index.upsert([an_image(n) for n in range(30)], vectors)
    queries = [NearestQuery(embedding=vectors[n], limit=n) for n in (7, 1, 7, 29)]
    answers = await index.search(queries)
    assert [len(hits) for hits in answers] == [7, 1, 7, 29]
    assert [hits[0].id.int for hits in answers] == [7, 1, 7, 29]
    assert answers[0] == answers[2]
    firsts = (3, None, 9, 1)
    few = [replace(query, first=first) for query, first in zip(queries, firsts, strict=True)]
    best = [hits[:first] for hits, first in zip(answers, firsts, strict=True)]
    assert await index.search(few) == best


async def test_an_excluded_image_is_no_hit(index: ImageIndex) -> None:
    vectors = embeddings(30)
    await index.upsert([an_image(n) for n in range(30)], vectors)
    everything = await nearest(index, vectors[3], limit=30)
    excluded = (UUID(int=3), everything[4].id, UUID(int=999))
    hits = await nearest(index, vectors[3], limit=10, exclude=excluded)
    assert hits == [hit for hit in everything if hit.id not in excluded][:10]


async def test_an_exact_search_finds_the_same_where_nothing_is_approximate(
    index: ImageIndex,
) -> None:
    vectors = embeddings(30)
    await index.upsert([an_image(n) for n in range(30)], vectors)
    assert await nearest(index, vectors[3], exact=True) == await nearest(index, vectors[3])


async def test_embeddings_come_back_by_id(index: ImageIndex) -> None:
    vectors = embeddings(5)
    await index.upsert([an_image(n) for n in range(5)], vectors)
    found = await index.get_embeddings([UUID(int=n) for n in (4, 99, 0)])
    assert found.keys() == {UUID(int=4), UUID(int=0)}
    assert found[UUID(int=4)].dtype == np.float32
    assert found[UUID(int=4)] == pytest.approx(vectors[4], abs=EMBEDDING_TOLERANCE)
    assert await index.get_embeddings([]) == {}


async def test_search_leaves_out_what_is_below_the_threshold(index: ImageIndex) -> None:
    vectors = embeddings(200)
    await index.upsert([an_image(n) for n in range(200)], vectors)
    query = vectors[0]
    hits = await nearest(index, query, limit=1000, score_threshold=0.2)
    assert len(hits) == np.count_nonzero(vectors @ query >= 0.2)
    assert await nearest(index, -query, score_threshold=0.99) == []


@pytest.mark.parametrize(
    "bad", [np.zeros(DIM - 1, np.float32), np.full(DIM, np.nan, np.float32)], ids=["dim", "nan"]
)
async def test_search_refuses_what_is_no_embedding(index: ImageIndex, bad: Embeddings) -> None:
    with pytest.raises(ValueError, match="embedding"):
        await nearest(index, bad)


async def test_an_empty_index_answers(index: ImageIndex) -> None:
    assert await nearest(index, embeddings(1)[0]) == []
    assert await index.get([UUID(int=1)]) == []
    assert await index.get([]) == []
    assert await index.find(UUID(int=1), "0" * 64) == (None, None)
    page = await index.list(limit=10)
    assert (list(page.images), page.next_id) == ([], None)
    embedded = await index.list_embedded(limit=10)
    assert (list(embedded.images), embedded.embeddings.shape) == ([], (0, DIM))
    assert embedded.next_id is None
    assert await index.count() == 0
    await index.delete([UUID(int=1)])
    await index.health()
    assert index.description


async def test_get_keeps_the_order_asked_for(index: ImageIndex) -> None:
    await index.upsert([an_image(n) for n in range(50)], embeddings(50))
    ids = [UUID(int=n) for n in (31, 4, 99, 15, 9, 26)]
    assert [image.id.int for image in await index.get(ids)] == [31, 4, 15, 9, 26]


async def test_find_returns_the_lowest_id_of_a_content(index: ImageIndex) -> None:
    same = {"sha256": "a" * 64}
    images = [an_image(7, **same), an_image(3, **same), an_image(5, **same), an_image(1)]
    await index.upsert(images, embeddings(4))
    assert await index.find(UUID(int=7), "a" * 64) == (images[0], images[1])
    await index.delete([UUID(int=3)])
    assert await index.find(UUID(int=3), "a" * 64) == (None, images[2])


async def test_find_follows_a_replacement(index: ImageIndex) -> None:
    await index.upsert([an_image(1, sha256="a" * 64)], embeddings(1))
    await index.upsert([an_image(1, sha256="b" * 64)], embeddings(1))
    stored, twin = await index.find(UUID(int=1), "a" * 64)
    assert stored is not None
    assert stored.sha256 == "b" * 64
    assert twin is None


async def test_list_pages_by_id(index: ImageIndex) -> None:
    numbers = [5, 900, 3, 2**127, 77, 12, 40]
    await index.upsert([an_image(n) for n in numbers], embeddings(7))
    listed: list[int] = []
    start_id: UUID | None = None
    sizes = []
    while True:
        page = await index.list(limit=3, start_id=start_id)
        listed += [image.id.int for image in page.images]
        sizes.append(len(page.images))
        start_id = page.next_id
        if start_id is None:
            break
    assert listed == sorted(numbers)
    assert sizes == [3, 3, 1]


async def test_list_starts_at_an_id_that_need_not_exist(index: ImageIndex) -> None:
    await index.upsert([an_image(n) for n in (10, 20, 30)], embeddings(3))
    page = await index.list(limit=10, start_id=UUID(int=11))
    assert [image.id.int for image in page.images] == [20, 30]
    page = await index.list(limit=1, start_id=UUID(int=20))
    assert ([image.id.int for image in page.images], page.next_id) == ([20], UUID(int=30))


async def test_pages_with_embeddings_hold_everything_once(index: ImageIndex) -> None:
    images = [an_image(n * 7, metadata={"n": n / 10}) for n in range(150)]
    vectors = embeddings(150)
    order = np.random.default_rng(1).permutation(150)  # nor does it come back as it was stored
    await index.upsert([images[n] for n in order], vectors[order])
    listed: list[StoredImage] = []
    rows = []
    start_id: UUID | None = None
    while True:
        page = await index.list_embedded(limit=70, start_id=start_id)
        assert page.embeddings.shape == (len(page.images), DIM)
        assert page.embeddings.dtype == np.float32
        listed += page.images
        rows.append(page.embeddings)
        start_id = page.next_id
        if start_id is None:
            break
        assert len(page.images) == 70
    assert listed == images
    assert np.concatenate(rows) == pytest.approx(vectors, abs=EMBEDDING_TOLERANCE)


async def test_pages_with_embeddings_start_at_an_id_that_need_not_exist(index: ImageIndex) -> None:
    vectors = embeddings(3)
    await index.upsert([an_image(n) for n in (10, 20, 30)], vectors)
    page = await index.list_embedded(limit=10, start_id=UUID(int=11))
    assert [image.id.int for image in page.images] == [20, 30]
    assert page.embeddings == pytest.approx(vectors[1:], abs=EMBEDDING_TOLERANCE)
    page = await index.list_embedded(limit=1, start_id=UUID(int=20))
    assert ([image.id.int for image in page.images], page.next_id) == ([20], UUID(int=30))
    page = await index.list_embedded(limit=10, start_id=UUID(int=31))
    assert (list(page.images), page.embeddings.shape, page.next_id) == ([], (0, DIM), None)


async def test_an_embedding_that_moves_does_not_drift(index: ImageIndex) -> None:
    await index.upsert([an_image(n) for n in range(100)], embeddings(100))
    first = await index.list_embedded(limit=100)
    moved = first
    for _ in range(5):
        await index.upsert(moved.images, moved.embeddings)
        moved = await index.list_embedded(limit=100)
    assert moved.embeddings == pytest.approx(first.embeddings, abs=EMBEDDING_TOLERANCE)


async def test_a_deleted_image_is_gone_from_everywhere(index: ImageIndex) -> None:
    vectors = embeddings(100)
    await index.upsert([an_image(n) for n in range(100)], vectors)
    await index.delete([UUID(int=n) for n in range(0, 90)])
    assert await index.count() == 10
    assert await index.get([UUID(int=3)]) == []
    assert await index.find(UUID(int=3), f"{3:064x}") == (None, None)
    assert [image.id.int for image in (await index.list(limit=100)).images] == [*range(90, 100)]
    hits = await nearest(index, vectors[3], limit=100)
    assert {hit.id.int for hit in hits} == {*range(90, 100)}


async def test_an_image_is_found_as_soon_as_it_is_stored(index: ImageIndex) -> None:
    vectors = embeddings(64)

    async def add_and_look(number: int) -> None:
        await index.upsert([an_image(number)], vectors[number : number + 1])
        (image,) = await index.get([UUID(int=number)])
        (hit,) = await nearest(index, vectors[number], limit=1)
        assert image.id.int == hit.id.int == number
        if number % 2:
            await index.delete([image.id])
            assert await index.get([image.id]) == []

    await asyncio.gather(*(add_and_look(number) for number in range(64)))
    assert await index.count() == 32


async def test_a_change_has_a_revision_of_its_own(index: ImageIndex) -> None:
    async def revision_after(change: Awaitable[None]) -> Revision | None:
        before = index.revision
        doing = asyncio.ensure_future(change)
        seen: set[Revision | None] = set()
        while not doing.done():
            await asyncio.sleep(0)
            seen.add(index.revision)
        await doing
        assert seen <= {before, None, index.revision}
        return index.revision

    image = an_image(1)
    revisions = [
        index.revision,
        await revision_after(index.upsert([image], embeddings(1))),
        await revision_after(index.upsert([replace(image, uri="other")], embeddings(1))),
        await revision_after(index.delete([image.id])),
    ]
    if revisions[0] is None:  # of an index that others change too
        assert revisions == [None] * 4
    else:
        assert len(set(revisions)) == 4
    await index.list(limit=1)
    assert index.revision == revisions[-1]


async def test_of_equal_scores_the_lower_id_comes_first(index: ImageIndex) -> None:
    vectors = np.repeat(embeddings(1), 40, axis=0)
    order = np.random.default_rng(1).permutation(40).tolist()
    await index.upsert([an_image(n) for n in order], vectors)
    hits = await nearest(index, vectors[0], limit=40)
    assert [hit.id.int for hit in hits] == list(range(40))


async def test_metadata_comes_back_to_the_last_digit(index: ImageIndex) -> None:
    numbers = [*np.random.default_rng(0).random(200).tolist(), 1701966941.1688077, 1e300, 2**53]
    image = an_image(1, metadata={"numbers": numbers, "flag": True, "one": 1})
    await index.upsert([image], embeddings(1))
    (stored,) = await index.get([image.id])
    assert repr(stored.metadata) == repr(image.metadata)
