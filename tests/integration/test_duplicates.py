"""One content many times, at once and again, through real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from clipsearch import AddedImage, AddItem, AddOutcome, AsyncSearchClient, InvalidRequestError
from clipsearch_server.testing import ServerProcess
from samples import png

RED = png("red")


async def add_one_many_times(client: AsyncSearchClient) -> list[AddedImage]:
    """A hundred adds of one content at once: by calls and by a stream, with ids and without."""

    async def by_stream() -> list[AddedImage]:
        items = [
            AddItem(item_id=str(n), content=RED, id=str(UUID(int=1000 + n)) if n % 2 else "")
            for n in range(50)
        ]
        results = [result async for result in client.add_images(items)]
        return [result.added for result in results if result.added is not None]

    calls = (client.add_image(content=RED, id=str(UUID(int=n)) if n % 2 else "") for n in range(50))
    streamed, *called = await asyncio.gather(by_stream(), *calls)
    return [*streamed, *called]


async def test_a_hundred_at_once_store_one_point(tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path)) as server:
        async with AsyncSearchClient(server.address) as client:
            added = await add_one_many_times(client)
            assert len(added) == 100
            assert len({one.image.id for one in added}) == 1
            assert [one.outcome for one in added].count(AddOutcome.ADDED) == 1
            refused = [one for one in added if one.outcome is AddOutcome.DUPLICATE]
            assert {one.duplicate_of for one in refused} == {added[0].image.id}
            assert len([image async for image in client.list_images()]) == 1


async def test_linked_duplicates_are_stored_once_each_and_stay_so(tmp_path: Path) -> None:
    options = ("--data-dir", str(tmp_path), "--duplicates", "link")
    with ServerProcess(*options) as server:
        async with AsyncSearchClient(server.address) as client:
            added = await add_one_many_times(client)
            (original,) = (one.image for one in added if one.outcome is AddOutcome.ADDED)
            linked = {one.image.id for one in added if one.duplicate_of == original.id}
            stored = {image.id: image async for image in client.list_images()}
            assert stored.keys() == {original.id, *linked}
            assert len(stored) == 51  # fifty by their ids, and one by its hash
    with ServerProcess(*options) as server:
        async with AsyncSearchClient(server.address) as client:
            assert {image.id: image async for image in client.list_images()} == stored
            assert {stored[image_id].duplicate_of for image_id in linked} == {original.id}
            hits = (await client.query_text("red", limit=100)).hits
            assert len({round(hit.score, 5) for hit in hits}) == 1


async def test_a_request_is_worked_on_once(tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path)) as server:
        async with AsyncSearchClient(server.address) as client:
            name = str(uuid4())
            calls = (client.add_image(content=RED, request_id=name) for _ in range(100))
            first, *others = await asyncio.gather(*calls)
            assert first.outcome is AddOutcome.ADDED
            assert others == [first] * 99
            with pytest.raises(InvalidRequestError) as caught:
                await client.add_image(content=png("blue"), request_id=name)
            assert caught.value.reason == "REQUEST_ID_REUSED"
            assert len([image async for image in client.list_images()]) == 1
