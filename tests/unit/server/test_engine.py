"""The engine: what adding, finding and deleting change, on fakes of its ports."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest

from clipsearch_server.adding import AddOutcome, NewImage
from clipsearch_server.budget import Budget
from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import (
    EncoderUnavailable,
    ImageNotFound,
    InvalidImage,
    SourceFailed,
)
from clipsearch_server.stored import StoredImages
from fakes import FakeEncoder, FakeFetcher, FakeIndex
from samples import png
from searches import find

URL = "https://example.com/red.png"


def new(
    content: bytes | None = None,
    *,
    url: str | None = None,
    id: UUID | None = None,
    uri: str = "",
    **metadata: str,
) -> NewImage:
    return NewImage(url=url, content=content, id=id, uri=uri, metadata=metadata)


async def test_a_text_finds_the_image_it_describes(engine: SearchEngine) -> None:
    for colour in ("red", "green", "blue"):
        await engine.add(new(png(colour), uri=colour))
    found = await find(engine, "green", limit=2)
    assert found.hits[0].image.uri == "green"
    assert found.hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert found.next is not None


async def test_what_is_stored_is_what_was_given(engine: SearchEngine, stored: StoredImages) -> None:
    added = await engine.add(new(png("red", (20, 10)), uri="mine", name="Red"))
    assert added.outcome is AddOutcome.ADDED
    image = await stored.get(added.image.id)
    assert image == added.image
    assert (image.width_px, image.height_px, image.media_type) == (20, 10, "image/png")
    assert (image.uri, image.url, image.metadata) == ("mine", "", {"name": "Red"})
    assert image.size_bytes == len(png("red", (20, 10)))


async def test_the_id_follows_from_the_url_or_the_content(
    engine: SearchEngine, fetcher: FakeFetcher
) -> None:
    fetcher.bodies[URL] = png("red")
    by_url = await engine.add(new(url=URL))
    assert by_url.image.id == uuid5(NAMESPACE_URL, URL)
    assert (by_url.image.url, by_url.image.uri) == (URL, URL)
    by_content = await engine.add(new(png("green")))
    expected = uuid5(NAMESPACE_URL, f"sha256:{by_content.image.sha256}")
    assert by_content.image.id == expected


async def test_adding_again_changes_nothing_and_embeds_nothing(
    engine: SearchEngine, stored: StoredImages, encoder: FakeEncoder
) -> None:
    first = await engine.add(new(png("red"), name="a"))
    embedded = encoder.images_embedded
    again = await engine.add(new(png("red"), name="a"))
    assert again.outcome is AddOutcome.UNCHANGED
    assert again.image == first.image
    assert encoder.images_embedded == embedded
    assert await stored.count() == 1


async def test_new_metadata_replaces_and_keeps_the_creation_time(
    engine: SearchEngine, stored: StoredImages, encoder: FakeEncoder
) -> None:
    first = await engine.add(new(png("red"), name="a"))
    again = await engine.add(new(png("red"), name="b"))
    assert again.outcome is AddOutcome.REPLACED
    assert again.image.metadata == {"name": "b"}
    assert again.image.create_time == first.image.create_time
    assert again.image.update_time > first.image.update_time
    assert await stored.count() == 1
    assert encoder.images_embedded == 1  # the content was embedded already
    found = await find(engine, "red", limit=1)
    assert found.hits[0].score == pytest.approx(1.0, abs=1e-3)


async def test_new_bytes_at_an_old_url_replace_it(
    engine: SearchEngine, fetcher: FakeFetcher
) -> None:
    fetcher.bodies[URL] = png("red")
    await engine.add(new(url=URL))
    fetcher.bodies[URL] = png("blue")
    again = await engine.add(new(url=URL))
    assert again.outcome is AddOutcome.REPLACED
    found = await find(engine, "blue", limit=1)
    assert found.hits[0].image.id == again.image.id
    assert found.hits[0].score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("content", [b"just text", png("red")[:50], b"x" * 200_000, b"GIF89a", b""])
async def test_what_is_no_image_is_refused_and_nothing_is_stored(
    engine: SearchEngine, stored: StoredImages, content: bytes
) -> None:
    with pytest.raises(InvalidImage):
        await engine.add(new(content))
    assert await stored.count() == 0


async def test_a_failure_on_the_way_stores_nothing(
    engine: SearchEngine, encoder: FakeEncoder, index: FakeIndex
) -> None:
    with pytest.raises(SourceFailed):
        await engine.add(new(url="https://example.com/missing.png"))
    encoder.fail_with = EncoderUnavailable("gone")
    with pytest.raises(EncoderUnavailable):
        await engine.add(new(png("red")))
    assert await index.count() == 0


async def test_a_deleted_image_is_gone(engine: SearchEngine, stored: StoredImages) -> None:
    added = await engine.add(new(png("red")))
    await stored.delete(added.image.id)
    for call in (stored.get, stored.delete):
        with pytest.raises(ImageNotFound):
            await call(added.image.id)
    assert not (await find(engine, "red", limit=1)).hits


async def test_many_at_once_are_all_stored(engine: SearchEngine, stored: StoredImages) -> None:
    contents = [png(f"#{n:02x}00{255 - n:02x}") for n in range(50)]
    added = await asyncio.gather(*(engine.add(new(content)) for content in contents))
    assert len({result.image.id for result in added}) == 50
    assert await stored.count() == 50


async def test_true_is_not_one(engine: SearchEngine) -> None:
    def with_flag(value: bool | float) -> NewImage:
        return NewImage(url=None, content=png("red"), id=None, uri="", metadata={"flag": value})

    await engine.add(with_flag(True))
    replaced = await engine.add(with_flag(1))
    assert replaced.outcome is AddOutcome.REPLACED
    assert replaced.image.metadata["flag"] is not True


async def test_a_bad_image_is_the_fault_of_what_named_it(
    engine: SearchEngine, fetcher: FakeFetcher
) -> None:
    fetcher.bodies[URL] = b"<html>"
    with pytest.raises(InvalidImage) as by_url:
        await engine.add(new(url=URL))
    assert by_url.value.field == "url"
    with pytest.raises(InvalidImage) as by_content:
        await engine.add(new(b"<html>"))
    assert by_content.value.field == "content"


async def test_no_more_images_are_decoded_than_the_encoder_will_take(
    engine: SearchEngine, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    contents = [png(f"#0000{n:02x}") for n in range(20)]
    adding = [asyncio.create_task(engine.add(new(content))) for content in contents]
    await encoder.until_waiting(8)
    encoder.gate.set()
    outcomes = [added.outcome for added in await asyncio.gather(*adding)]
    assert outcomes == [AddOutcome.ADDED] * 20
    assert encoder.most_waiting == 8


async def test_what_is_fetched_waits_for_memory(
    engine: SearchEngine,
    fetcher: FakeFetcher,
    encoder: FakeEncoder,
    executor: ThreadPoolExecutor,
    memory: Budget,
) -> None:
    urls = [f"https://example.com/{n}.png" for n in range(3)]
    # A decoder stops at the end of an image; what follows is ours to fill.
    fetcher.bodies = {url: png(f"#00{n}000") + bytes(90_000) for n, url in enumerate(urls)}
    encoder.gate.clear()
    adding = [asyncio.create_task(engine.add(new(url=url))) for url in urls]
    await encoder.until_waiting(2)
    for _ in range(20):  # more steps than the third would need
        await asyncio.get_running_loop().run_in_executor(executor, int)
    encoder.gate.set()
    await asyncio.gather(*adding)
    assert encoder.most_waiting == 2
    async with memory.take(200_000):
        pass  # all of it was given back
