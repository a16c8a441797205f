"""What the service does with a model, without how: add, query and import images.

Each method reads top to bottom and takes each step by one call. Nothing here knows of gRPC, of ONNX
or of Qdrant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

from clipsearch_server.adding import AddedImage, ImageAdder, NewImage
from clipsearch_server.paging import window
from clipsearch_server.ports import (
    Embeddings,
    Encoder,
    ImageIndex,
    NearestQuery,
    StoredImage,
)
from clipsearch_server.text import Tokenizer

T = TypeVar("T")

# A shorter text is tokenised faster than a thread takes it over.
_INLINE_TEXT_CHARS = 256


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image found, with the cosine similarity of its embedding and the query's: -1 to 1."""

    image: StoredImage
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHits:
    """The hits of a text query, best first."""

    hits: Sequence[ScoredImage]
    has_more: bool
    token_count: int
    text_truncated: bool
    stages: Stages


@dataclass(slots=True)
class Stages:
    """Where a call's time went: stage -> seconds, in the order in which the stages ended."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[name] = perf_counter() - start


class SearchEngine:
    """One collection, and the model that fills and searches it.

    ``executor`` runs what would stop the event loop: tokenising long texts. What a port raises is
    passed on.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        index: ImageIndex,
        adder: ImageAdder,
        tokenizer: Tokenizer,
        executor: Executor,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._adder = adder
        self._tokenizer = tokenizer
        self._executor = executor

    async def add(self, new: NewImage) -> AddedImage:
        """Adds one image; see `ImageAdder.add`."""
        return await self._adder.add(new)

    async def query_text(
        self, text: str, *, limit: int, offset: int = 0, score_threshold: float | None = None
    ) -> TextHits:
        """Finds the images that a text describes: the hits at ranks offset to offset + limit."""
        stages = Stages()
        with stages.stage("tokenise"):
            if len(text) > _INLINE_TEXT_CHARS:
                tokenised = await self._in_thread(self._tokenizer.tokenize, text)
            else:
                tokenised = self._tokenizer.tokenize(text)
        with stages.stage("embed"):
            embeddings = await self._encoder.encode_text(tokenised.token_ids[None])
        with stages.stage("search"):
            query = NearestQuery(
                embedding=embeddings[0],
                limit=window(offset, limit + 1),
                score_threshold=score_threshold,
            )
            (ranking,) = await self._index.search([query])
            # One more than asked for tells whether there is a next page.
            page = ranking[offset : offset + limit + 1]
            images = {image.id: image for image in await self._index.get([it.id for it in page])}
        # What was deleted between the two calls is left out.
        hits = [ScoredImage(images[it.id], it.score) for it in page if it.id in images]
        return TextHits(
            hits=hits[:limit],
            has_more=len(page) > limit,
            token_count=len(tokenised.token_ids),
            text_truncated=tokenised.truncated,
            stages=stages,
        )

    async def import_images(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        """Stores images that this model embedded; see `ImageAdder.import_images`."""
        await self._adder.import_images(images, embeddings)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
