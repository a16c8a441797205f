"""`clipsearch dump` and `load` between real servers: everything arrives, and nothing else does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipsearch import AddItem, AsyncSearchClient, EmbeddedImage, ModelMismatchError, SearchClient
from clipsearch_server.testing import ServerProcess

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
IMAGES = 300
QUERIES = ("a black cat", "a red car", "the sun", "something to eat", "a house by night")
SCORE_TOLERANCE = 1e-6


def items() -> Iterator[AddItem]:
    files = sorted(path for path in PICTURES.iterdir() if path.suffix in {".png", ".webp"})
    for number, file in enumerate(files[:IMAGES]):
        metadata = {"number": number, "share": number / 10, "tags": [file.stem, None, True]}
        content = file.read_bytes()
        yield AddItem(item_id=file.name, content=content, uri=file.name, metadata=metadata)


def run(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "clipsearch", "--server", server.address, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with pictures, for tests that only read."""
    with ServerProcess("--data-dir", str(tmp_path_factory.mktemp("full"))) as server:
        with SearchClient(server.address) as client:
            results = list(client.add_images(items()))
        assert len({result.added.image.id for result in results if result.added}) == IMAGES
        yield server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess("--data-dir", str(tmp_path_factory.mktemp("other"))) as server:
        yield server


@pytest.fixture
def empty(other: ServerProcess) -> ServerProcess:
    """A server without pictures, whatever the test before has left there."""
    with SearchClient(other.address) as client:
        for image in client.list_images():
            client.delete_image(image.id)
        assert client.list_page().total_size == 0
    return other


@pytest.fixture(scope="module")
def dumped(full: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dump") / "pictures.parquet"
    done = run(full, "dump", str(file))
    assert done.returncode == 0, done.stderr
    assert f"{IMAGES} images dumped" in done.stdout
    return file


def assert_alike(one: ServerProcess, other: ServerProcess) -> None:
    """Both hold the same images, and find the same ones with the same scores."""
    with SearchClient(one.address) as here, SearchClient(other.address) as there:
        images = list(here.list_images())
        assert len(images) == IMAGES
        assert list(there.list_images()) == images
        for query in QUERIES:
            expected = {hit.image.id: hit.score for hit in here.query_text(query, limit=100).hits}
            found = {hit.image.id: hit.score for hit in there.query_text(query, limit=100).hits}
            assert list(found) == list(expected)
            assert found == pytest.approx(expected, abs=SCORE_TOLERANCE)


def test_a_loaded_dump_answers_as_its_source_does(
    full: ServerProcess, empty: ServerProcess, dumped: Path
) -> None:
    for _ in range(2):  # again, which changes nothing
        done = run(empty, "load", str(dumped), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["images"] == IMAGES
        assert_alike(full, empty)


def test_what_was_loaded_survives_a_crash_and_can_be_dumped_again(
    full: ServerProcess, dumped: Path, tmp_path: Path
) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    with ServerProcess(*data) as server:
        assert run(server, "load", str(dumped)).returncode == 0
        server.kill()
    with ServerProcess(*data) as server:
        assert_alike(full, server)
        assert run(server, "dump", str(tmp_path / "again.parquet")).returncode == 0
    with ServerProcess("--data-dir", str(tmp_path / "third")) as server:
        assert run(server, "load", str(tmp_path / "again.parquet")).returncode == 0
        assert_alike(full, server)


def test_an_interrupted_load_can_be_repeated(
    full: ServerProcess, empty: ServerProcess, dumped: Path
) -> None:
    with SearchClient(full.address) as here, SearchClient(empty.address) as there:
        stored = there.import_images(here.export_images())
        first = next(stored)
        stored.close()
        assert there.list_page().total_size >= first > 0
    done = run(empty, "load", str(dumped))
    assert done.returncode == 0, done.stderr
    assert_alike(full, empty)


def test_an_image_may_be_added_to_what_was_loaded(empty: ServerProcess, dumped: Path) -> None:
    run(empty, "load", str(dumped))
    with SearchClient(empty.address) as client:
        outcomes = [result.added.outcome for result in client.add_images(items()) if result.added]
    assert outcomes == ["unchanged"] * IMAGES


async def test_one_server_can_be_copied_to_another_without_a_file(
    full: ServerProcess, empty: ServerProcess
) -> None:
    async with (
        AsyncSearchClient(full.address) as here,
        AsyncSearchClient(empty.address) as there,
    ):
        counts = [stored async for stored in there.import_images(here.export_images())]
    assert counts[-1] == IMAGES
    assert_alike(full, empty)


def test_another_models_embeddings_are_refused(full: ServerProcess, empty: ServerProcess) -> None:
    def of_another_model() -> Iterator[EmbeddedImage]:
        with SearchClient(full.address) as here:
            for image in here.export_images():
                yield replace(image, model_fingerprint="f" * 64)

    with SearchClient(empty.address) as there:
        with pytest.raises(ModelMismatchError, match="f" * 64):
            list(there.import_images(of_another_model()))
        assert there.list_page().total_size == 0


def test_queries_are_answered_while_a_collection_moves(
    full: ServerProcess, empty: ServerProcess
) -> None:
    with SearchClient(full.address) as here, SearchClient(empty.address) as there:
        for _ in there.import_images(here.export_images()):
            assert here.query_text("a cat").hits
            assert there.query_text("a cat").hits


def test_a_server_that_stopped_ends_a_load_with_one_line(dumped: Path, tmp_path: Path) -> None:
    with ServerProcess("--data-dir", str(tmp_path)) as server:
        server.stop()
        done = run(server, "load", str(dumped))
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "nothing answers" in line
