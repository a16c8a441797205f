"""`clipsearch dump` from one kind of index, `load` into the other, and back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from blockbuster import BlockBuster

from clipsearch import AddItem, AsyncSearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import add_ImageSearchServiceServicer_to_server
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.loaded_model import LoadedModel, LoadedModels
from clipsearch_server.model import ModelFolder, open_model_folder
from clipsearch_server.ports import CollectionSpec, DecodedImage
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.interceptors import CallInterceptor, let_anybody_in
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.servicer import ImageSearchServicer
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess
from clipsearch_server.text import Tokenizer
from engines import an_engine
from in_memory_qdrant import InMemoryQdrant
from stored_images import a_qdrant_store

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
MODEL = open_model_folder(DEMO_MODEL_DIR)
IMAGES = 200
QUERIES = ("a black cat", "a red car", "heavy rain", "something to eat", "a house by night")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


@asynccontextmanager
async def on_qdrant(model: ModelFolder) -> AsyncIterator[str]:
    """The service with the demo model and Qdrant, in this process; yields its address."""
    card = model.card
    tokenizer = Tokenizer(
        model.tokenizer_path,
        max_tokens=card.max_tokens,
        start_token_id=card.start_token_id,
        end_token_id=card.end_token_id,
    )
    spec = CollectionSpec(
        model_id=card.model_id, fingerprint=card.fingerprint, embedding_dim=card.embedding_dim
    )
    store = a_qdrant_store(InMemoryQdrant(url="http://in-memory"), "images", spec)
    memory = Budget(2**20)
    options = ServiceOptions(
        default_limit=5,
        near_duplicate_similarity=0.97,
        max_in_flight_per_stream=8,
        memory=memory,
        info=pb.GetServerInfoResponse(),
    )
    async with OnnxEncoder(model) as encoder, store:
        index = await store.open("images-1")
        executor = ThreadPoolExecutor(1)
        engine = an_engine(
            encoder=encoder,
            tokenizer=tokenizer,
            decoder=_NoDecoder(),
            fetcher=None,
            index=index,
            executor=executor,
            memory=memory,
            max_image_bytes=1,
            max_decoded=1,
            model_fingerprint=card.fingerprint,
        )
        loaded = LoadedModel(card=card, tokenizer=tokenizer, encoder=encoder, decoder=_NoDecoder())
        catalog = Catalog(
            store,
            LoadedModels([loaded]),
            default="images",
            max_collections=1,
            engine_maker=lambda name, fingerprint, index: lambda prompt_templates: engine,
        )
        server = grpc.aio.server(
            interceptors=[
                CallInterceptor(
                    authenticate=let_anybody_in,
                    admission=Admission(dict.fromkeys(Work, 100)),
                    default_deadline_s=60,
                )
            ]
        )
        add_ImageSearchServiceServicer_to_server(ImageSearchServicer(catalog, options), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)


class _NoDecoder:
    async def decode(self, content: bytes) -> DecodedImage:
        raise AssertionError("nothing is added here but by import")


async def run(address: str, *arguments: str) -> None:
    """The command as a user runs it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clipsearch", "--server", address, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def everything(address: str) -> tuple[list[Any], list[tuple[str, float]]]:
    """All images as they are stored, and what the queries find."""
    async with AsyncSearchClient(address) as client:
        images = [image async for image in client.list_images()]
        hits = [
            (hit.image.id, hit.score)
            for text in QUERIES
            for hit in (await client.query_text(text, limit=30)).hits
        ]
    return images, hits


async def test_a_collection_moves_from_edge_to_qdrant_and_back(
    tmp_path: Path, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # the imitation of Qdrant reads files where the real one is asked
    files = sorted(path for path in PICTURES.iterdir() if path.suffix in {".png", ".webp"})
    items = [
        AddItem(item_id=str(n), content=file.read_bytes(), metadata={"share": n / 7, "n": n})
        for n, file in enumerate(files[:IMAGES])
    ]
    there, back = tmp_path / "there.parquet", tmp_path / "back.parquet"
    first = ServerProcess("--data-dir", str(tmp_path / "first"))
    await asyncio.to_thread(first.__enter__)
    try:
        async with AsyncSearchClient(first.address) as client:
            assert [r async for r in client.add_images(items) if r.error] == []
        expected = await everything(first.address)
        await run(first.address, "dump", str(there))
    finally:
        await asyncio.to_thread(first.stop)

    async with on_qdrant(MODEL) as address:
        await run(address, "load", str(there))
        assert_same(await everything(address), expected)
        await run(address, "dump", str(back))

    last = ServerProcess("--data-dir", str(tmp_path / "last"))
    await asyncio.to_thread(last.__enter__)
    try:
        await run(last.address, "load", str(back))
        assert_same(await everything(last.address), expected)
    finally:
        await asyncio.to_thread(last.stop)


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    ids, scores = zip(*found[1], strict=True)
    expected_ids, expected_scores = zip(*expected[1], strict=True)
    assert ids == expected_ids
    assert scores == pytest.approx(expected_scores, abs=1e-6)
