"""For every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import PIL.Image
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# pytest-xdist tells its workers the width of the terminal, which rich takes for that of all output.
os.environ.pop("COLUMNS", None)  # noqa: TID251


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A call of ours that blocks the event loop fails the test."""
    with blockbuster_ctx("clipsearch_server") as blockbuster:
        yield blockbuster


@pytest.fixture(autouse=True)
def pillow_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding sets it for its process, which here is that of all tests."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)
