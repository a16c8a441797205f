"""Finds images: from the terms of queries to the hits on a page of each.

The terms are embedded and mixed into one direction, and the index ranks the images nearest to it.
What is nearly the same is left out, and what is left put into another order, if asked for; then the
page is cut, and its images are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np

from clipsearch_server.auto_cut import AutoCut
from clipsearch_server.embedding import ImageEmbedder
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.filters import Filter
from clipsearch_server.mixing import mix
from clipsearch_server.paging import MAX_RANK, Cursor, Page, WindowedPage, cut_page
from clipsearch_server.ports import (
    Embedding,
    Embeddings,
    ImageIndex,
    NearestQuery,
    ScoredId,
    StoredImage,
)
from clipsearch_server.ranking import collapse, diversify
from clipsearch_server.stages import Stages
from clipsearch_server.terms import EmbeddedTerm, StoredTerm, Term, TermEmbedder
from clipsearch_server.text_embedding import EmbeddedText, TextEmbedder

# What is collapsed or diversified: always as many, so that a hit does not depend on its page.
_CANDIDATES = 1024
MAX_CHOSEN_RANK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for, and which page of it."""

    terms: Sequence[Term]  # one at least
    limit: int
    after: Cursor | None = None
    score_threshold: float | None = None
    filter: Filter | None = None
    auto_cut: bool = False
    collapse_similarity: float | None = None  # None: nothing is collapsed
    diversity: float = 0.0
    exact: bool = False

    @property
    def max_rank(self) -> int:
        """No page of it starts at this rank or above."""
        return MAX_CHOSEN_RANK if self.is_chosen else MAX_RANK

    @property
    def is_chosen(self) -> bool:
        """Whether hits are chosen with an eye to each other."""
        return self.collapse_similarity is not None or self.diversity > 0


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image found, with the cosine similarity of its embedding and the query's, -1 to 1, and the
    number of images that were left out because they are nearly the same."""

    image: StoredImage
    score: float
    near_duplicate_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of hits, and how the query was read."""

    hits: Sequence[ScoredImage]
    next: Cursor | None  # None: there are no more
    texts: Sequence[EmbeddedText | None]  # of each term; None if it is no text
    cut_off: float | None  # None: not asked for


@dataclass(frozen=True, slots=True, eq=False)
class _Nearest:
    """What the index is asked, but for how many, and the score of the cut-off in it."""

    query: NearestQuery
    cut_off: float | None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A page, and how many near duplicates of its hits were left out."""

    page: Page
    near_duplicates: dict[UUID, int]


class ImageSearcher:
    """Searches one collection, for several queries at a time.

    ``executor`` runs what would stop the event loop: comparing hits with each other. Those who want
    that wait for ``choosers``, before they hold the embeddings of a thousand images, and leave the
    executor to others. What a port raises is passed on.
    """

    def __init__(
        self,
        *,
        texts: TextEmbedder,
        images: ImageEmbedder,
        index: ImageIndex,
        executor: Executor,
        choosers: asyncio.Semaphore,
    ) -> None:
        self._terms = TermEmbedder(texts=texts, images=images, index=index)
        self._index = index
        self._auto_cut = AutoCut(index)
        self._executor = executor
        self._choosers = choosers

    async def search(self, queries: Sequence[Query], stages: Stages) -> list[Found]:
        """Answers n >= 1 queries, which share each step's calls. If one fails, all do.

        Raises InvalidRequest (field ``terms``) if the terms of one cancel each other out, and what
        `TermEmbedder` does.
        """
        terms = await self._embed(queries, stages)
        with stages.stage("search"):
            nearest = [
                await self._nearest(query, embedded)
                for query, embedded in zip(queries, terms, strict=True)
            ]
            ranked = await self._rank(queries, nearest)
        chosen = [
            await self._choose(query, ranking, stages)
            for query, ranking in zip(queries, ranked, strict=True)
        ]
        with stages.stage("search"):
            images = await self._read(chosen)
        return [
            Found(
                # What was deleted meanwhile is left out.
                hits=[
                    ScoredImage(images[hit.id], hit.score, it.near_duplicates.get(hit.id, 0))
                    for hit in it.page.hits
                    if hit.id in images
                ],
                next=it.page.next,
                texts=[term.text for term in embedded],
                cut_off=it_nearest.cut_off,
            )
            for it, embedded, it_nearest in zip(chosen, terms, nearest, strict=True)
        ]

    async def _embed(self, queries: Sequence[Query], stages: Stages) -> list[list[EmbeddedTerm]]:
        terms = [term for query in queries for term in query.terms]
        embedded = iter(await self._terms.embed(terms, stages))
        return [[next(embedded) for _ in query.terms] for query in queries]

    async def _nearest(self, query: Query, terms: Sequence[EmbeddedTerm]) -> _Nearest:
        embedding = mix([term.embedding for term in terms], [term.weight for term in query.terms])
        if embedding is None:
            raise InvalidRequest(
                "terms", "cancel each other out, so nothing is more like them than anything else"
            )
        threshold, cut_off = query.score_threshold, None
        if query.auto_cut:
            cut_off = await self._auto_cut.score(embedding)
            threshold = cut_off if threshold is None else max(threshold, cut_off)
        nearest = NearestQuery(
            embedding=embedding,
            limit=0,
            score_threshold=threshold,
            filter=query.filter,
            exclude=tuple(term.id for term in query.terms if isinstance(term, StoredTerm)),
            exact=query.exact,
        )
        return _Nearest(nearest, cut_off)

    async def _rank(
        self, queries: Sequence[Query], nearest: Sequence[_Nearest]
    ) -> list[WindowedPage]:
        """Searches as far as the pages reach: nearly always in one call, whatever their number."""
        pages = [
            WindowedPage(limit=_CANDIDATES, after=None, windows=(_CANDIDATES,))
            if query.is_chosen
            else WindowedPage(limit=query.limit, after=query.after)
            for query in queries
        ]
        while missing := [
            (page, replace(it.query, limit=window, first=page.first))
            for page, it in zip(pages, nearest, strict=True)
            for window in page.missing()
        ]:
            found = await self._index.search([query for _, query in missing])
            for (page, query), hits in zip(missing, found, strict=True):
                page.add(query.limit, hits)
        return pages

    async def _choose(self, query: Query, ranked: WindowedPage, stages: Stages) -> _Chosen:
        if not query.is_chosen:
            return _Chosen(ranked.cut(), {})
        with stages.stage("choose"):
            candidates = ranked.cut().hits
            async with self._choosers:
                embeddings = await self._index.get_embeddings([hit.id for hit in candidates])
                return await asyncio.get_running_loop().run_in_executor(
                    self._executor, _chosen, query, candidates, embeddings
                )

    async def _read(self, chosen: Sequence[_Chosen]) -> dict[UUID, StoredImage]:
        hits = [hit for it in chosen for hit in it.page.hits]
        images = {hit.id: hit.image for hit in hits if hit.image is not None}
        if missing := list(dict.fromkeys(hit.id for hit in hits if hit.id not in images)):
            images |= {image.id: image for image in await self._index.get(missing)}
        return images


def _chosen(
    query: Query, candidates: Sequence[ScoredId], embeddings: Mapping[UUID, Embedding]
) -> _Chosen:
    """Collapses, then diversifies what is left, then cuts the page."""
    hits = [hit for hit in candidates if hit.id in embeddings]  # others were deleted meanwhile
    near_duplicates: dict[UUID, int] = {}
    if query.collapse_similarity is not None and hits:
        kept = collapse(_rows(hits, embeddings), query.collapse_similarity)
        hits = [hits[rank] for rank in kept]
        near_duplicates = dict(zip((hit.id for hit in hits), kept.values(), strict=True))
    if query.diversity > 0 and hits:
        # Where the hit is that ended the page before, only the whole order tells.
        count = query.limit + 1 if query.after is None else len(hits)
        scores = [hit.score for hit in hits]
        order = diversify(scores, _rows(hits, embeddings), query.diversity, count)
        hits = [hits[rank] for rank in order]
    page = cut_page(
        [hits],
        limit=query.limit,
        after=query.after,
        max_rank=query.max_rank,
        is_by_score=query.diversity == 0,
    )
    return _Chosen(page, near_duplicates)


def _rows(hits: Sequence[ScoredId], embeddings: Mapping[UUID, Embedding]) -> Embeddings:
    return np.stack([embeddings[hit.id] for hit in hits])
