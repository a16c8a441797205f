"""The real server with two models: collections side by side, and the default one switched under
load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

pytest.importorskip("onnx", reason="the second model is written with onnx, the exporter's library")

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.errors import StartupError
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess
from tiny_model import DIM, FINGERPRINT, write_tiny_model

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
IMAGES = 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def options(data_dir: Path, model_dir: Path, *extra: Path) -> list[str]:
    flags = ["--data-dir", str(data_dir), "--model-dir", str(model_dir)]
    return flags + [flag for path in extra for flag in ("--extra-model-dirs", str(path))]


async def fill(service: ImageSearchServiceStub, collection: str, paths: list[Path]) -> set[str]:
    async def requests() -> AsyncIterator[pb.AddImagesRequest]:
        for path in paths:
            request = pb.AddImageRequest(content=path.read_bytes(), collection=collection)
            yield pb.AddImagesRequest(item_id=path.name, request=request)

    results = [result async for result in service.AddImages(requests())]
    assert all(result.WhichOneof("result") == "response" for result in results)
    return {result.response.image.id for result in results}


async def test_the_default_is_switched_to_another_model_under_load(
    tiny: Path, tmp_path: Path
) -> None:
    pictures = sorted(path for path in PICTURES.iterdir() if path.suffix in {".png", ".webp"})
    process = ServerProcess(*options(tmp_path, DEMO_MODEL_DIR, tiny))
    server = await asyncio.to_thread(process.__enter__)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            service = ImageSearchServiceStub(channel)
            old = await fill(service, "images", pictures[:IMAGES])
            create = pb.CreateCollectionRequest(name="images-2", model="tests/tiny")
            created = (await service.CreateCollection(create)).collection
            assert (created.model_fingerprint, created.embedding_dim) == (FINGERPRINT, DIM)
            new = await fill(service, "images-2", pictures[IMAGES : 2 * IMAGES])
            seen = await _seen_while_switching(service)
            assert seen == {frozenset(old), frozenset(new)}  # one or the other whole, never none
            info = await service.GetServerInfo(pb.GetServerInfoRequest())
            assert [model.id for model in info.models] == ["tests/tiny", "clipsearch/demo"]
            delete = pb.DeleteCollectionRequest(name="images-1", confirm_name="images-1")
            await service.DeleteCollection(delete)
            assert await _found(service) == frozenset(new)
    finally:
        await asyncio.to_thread(process.stop)
    assert "Traceback" not in process.log
    with pytest.raises(StartupError, match="among extra_model_dirs"):
        await asyncio.to_thread(ServerProcess(*options(tmp_path, DEMO_MODEL_DIR)).__enter__)
    # The default collection's model alone need be there, wherever it is named.
    process = ServerProcess(*options(tmp_path, tiny))
    server = await asyncio.to_thread(process.__enter__)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert await _found(ImageSearchServiceStub(channel)) == frozenset(new)
    finally:
        await asyncio.to_thread(process.stop)


async def _found(service: ImageSearchServiceStub) -> frozenset[str]:
    query = pb.QueryTextRequest(text="a black cat", limit=100)
    return frozenset(hit.image.id for hit in (await service.QueryText(query)).hits)


async def _seen_while_switching(service: ImageSearchServiceStub) -> set[frozenset[str]]:
    """Has the default alias switched to and fro while queries run; returns what they found."""
    done = asyncio.Event()

    async def ask() -> set[frozenset[str]]:
        seen = set()
        while not done.is_set():
            seen.add(await _found(service))
        return seen

    async def switch() -> None:
        for name in ("images-2", "images-1", "images-2", "images-1", "images-2"):
            for _ in range(3):  # queries come in between
                await _found(service)
            await service.SetAlias(pb.SetAliasRequest(alias="images", collection=name))
        done.set()

    _, *seen = await asyncio.gather(switch(), *(ask() for _ in range(4)))
    return set().union(*(it for it in seen if it is not None))


@pytest.mark.parametrize(
    ("backend", "said"),
    [("onnxruntime", "name each model once"), ("triton", "a Triton server has one model")],
)
def test_models_that_do_not_fit_end_the_start(
    tiny: Path, tmp_path: Path, backend: str, said: str
) -> None:
    process = ServerProcess(*options(tmp_path, tiny, tiny), "--encoder-backend", backend)
    with pytest.raises(StartupError, match=said), process:
        pass
