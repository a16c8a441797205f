"""The terms of queries, texts and images, and their embeddings: those of all queries together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from clipsearch_server.embedding import ImageEmbedder
from clipsearch_server.errors import ImageNotFound, InvalidRequest
from clipsearch_server.ports import Embedding, ImageIndex
from clipsearch_server.recent import Recent
from clipsearch_server.stages import Stages
from clipsearch_server.text_embedding import EmbeddedText, PromptedText, TextEmbedder

T = TypeVar("T")

_REMEMBERED_IMAGES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTerm:
    """A text that hits are to be like; unlike, if the weight is negative."""

    text: PromptedText
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTerm:
    """A stored image, which is itself no hit."""

    id: UUID
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTerm:
    """An image from elsewhere: either ``url`` or ``content`` is set."""

    url: str = ""
    content: bytes = b""
    fetch_headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # for the url's host
    path: str  # of the field that gives it, which is told if something is wrong with the image
    weight: float = 1.0


Term: TypeAlias = TextTerm | StoredTerm | ImageTerm


@dataclass(frozen=True, slots=True)
class EmbeddedTerm:
    """A term's embedding; of a text, how it was read."""

    embedding: Embedding
    text: EmbeddedText | None = None


class TermEmbedder:
    """Embeds terms side by side: all texts in one call, and images as they are there, which the
    encoder makes batches of. Remembers images by their content, as `TextEmbedder` does texts."""

    def __init__(self, *, texts: TextEmbedder, images: ImageEmbedder, index: ImageIndex) -> None:
        self._texts = texts
        self._images = images
        self._index = index
        self._recent: Recent[Embedding] = Recent(_REMEMBERED_IMAGES, name="image")

    async def embed(self, terms: Sequence[Term], stages: Stages) -> list[EmbeddedTerm]:
        """Embeds n >= 1 terms. If one fails, that is the error, and the others are let go.

        Raises ImageNotFound, and what `TextEmbedder` and `ImageEmbedder` do.
        """
        places = range(len(terms))
        texts = {n: it for n in places if isinstance(it := terms[n], TextTerm)}
        stored = {n: it for n in places if isinstance(it := terms[n], StoredTerm)}
        images = {n: it for n in places if isinstance(it := terms[n], ImageTerm)}
        embedded: dict[int, EmbeddedTerm] = {}
        for some in await _all(
            [
                *([self._embed_texts(texts, stages)] if texts else ()),
                *([self._look_up(stored, stages)] if stored else ()),
                *([self._embed_images(images, stages)] if images else ()),
            ]
        ):
            embedded |= some
        return [embedded[place] for place in places]

    async def _embed_texts(
        self, terms: Mapping[int, TextTerm], stages: Stages
    ) -> dict[int, EmbeddedTerm]:
        texts = await self._texts.embed([term.text for term in terms.values()], stages)
        return {
            place: EmbeddedTerm(text.embedding, text)
            for place, text in zip(terms, texts, strict=True)
        }

    async def _look_up(
        self, terms: Mapping[int, StoredTerm], stages: Stages
    ) -> dict[int, EmbeddedTerm]:
        with stages.stage("look_up"):
            found = await self._index.get_embeddings([term.id for term in terms.values()])
        for term in terms.values():
            if term.id not in found:
                raise ImageNotFound(term.id)
        return {place: EmbeddedTerm(found[term.id]) for place, term in terms.items()}

    async def _embed_images(
        self, terms: Mapping[int, ImageTerm], stages: Stages
    ) -> dict[int, EmbeddedTerm]:
        fetched = {place: term for place, term in terms.items() if term.url}
        given = {place: term for place, term in terms.items() if not term.url}
        with stages.stage("embed_image"):
            # Each holds its own memory while it is fetched and embedded. That of the contents is
            # taken after, all at once: who holds memory and waits for more, may wait for one who
            # does the same.
            embeddings: dict[int, Embedding] = {}
            if fetched:
                found = await _all(map(self._embed_fetched, fetched.values()))
                embeddings |= zip(fetched, found, strict=True)
            if given:
                async with self._images.room_for([term.content for term in given.values()]):
                    found = await _all(map(self._embed_given, given.values()))
                embeddings |= zip(given, found, strict=True)
        return {place: EmbeddedTerm(embedding) for place, embedding in embeddings.items()}

    async def _embed_fetched(self, term: ImageTerm) -> Embedding:
        try:
            async with self._images.fetched(term.url, term.fetch_headers) as content:
                return await self._embed_content(content)
        except InvalidRequest as error:
            error.field = term.path
            raise

    async def _embed_given(self, term: ImageTerm) -> Embedding:
        try:
            self._images.check_size(term.content)
            return await self._embed_content(term.content)
        except InvalidRequest as error:
            error.field = term.path
            raise

    async def _embed_content(self, content: bytes) -> Embedding:
        key = (await self._images.sha256(content)).encode()
        known = self._recent.get(key)
        if known is not None:
            return known
        return self._recent.keep(key, (await self._images.embed(content)).embedding)


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Awaits n >= 1 calls side by side. If one fails, the others are cancelled, and its error is
    raised."""
    first, *others = calls
    if not others:  # nearly always: without a task, which costs a turn of the loop
        return [await first]
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += map(group.create_task, (first, *others))
    except ExceptionGroup as failed:
        # They hold the error, whose traceback holds this frame: no cycle, or all lives on.
        tasks.clear()
        del group
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
