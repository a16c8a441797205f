"""What the embedded index says when it cannot start on a folder, and that it leaves it alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio

from clipsearch_server.errors import StartupError
from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.ports import CollectionSpec, StoredImage
from edge_indexes import an_edge_index

DIM = 16
POINTS = 50
SPEC = CollectionSpec(model_id="model", fingerprint="a" * 64, embedding_dim=DIM)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def an_index(data_dir: Path) -> AbstractAsyncContextManager[EdgeIndex]:
    return an_edge_index(data_dir, SPEC)


def an_image(number: int) -> StoredImage:
    return StoredImage(
        id=UUID(int=number),
        url="",
        uri="",
        metadata={},
        sha256=f"{number:064x}",
        media_type="image/png",
        width_px=1,
        height_px=1,
        size_bytes=1,
        create_time=NOW,
        update_time=NOW,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("filled")
    async with an_index(data_dir) as index:
        vectors = np.eye(DIM, dtype=np.float32)[np.arange(POINTS) % DIM]
        await index.upsert([an_image(number) for number in range(POINTS)], vectors)
    return data_dir


@pytest.fixture
def data_dir(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "data"))


async def why_not(index: AbstractAsyncContextManager[EdgeIndex]) -> StartupError:
    with pytest.raises(StartupError) as caught:
        async with index:
            pass
    assert "\n" not in caught.value.message
    return caught.value


async def test_row_42_a_second_server_is_told_who_has_the_folder(data_dir: Path) -> None:
    async with an_index(data_dir):
        error = await why_not(an_index(data_dir))
        assert str(data_dir) in error.message
        assert f"process {os.getpid()}" in error.message
    async with an_index(data_dir) as index:
        assert await index.count() == POINTS


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def spoil(path: Path) -> None:
    path.write_bytes(b"\x5a" * 100)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("collection.json", remove),
        ("collection.json", spoil),
        ("CURRENT", remove),
        ("CURRENT", spoil),
        ("shard-000001", remove),
        ("shard-000001/floor", spoil),
        ("shard-000001/edge/edge_config.json", remove),
        ("shard-000001/edge/edge_config.json", spoil),
        ("shard-000001/edge/segments", remove),
        ("shard-000001/edge/wal", remove),
    ],
)
async def test_row_42_a_damaged_file_is_named_and_left_as_it_is(
    data_dir: Path, pattern: str, damage: Callable[[Path], None]
) -> None:
    file = data_dir / "collections" / "images-1" / pattern
    damage(file)
    before = contents(data_dir)
    error = await why_not(an_index(data_dir))
    assert file.name in error.message
    assert "put back a copy" in error.message
    assert contents(data_dir) == before


@pytest.mark.parametrize(
    "pattern",
    ["segments/*", "segments/*/mutable_id_tracker.mappings", "segments/*/version.info"],
)
async def test_row_42_a_shard_that_lost_points_is_not_served(data_dir: Path, pattern: str) -> None:
    shard = data_dir / "collections" / "images-1" / "shard-000001"
    (file,) = (shard / "edge").glob(pattern)
    remove(file)
    await why_not(an_index(data_dir))
    error = await why_not(an_index(data_dir))  # opening it has not made it look whole
    assert str(shard) in error.message
    assert re.search(rf"\d+ of at least {POINTS} images", error.message)


async def test_what_a_crash_left_is_removed(data_dir: Path) -> None:
    collections = data_dir / "collections"
    (collections / "images-1" / "shard-000007").mkdir()
    (collections / "images-1" / "CURRENT.new").write_text("shard-0")
    async with an_index(data_dir) as index:
        assert await index.count() == POINTS
    assert not (collections / "images-1" / "shard-000007").exists()


async def test_a_collection_whose_making_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    staged = tmp_path / "collections" / ".images-1.new"
    (staged / "shard-000001" / "edge").mkdir(parents=True)
    async with an_index(tmp_path) as index:
        assert await index.count() == 0
    assert not staged.exists()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = await why_not(an_index(tmp_path / "file" / "data"))
    assert str(tmp_path / "file") in error.message


def test_the_server_never_loads_qdrant_edge() -> None:
    code = "import sys, clipsearch_server.indexes.edge; sys.exit('qdrant_edge' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but for the lock, which names its last holder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name != "LOCK"
    }
