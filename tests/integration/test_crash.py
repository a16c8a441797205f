"""SIGKILL in the middle of a bulk add: what was acknowledged is there, and nothing is twice."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from time import perf_counter
from uuid import UUID

from clipsearch import AddItem, SearchClient, SearchError
from clipsearch_server.testing import ServerProcess

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
ROUNDS = 20
MAX_RESTART_S = 5.0


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    files = [path for path in sorted(PICTURES.iterdir()) if path.suffix in {".png", ".webp"}][:300]
    chance = random.Random(7)
    numbers = count()
    acknowledged: set[str] = set()
    sent: set[str] = set()

    def new_item() -> AddItem:
        number = next(numbers)
        image_id = str(UUID(int=number + 1))
        sent.add(image_id)
        return AddItem(
            item_id=image_id, id=image_id, content=files[number % len(files)].read_bytes()
        )

    for _ in range(ROUNDS):
        start = perf_counter()
        with ServerProcess("--data-dir", str(tmp_path)) as server:
            assert perf_counter() - start < MAX_RESTART_S
            with SearchClient(server.address) as client:
                check(client, acknowledged, sent)
                kill_after = chance.randint(1, 150)
                try:
                    for done, result in enumerate(
                        client.add_images(new_item() for _ in range(500)), start=1
                    ):
                        assert result.error is None
                        acknowledged.add(result.item_id)
                        if done == kill_after:
                            server.kill()
                except SearchError:
                    pass
    with (
        ServerProcess("--data-dir", str(tmp_path)) as server,
        SearchClient(server.address) as client,
    ):
        check(client, acknowledged, sent)
    assert len(acknowledged) >= ROUNDS


def check(client: SearchClient, acknowledged: set[str], sent: set[str]) -> None:
    stored = [image.id for image in client.list_images()]
    assert len(stored) == len(set(stored)), "an image is stored twice"
    assert acknowledged <= set(stored), "an acknowledged image is lost"
    assert set(stored) <= sent, "an image is stored that nobody sent"
    assert client.server_info().collections[0].image_count == len(stored)
