"""The same content under another id: refused, linked or allowed; and never twice by accident."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch_server.adding import AddedImage, AddOutcome, Duplicates, NewImage
from clipsearch_server.budget import Budget
from clipsearch_server.engine import SearchEngine
from clipsearch_server.ports import EmbeddedPage
from clipsearch_server.stored import StoredImages
from clipsearch_server.text import Tokenizer
from engines import an_engine
from fakes import FakeEncoder, FakeFetcher, FakeIndex, InProcessDecoder
from samples import png
from searches import find

URL = "https://example.com/red.png"
OWN = UUID(int=7)
ALL: tuple[Duplicates, ...] = ("refuse", "link", "allow")

refusing = pytest.mark.parametrize("duplicates", ["refuse"])
linking = pytest.mark.parametrize("duplicates", ["link"])
allowing = pytest.mark.parametrize("duplicates", ["allow"])


def new(
    content: bytes | None = None,
    *,
    url: str | None = None,
    id: UUID | None = None,
    uri: str = "",
) -> NewImage:
    return NewImage(url=url, content=content, id=id, uri=uri, metadata={})


@refusing
async def test_a_duplicate_is_refused_whether_its_id_is_given_or_derived(
    engine: SearchEngine, stored: StoredImages, fetcher: FakeFetcher, encoder: FakeEncoder
) -> None:
    first = await engine.add(new(png("red")))
    fetcher.bodies[URL] = png("red")
    for twin in (await engine.add(new(url=URL)), await engine.add(new(png("red"), id=OWN))):
        assert twin == AddedImage(first.image, AddOutcome.DUPLICATE, first.image.id)
    assert await stored.count() == 1
    assert encoder.images_embedded == 1


@linking
async def test_a_duplicate_is_linked_to_the_first_without_embedding_it(
    engine: SearchEngine, stored: StoredImages, fetcher: FakeFetcher, encoder: FakeEncoder
) -> None:
    first = await engine.add(new(png("red", (30, 20))))
    fetcher.bodies[URL] = png("red", (30, 20))
    for twin in (
        await engine.add(new(png("red", (30, 20)), id=OWN, uri="mine")),
        await engine.add(new(url=URL)),  # of a link, the original is named
    ):
        assert (twin.outcome, twin.duplicate_of) == (AddOutcome.DUPLICATE, first.image.id)
        assert twin.image.duplicate_of == first.image.id
        assert await stored.get(twin.image.id) == twin.image
        assert (twin.image.width_px, twin.image.height_px) == (30, 20)
        assert twin.image.media_type == "image/png"
    assert (await stored.get(OWN)).uri == "mine"
    assert encoder.images_embedded == 1
    found = await find(engine, "red", limit=5)
    assert len({hit.score for hit in found.hits}) == 1
    assert len(found.hits) == 3


@linking
async def test_a_link_whose_original_is_gone_is_the_next_original(
    engine: SearchEngine, stored: StoredImages
) -> None:
    first = await engine.add(new(png("red")))
    await engine.add(new(png("red"), id=OWN))
    await stored.delete(first.image.id)
    third = await engine.add(new(png("red"), id=UUID(int=8)))
    assert third.duplicate_of == OWN
    # and an original that has another content by now is none
    await engine.add(new(png("blue"), id=OWN))
    fourth = await engine.add(new(png("red"), id=UUID(int=9)))
    assert fourth.duplicate_of == UUID(int=8)


@linking
async def test_a_link_keeps_its_original_while_its_content_stays(engine: SearchEngine) -> None:
    first = await engine.add(new(png("red")))
    await engine.add(new(png("red"), id=OWN))
    renamed = await engine.add(new(png("red"), id=OWN, uri="other"))
    assert (renamed.outcome, renamed.duplicate_of) == (AddOutcome.REPLACED, None)
    assert renamed.image.duplicate_of == first.image.id
    again = await engine.add(new(png("red"), id=OWN, uri="other"))
    assert again.outcome is AddOutcome.UNCHANGED
    changed = await engine.add(new(png("blue"), id=OWN))
    assert (changed.outcome, changed.image.duplicate_of) == (AddOutcome.REPLACED, None)


@allowing
async def test_what_is_allowed_is_an_image_like_any(
    engine: SearchEngine, stored: StoredImages, encoder: FakeEncoder
) -> None:
    await engine.add(new(png("red")))
    twin = await engine.add(new(png("red"), id=OWN))
    assert (twin.outcome, twin.duplicate_of) == (AddOutcome.ADDED, None)
    assert twin.image.duplicate_of is None
    assert await stored.count() == 2
    assert encoder.images_embedded == 1


class ForgetfulIndex(FakeIndex):
    """Loses an image between the moment it is found and the moment its embedding is asked for."""

    async def list_embedded(self, *, limit: int, start_id: UUID | None = None) -> EmbeddedPage:
        assert start_id is not None
        await self.delete([start_id])
        return await super().list_embedded(limit=limit, start_id=start_id)


@linking
@pytest.mark.parametrize("index", [ForgetfulIndex()])
async def test_a_twin_that_vanishes_meanwhile_is_none(
    engine: SearchEngine, encoder: FakeEncoder, index: FakeIndex
) -> None:
    await engine.add(new(png("red"), id=UUID(int=1)))
    await engine.add(new(png("blue"), id=UUID(int=9)))
    added = await engine.add(new(png("red"), id=OWN))
    assert (added.outcome, added.duplicate_of) == (AddOutcome.ADDED, None)
    assert added.image.duplicate_of is None
    assert encoder.images_embedded == 3
    found = await find(engine, "red", limit=1)
    assert found.hits[0].image.id == OWN


@pytest.mark.parametrize("duplicates", ALL)
async def test_known_content_at_an_old_url_replaces_it(
    engine: SearchEngine, fetcher: FakeFetcher, encoder: FakeEncoder, duplicates: Duplicates
) -> None:
    fetcher.bodies[URL] = png("red")
    await engine.add(new(url=URL))
    other = await engine.add(new(png("blue")))
    fetcher.bodies[URL] = png("blue")
    again = await engine.add(new(url=URL))
    assert (again.outcome, again.duplicate_of) == (AddOutcome.REPLACED, None)
    assert again.image.duplicate_of == (other.image.id if duplicates == "link" else None)
    assert encoder.images_embedded == 2
    assert not [hit for hit in (await find(engine, "red", limit=2)).hits if hit.score > 0.9]


@pytest.mark.parametrize("duplicates", ALL)
async def test_a_hundred_at_once_of_one_content(
    engine: SearchEngine,
    stored: StoredImages,
    fetcher: FakeFetcher,
    encoder: FakeEncoder,
    duplicates: Duplicates,
) -> None:
    urls = [f"https://example.com/{n}.png" for n in range(40)]
    fetcher.bodies = dict.fromkeys(urls, png("red"))
    images = [new(url=url) for url in urls]
    images += [new(png("red"), id=UUID(int=n)) for n in range(40)]
    images += [new(png("red")) for _ in range(20)]
    added = await asyncio.gather(*(engine.add(image) for image in images))
    assert encoder.images_embedded == 1
    outcomes = [one.outcome for one in added]
    if duplicates == "refuse":
        assert await stored.count() == 1
        assert len({one.image.id for one in added}) == 1
        assert outcomes.count(AddOutcome.ADDED) == 1
    else:
        assert await stored.count() == 81  # by 40 URLs, 40 ids, and its own hash
        assert outcomes.count(AddOutcome.UNCHANGED) == 19
    if duplicates == "link":
        assert len({one.duplicate_of for one in added if one.duplicate_of}) == 1


# Any order, and any interleaving -----------------------------------------------------------------

COLOURS = ("red", "green", "blue")
URLS = tuple(f"https://example.com/{n}" for n in range(2))
IDS = (UUID(int=1), UUID(int=2**127))

# An image to add: its content, its URL or None, its id or None, its uri.
adds = st.lists(
    st.tuples(
        st.sampled_from(COLOURS),
        st.sampled_from((None, *URLS)),
        st.sampled_from((None, *IDS)),
        st.sampled_from(("", "a")),
    ),
    max_size=12,
)


class InThisThread(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class PausingIndex(FakeIndex):
    """Gives way to others as often as it is told, before each answer."""

    def __init__(self, pauses: Sequence[int]) -> None:
        super().__init__()
        self._pauses = list(pauses)

    async def health(self) -> None:
        for _ in range(self._pauses.pop() if self._pauses else 0):
            await asyncio.sleep(0)


@contextmanager
def engine_and_fetcher(
    duplicates: Duplicates, index: FakeIndex, tokenizer: Tokenizer
) -> Iterator[tuple[SearchEngine, FakeFetcher]]:
    """An engine without threads, in which the same calls always interleave in the same way."""
    memory = Budget(1000)
    fetcher = FakeFetcher(memory)
    with InThisThread() as executor:
        encoder = FakeEncoder()
        engine = an_engine(
            encoder=encoder,
            tokenizer=tokenizer,
            decoder=InProcessDecoder(size_px=4, max_pixels=1000),
            fetcher=fetcher,
            index=index,
            executor=executor,
            memory=memory,
            duplicates=duplicates,
            max_image_bytes=1000,
            max_decoded=4,
        )
        yield engine, fetcher


@pytest.mark.parametrize("duplicates", ALL)
@settings(deadline=None, derandomize=True)
@given(adds=adds)
def test_outcomes_are_those_of_a_simple_model(
    tokenizer: Tokenizer, duplicates: Duplicates, adds: list[Any]
) -> None:
    stored: dict[UUID, tuple[str, str, str]] = {}  # id -> content, URL, uri

    async def check() -> None:
        for colour, url, wished, uri in adds:
            content = png(colour)
            if url is not None:
                fetcher.bodies[url] = content
            sha256 = hashlib.sha256(content).hexdigest()
            image_id = wished or uuid5(NAMESPACE_URL, url or f"sha256:{sha256}")
            value = (colour, url or "", uri or url or "")
            twins = {id for id, (other, *_) in stored.items() if other == colour}
            if image_id in stored:
                same = stored[image_id] == value
                expected = AddOutcome.UNCHANGED if same else AddOutcome.REPLACED
            elif twins and duplicates != "allow":
                expected = AddOutcome.DUPLICATE
            else:
                expected = AddOutcome.ADDED
            added = await engine.add(new(None if url else content, url=url, id=wished, uri=uri))
            assert added.outcome is expected
            assert added.image.sha256 == sha256
            if expected is AddOutcome.DUPLICATE:
                assert added.duplicate_of in twins
            if expected is AddOutcome.DUPLICATE and duplicates == "refuse":
                assert added.image.id in twins
            else:
                assert added.image.id == image_id
                stored[image_id] = value
        images = (await index.list(limit=100)).images
        assert {image.id for image in images} == stored.keys()
        for image in images:
            colour, url, uri = stored[image.id]
            assert (image.url, image.uri) == (url, uri)
            hits = (await find(engine, colour, limit=100)).hits
            assert next(hit.score for hit in hits if hit.image.id == image.id) > 0.9

    index = FakeIndex()
    with engine_and_fetcher(duplicates, index, tokenizer) as (engine, fetcher):
        asyncio.run(check())


@settings(deadline=None, derandomize=True)
@given(
    adds=st.lists(
        st.tuples(st.sampled_from(COLOURS), st.sampled_from(["content", "url", "id"]),
                  st.integers(0, 2)),
        max_size=20,
    ),
    pauses=st.lists(st.integers(0, 5), max_size=60),
)  # fmt: skip
def test_however_adds_interleave_one_point_a_content_is_left(
    tokenizer: Tokenizer, adds: list[tuple[str, str, int]], pauses: list[int]
) -> None:
    """Where no id and no URL ever has two contents; the last one there would replace the first."""

    def image(colour: str, way: str, number: int) -> NewImage:
        if way == "url":
            url = f"https://example.com/{colour}/{number}"
            fetcher.bodies[url] = png(colour)
            return new(url=url)
        wished = uuid5(NAMESPACE_URL, f"{colour} {number}") if way == "id" else None
        return new(png(colour), id=wished)

    async def check() -> None:
        added = await asyncio.gather(*(engine.add(image(*each)) for each in adds))
        images = (await index.list(limit=100)).images
        contents = {hashlib.sha256(png(colour)).hexdigest() for colour, *_ in adds}
        assert sorted(image.sha256 for image in images) == sorted(contents)
        firsts = [one for one in added if one.outcome is AddOutcome.ADDED]
        assert {one.image.id for one in firsts} == {image.id for image in images}
        assert len(firsts) == len(images)
        for (colour, *_), one in zip(adds, added, strict=True):
            assert one.image.sha256 == hashlib.sha256(png(colour)).hexdigest()

    index = PausingIndex(pauses)
    with engine_and_fetcher("refuse", index, tokenizer) as (engine, fetcher):
        asyncio.run(check())
