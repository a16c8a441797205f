"""A whole service on fakes: real gRPC, engine and decoder, and a model that knows three colours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
import tokenizers

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import (
    ImageSearchServiceStub,
    add_ImageSearchServiceServicer_to_server,
)
from clipsearch_server.adding import Duplicates
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog
from clipsearch_server.engine import SearchEngine
from clipsearch_server.loaded_model import LoadedModel, LoadedModels
from clipsearch_server.model import ModelCard
from clipsearch_server.ports import CollectionSpec, ImageDecoder
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.interceptors import CallInterceptor, let_anybody_in
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.servicer import ImageSearchServicer
from clipsearch_server.stored import StoredImages
from clipsearch_server.text import Tokenizer
from engines import an_engine
from fake_qdrant import FakeQdrant
from fakes import FakeEncoder, FakeFetcher, FakeIndex, FakeStore, InProcessDecoder

SIZE_PX = 8
VOCABULARY = {"<start>": 0, "<end>": 1, "?": 2, "red": 3, "green": 4, "blue": 5}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("model") / "tokenizer.json"
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(path))
    return Tokenizer(path, max_tokens=8, start_token_id=0, end_token_id=1)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


@pytest_asyncio.fixture
async def qdrant() -> AsyncIterator[FakeQdrant]:
    fake = FakeQdrant()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def decoder() -> ImageDecoder:
    return InProcessDecoder(size_px=SIZE_PX, max_pixels=1_000_000)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def memory() -> Budget:
    return Budget(200_000)


@pytest.fixture
def fetcher(memory: Budget) -> FakeFetcher:
    return FakeFetcher(memory)


@pytest.fixture
def duplicates() -> Duplicates:
    """What the engine does with duplicates; a test may parametrise it."""
    return "refuse"


@pytest.fixture
def prompt_templates() -> tuple[str, ...]:
    """The collection's own; a test may parametrise it."""
    return ()


@pytest.fixture
def engine(
    encoder: FakeEncoder,
    index: FakeIndex,
    fetcher: FakeFetcher,
    decoder: ImageDecoder,
    tokenizer: Tokenizer,
    executor: ThreadPoolExecutor,
    memory: Budget,
    duplicates: Duplicates,
    prompt_templates: tuple[str, ...],
) -> SearchEngine:
    return an_engine(
        encoder=encoder,
        tokenizer=tokenizer,
        decoder=decoder,
        fetcher=fetcher,
        index=index,
        executor=executor,
        memory=memory,
        duplicates=duplicates,
        max_rows=64,
        prompt_templates=prompt_templates,
    )


@pytest.fixture
def card() -> ModelCard:
    """Of the model that knows three colours."""
    return ModelCard(
        format_version=1,
        model_id="colours",
        fingerprint="c" * 64,
        precision="fp32",
        embedding_dim=3,
        image_size_px=SIZE_PX,
        resize_px=SIZE_PX,
        resample="bicubic",
        image_mean=(0, 0, 0),
        image_std=(1, 1, 1),
        max_tokens=8,
        start_token_id=0,
        end_token_id=1,
        files={},
    )


@pytest.fixture
def spec(card: ModelCard) -> CollectionSpec:
    return CollectionSpec(
        model_id=card.model_id, fingerprint=card.fingerprint, embedding_dim=card.embedding_dim
    )


@pytest.fixture
def stored(spec: CollectionSpec, index: FakeIndex) -> StoredImages:
    return StoredImages("images-1", spec, index)


@pytest.fixture
def store(spec: CollectionSpec, index: FakeIndex) -> FakeStore:
    return FakeStore("images", spec, index)


@pytest.fixture
def models(
    card: ModelCard, encoder: FakeEncoder, decoder: ImageDecoder, tokenizer: Tokenizer
) -> LoadedModels:
    model = LoadedModel(card=card, tokenizer=tokenizer, encoder=encoder, decoder=decoder)
    return LoadedModels([model])


@pytest.fixture
def catalog(store: FakeStore, models: LoadedModels, engine: SearchEngine) -> Catalog:
    """Of one collection, which the engine serves."""
    return Catalog(
        store,
        models,
        default="images",
        max_collections=4,
        engine_maker=lambda name, fingerprint, index: lambda prompt_templates: engine,
    )


@asynccontextmanager
async def serving(
    catalog: Catalog, memory: Budget, *, default_deadline_s: float
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server on loopback."""
    options = ServiceOptions(
        default_limit=2,
        near_duplicate_similarity=0.97,
        max_in_flight_per_stream=4,
        memory=memory,
        info=pb.GetServerInfoResponse(version="1.2.3"),
    )
    interceptor = CallInterceptor(
        authenticate=let_anybody_in,
        admission=Admission(dict.fromkeys(Work, 8)),
        default_deadline_s=default_deadline_s,
        stream_idle_s=default_deadline_s,
    )
    server = grpc.aio.server(interceptors=[interceptor])
    add_ImageSearchServiceServicer_to_server(ImageSearchServicer(catalog, options), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


@pytest_asyncio.fixture
async def channel(catalog: Catalog, memory: Budget) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(catalog, memory, default_deadline_s=60) as channel:
        yield channel


@pytest.fixture
def service(channel: grpc.aio.Channel) -> ImageSearchServiceStub:
    return ImageSearchServiceStub(channel)


@pytest_asyncio.fixture
async def impatient_channel(catalog: Catalog, memory: Budget) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(catalog, memory, default_deadline_s=0.1) as channel:
        yield channel


@pytest.fixture
def impatient_service(impatient_channel: grpc.aio.Channel) -> ImageSearchServiceStub:
    return ImageSearchServiceStub(impatient_channel)
