"""One content many times, at once and again, through real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from clipsearch import (
    AddedImage,
    AddItem,
    AddOutcome,
    AsyncSearchClient,
    Image,
    InvalidRequestError,
    SearchClient,
)
from clipsearch_server.testing import ServerProcess
from samples import png

RED = png("red")


async def add_one_many_times(address: str) -> list[AddedImage]:
    """A hundred adds of one content at once: by calls and by a stream, with ids and without."""
    async with AsyncSearchClient(address) as client:

        async def by_stream() -> list[AddedImage]:
            items = [
                AddItem(item_id=str(n), content=RED, id=str(UUID(int=1000 + n)) if n % 2 else "")
                for n in range(50)
            ]
            results = [result async for result in client.add_images(items)]
            return [result.added for result in results if result.added is not None]

        calls = (
            client.add_image(content=RED, id=str(UUID(int=n)) if n % 2 else "") for n in range(50)
        )
        streamed, *called = await asyncio.gather(by_stream(), *calls)
        return [*streamed, *called]


def stored_at(server: ServerProcess) -> dict[str, Image]:
    with SearchClient(server.address) as client:
        return {image.id: image for image in client.list_images()}


def test_a_hundred_at_once_store_one_point(tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path)) as server:
        added = asyncio.run(add_one_many_times(server.address))
        assert len(added) == 100
        assert len({one.image.id for one in added}) == 1
        assert [one.outcome for one in added].count(AddOutcome.ADDED) == 1
        refused = [one for one in added if one.outcome is AddOutcome.DUPLICATE]
        assert {one.duplicate_of for one in refused} == {added[0].image.id}
        assert len(stored_at(server)) == 1


def test_linked_duplicates_are_stored_once_each_and_stay_so(tmp_path: Path) -> None:
    options = ("--data-dir", str(tmp_path), "--duplicates", "link")
    with ServerProcess(*options) as server:
        added = asyncio.run(add_one_many_times(server.address))
        (original,) = (one.image.id for one in added if one.outcome is AddOutcome.ADDED)
        linked = {one.image.id for one in added if one.duplicate_of == original}
        stored = stored_at(server)
        assert stored.keys() == {original, *linked}
        assert len(stored) == 51  # fifty by their ids, and one by its hash
    with ServerProcess(*options) as server, SearchClient(server.address) as client:
        assert stored_at(server) == stored
        assert {stored[image_id].duplicate_of for image_id in linked} == {original}
        hits = client.query_text("red", limit=100).hits
        assert len({round(hit.score, 5) for hit in hits}) == 1


def test_row_27_a_request_that_comes_a_hundred_times_at_once_is_one_point(tmp_path: Path) -> None:
    name = str(uuid4())

    async def add_at_once(address: str) -> list[AddedImage]:
        async with AsyncSearchClient(address) as client:
            calls = (client.add_image(content=RED, request_id=name) for _ in range(100))
            return await asyncio.gather(*calls)

    with ServerProcess("--data-dir", str(tmp_path)) as server:
        first, *others = asyncio.run(add_at_once(server.address))
        assert first.outcome is AddOutcome.ADDED
        assert others == [first] * 99
        with SearchClient(server.address) as client:
            with pytest.raises(InvalidRequestError) as caught:
                client.add_image(content=png("blue"), request_id=name)
            assert caught.value.reason == "REQUEST_ID_REUSED"
        assert len(stored_at(server)) == 1
