"""Every index gives the same answers to queries: the same images, in the same order, with the same
scores, counts and pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio

from clipsearch_server.filters import Filter, MatchAny, NumberRange, Prefix
from clipsearch_server.ports import ImageIndex
from clipsearch_server.searching import ImageSearcher, Query
from clipsearch_server.stages import Stages
from clipsearch_server.terms import StoredTerm
from fakes import FakeIndex
from stored_images import DIM, KINDS, an_image, an_open_index, embeddings

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # qdrant_client's local mode needs no index on a payload, is always exact, and warns of either.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

IMAGES = 300
COPIES = 40  # images that are nearly the same as those before them

LIKE = [StoredTerm(id=UUID(int=3))]
MIX = [
    StoredTerm(id=UUID(int=3)),
    StoredTerm(id=UUID(int=4), weight=0.5),
    StoredTerm(id=UUID(int=5), weight=-0.7),
]
RED = Filter(
    must=(MatchAny("metadata.colour", ("red", "blue")),),
    must_not=(NumberRange(field="metadata.number", gte=100, lt=200),),
    should=(Prefix("uri", "picture 1"), Prefix("uri", "picture 2")),
)
QUERIES = {
    "like": Query(terms=LIKE, limit=10),
    "mix": Query(terms=MIX, limit=50),
    "filter": Query(terms=MIX, limit=100, filter=RED),
    "threshold": Query(terms=LIKE, limit=1000, score_threshold=0.2),
    "auto-cut": Query(terms=LIKE, limit=1000, auto_cut=True),
    "collapse": Query(terms=MIX, limit=100, collapse_similarity=0.97),
    "diversity": Query(terms=LIKE, limit=30, diversity=0.4),
    "all of it": Query(
        terms=MIX,
        limit=30,
        filter=RED,
        score_threshold=-0.5,
        collapse_similarity=0.97,
        diversity=0.2,
        exact=True,
    ),
}


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


# Opened outside of the tests, as qdrant_client's local mode blocks the event loop when it is.
@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ImageIndex]:
    async with an_open_index(request.param, tmp_path_factory.mktemp("index")) as index:
        yield index


async def test_answers_do_not_depend_on_the_index(
    index: ImageIndex, executor: ThreadPoolExecutor
) -> None:
    images = [
        an_image(n, metadata={"colour": ("red", "green", "blue")[n % 3], "number": n})
        for n in range(IMAGES)
    ]
    vectors = embeddings(IMAGES)
    noise = 0.02 * embeddings(COPIES, seed=1)
    vectors[-COPIES:] = vectors[:COPIES] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    reference = FakeIndex(DIM)
    for it in (reference, index):
        await it.upsert(images, vectors)

    def searcher(index: ImageIndex) -> ImageSearcher:
        return ImageSearcher(
            texts=None,  # type: ignore[arg-type] - only stored images are asked for
            images=None,  # type: ignore[arg-type]
            index=index,
            executor=executor,
            choosers=asyncio.Semaphore(1),
        )

    for name, query in QUERIES.items():
        there, here = searcher(index), searcher(reference)
        pages = 0
        while True:
            (found,) = await there.search([query], Stages())
            (expected,) = await here.search([query], Stages())
            assert [hit.image for hit in found.hits] == [it.image for it in expected.hits], name
            assert [hit.near_duplicate_count for hit in found.hits] == [
                it.near_duplicate_count for it in expected.hits
            ], name
            assert [hit.score for hit in found.hits] == pytest.approx(
                [it.score for it in expected.hits], abs=1e-6
            ), name
            assert found.cut_off == pytest.approx(expected.cut_off, abs=1e-6), name
            pages += 1
            if expected.next is None:
                break
            query = replace(query, after=expected.next)
        assert found.next is None, name
        assert expected.hits or pages > 1, name
