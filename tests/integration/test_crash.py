"""SIGKILL in the middle of a bulk add: what was acknowledged is there, and nothing is twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from clipsearch import AddItem, AddOutcome, SearchClient, SearchError
from clipsearch_server.testing import ServerProcess
from samples import png
from tiny_model import write_tiny_model

ROUNDS = 20
MAX_RESTART_S = 5.0


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance = random.Random(7)
    model = write_tiny_model(tmp_path / "model")
    options = ("--data-dir", str(tmp_path / "data"), "--model-dir", str(model))
    acknowledged: dict[int, str] = {}  # number -> the id it is stored under
    sent: set[int] = set()

    def unacknowledged() -> Iterator[AddItem]:
        """What had no answer first: of it, the server may have stored some."""
        open_ = sorted(sent - acknowledged.keys())
        for number in [*open_, *range(len(sent), len(sent) + 500)]:
            sent.add(number)
            yield AddItem(item_id=str(number), content=png(f"#{number:06x}"), uri=str(number))

    for _ in range(ROUNDS):
        start = perf_counter()
        with ServerProcess(*options) as server:
            assert perf_counter() - start < MAX_RESTART_S
            with SearchClient(server.address) as client:
                check(client, acknowledged, sent)
                kill_after = chance.randint(1, 150)
                try:
                    for done, result in enumerate(client.add_images(unacknowledged()), start=1):
                        assert result.added is not None, result.error
                        assert result.added.outcome in {AddOutcome.ADDED, AddOutcome.UNCHANGED}
                        acknowledged[int(result.item_id)] = result.added.image.id
                        if done == kill_after:
                            server.kill()
                except SearchError:
                    pass
    with (
        ServerProcess(*options) as server,
        SearchClient(server.address) as client,
    ):
        check(client, acknowledged, sent)
    assert len(acknowledged) >= ROUNDS


def check(client: SearchClient, acknowledged: dict[int, str], sent: set[int]) -> None:
    stored = {image.id: image for image in client.list_images()}
    assert set(acknowledged.values()) <= stored.keys(), "an acknowledged image is lost"
    assert {int(image.uri) for image in stored.values()} <= sent, "one is stored that nobody sent"
    contents = {image.sha256 for image in stored.values()}
    assert len(contents) == len(stored), "an image is stored twice"
    assert client.server_info().collections[0].image_count == len(stored)
