"""For every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A call of ours that blocks the event loop fails the test."""
    with blockbuster_ctx("clipsearch_server") as blockbuster:
        yield blockbuster
