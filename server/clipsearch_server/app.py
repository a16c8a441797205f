"""The composition root: the only module that names an adapter.

What is opened is owned by one stack, in the order in which one thing needs the other, and closed in
the reverse order.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import add_ImageSearchServiceServicer_to_server
from clipsearch_server.adding import ImageAdder
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog
from clipsearch_server.decoding.pool import WorkerPool
from clipsearch_server.embedding import ImageEmbedder
from clipsearch_server.encoders.batching import BatchingEncoder
from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import StartupError
from clipsearch_server.fetch.http import HttpFetcher
from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.model import ModelCard, ModelFolder, open_model_folder
from clipsearch_server.ports import Encoder, ImageIndex
from clipsearch_server.rpc import convert
from clipsearch_server.rpc.health import HealthReporter
from clipsearch_server.rpc.interceptors import SERVICE_NAME, CallInterceptor
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.servicer import ImageSearchServicer
from clipsearch_server.searching import ImageSearcher
from clipsearch_server.settings import Settings
from clipsearch_server.text import Tokenizer
from clipsearch_server.text_embedding import TextEmbedder

logger = logging.getLogger(__name__)

# Room for the request around an image of the largest size.
_MESSAGE_OVERHEAD_BYTES = 2**20
_MAX_PENDING_CALLS = 20_000
# Prompts that one request brings before an encoder at a time: those of others come in between.
_MAX_TEXT_ROWS = 256


@dataclass(frozen=True, slots=True)
class App:
    """A server that serves."""

    address: str  # host:port, with the port that was taken
    server: grpc.aio.Server
    health: HealthReporter
    grace_s: float

    async def drain(self) -> None:
        """Tells health checks, takes no more calls, and lets those under way finish: at most
        grace_s."""
        await self.health.stop_serving()
        await self.server.stop(self.grace_s)


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[App]:
    """Opens everything that the settings name, and serves until the block is left.

    Raises StartupError if something cannot be opened.
    """
    async with AsyncExitStack() as stack:
        model = await asyncio.to_thread(open_model_folder, settings.model_dir)
        tokenizer = await asyncio.to_thread(
            Tokenizer,
            model.tokenizer_path,
            max_tokens=model.card.max_tokens,
            start_token_id=model.card.start_token_id,
            end_token_id=model.card.end_token_id,
        )
        # First, as these processes start before gRPC does: gRPC's threads do not survive a fork.
        decoder = await stack.enter_async_context(
            WorkerPool(
                size_px=model.card.image_size_px,
                resize_px=model.card.resize_px,
                resample=model.card.resample,
                max_pixels=settings.image.max_pixels,
                max_bytes=settings.image.max_bytes,
                workers=settings.image.decode_workers,
                memory_bytes=settings.image.decode_memory_mib * 2**20,
                cpu_s=settings.image.decode_cpu_s,
                max_waiting=settings.image.decode_max_waiting,
            )
        )
        index = await _open_index(stack, settings, model.card)
        encoder = await _open_encoder(stack, settings, model)
        memory = Budget(settings.max_in_flight_mib * 2**20)
        fetcher = None
        if settings.fetch.enabled:
            fetcher = await stack.enter_async_context(
                HttpFetcher(
                    settings.fetch.policy,
                    proxy=settings.fetch.proxy,
                    timeout_s=settings.fetch.timeout_s,
                    max_bytes=settings.image.max_bytes,
                    memory=memory,
                    max_redirects=settings.fetch.max_redirects,
                    max_concurrent=settings.fetch.max_concurrent,
                    max_concurrent_per_host=settings.fetch.max_concurrent_per_host,
                )
            )
        executor = stack.enter_context(
            ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="engine")
        )
        images = ImageEmbedder(
            encoder=encoder,
            fetcher=fetcher,
            decoder=decoder,
            executor=executor,
            max_image_bytes=settings.image.max_bytes,
            max_decoded=_max_decoded(settings),
            memory=memory,
        )
        texts = TextEmbedder(
            encoder=encoder,
            tokenizer=tokenizer,
            executor=executor,
            max_rows=min(_MAX_TEXT_ROWS, settings.encoder.max_waiting),
        )
        engine = SearchEngine(
            encoder=encoder,
            index=index,
            adder=ImageAdder(embedder=images, index=index, duplicates=settings.duplicates),
            searcher=ImageSearcher(texts=texts, images=images, index=index, executor=executor),
            texts=texts,
            collection=settings.collection,
        )
        catalog = Catalog(settings.collection, engine)
        health = HealthReporter({"encoder": encoder.health, "index": index.health})
        server, address = _server(settings, catalog, memory, _info(settings, model.card), health)
        await health.check()
        await server.start()
        stack.push_async_callback(server.stop, 0)
        reporter = asyncio.create_task(health.report(), name="health")
        stack.callback(reporter.cancel)
        yield App(address, server, health, settings.grace_s)


def _max_decoded(settings: Settings) -> int:
    """How many images may be decoded and not yet embedded: the encoder's batches under way, one
    more that is ready for it, and those that are being decoded."""
    batches = settings.triton.max_in_flight if settings.encoder.backend == "triton" else 1
    decoders = settings.image.decode_workers or os.cpu_count() or 1
    return min((batches + 1) * settings.encoder.max_batch + decoders, settings.encoder.max_waiting)


async def _open_encoder(stack: AsyncExitStack, settings: Settings, model: ModelFolder) -> Encoder:
    encoder: Encoder
    concurrency = 1
    if settings.encoder.backend == "triton":
        # Imported here: it takes a quarter of a second that most servers can start without.
        from clipsearch_server.encoders.triton import TritonEncoder

        encoder = await stack.enter_async_context(
            TritonEncoder(
                model.card,
                address=settings.triton.address,
                timeout_s=settings.triton.timeout_s,
                tls=settings.triton.tls,
                ca_file=settings.triton.ca_file,
            )
        )
        concurrency = settings.triton.max_in_flight
    else:
        try:
            from clipsearch_server.encoders.ort import OnnxEncoder
        except ModuleNotFoundError as error:
            raise StartupError(
                "ONNX Runtime is missing: install clipsearch-server[cpu] or, for a GPU, "
                "clipsearch-server[gpu], or let Triton run the model (--encoder-backend triton)"
            ) from error

        encoder = await stack.enter_async_context(
            OnnxEncoder(
                model,
                threads=settings.encoder.threads,
                device=settings.encoder.device,
                gpu_memory_bytes=settings.encoder.gpu_memory_mib * 2**20,
                max_batch=settings.encoder.max_batch,
                engine_cache_dir=settings.data_dir / "tensorrt",
            )
        )
    return await stack.enter_async_context(
        BatchingEncoder(
            encoder,
            pad_token_id=model.card.end_token_id,
            max_batch=settings.encoder.max_batch,
            max_waiting=settings.encoder.max_waiting,
            concurrency=concurrency,
        )
    )


async def _open_index(stack: AsyncExitStack, settings: Settings, card: ModelCard) -> ImageIndex:
    if settings.index.backend == "edge":
        return await stack.enter_async_context(
            EdgeIndex(
                settings.data_dir,
                collection=settings.collection,
                model_id=card.model_id,
                fingerprint=card.fingerprint,
                embedding_dim=card.embedding_dim,
                optimize_after_points=settings.index.optimize_after_points,
                max_in_flight=settings.index.max_in_flight,
                timeout_s=settings.index.timeout_s,
            )
        )
    # Imported only here: qdrant_client takes 0.5 s, more than everything else together (0.4 s).
    from clipsearch_server.indexes.qdrant.collection import CollectionLayout
    from clipsearch_server.indexes.qdrant.connection import QdrantServer
    from clipsearch_server.indexes.qdrant.index import QdrantIndex

    qdrant = settings.qdrant
    return await stack.enter_async_context(
        QdrantIndex(
            QdrantServer(
                url=qdrant.url, api_key=qdrant.api_key.get_secret_value(), ca_file=qdrant.ca_file
            ),
            collection=settings.collection,
            model_id=card.model_id,
            fingerprint=card.fingerprint,
            embedding_dim=card.embedding_dim,
            layout=CollectionLayout(
                shards=qdrant.shards,
                replication_factor=qdrant.replication_factor,
                write_consistency_factor=qdrant.write_consistency_factor,
                quantization=qdrant.quantization,
                on_disk=qdrant.on_disk,
                hnsw_m=qdrant.hnsw_m,
                hnsw_ef_construct=qdrant.hnsw_ef_construct,
            ),
            max_in_flight=settings.index.max_in_flight,
            timeout_s=settings.index.timeout_s,
        )
    )


def _server(
    settings: Settings,
    catalog: Catalog,
    memory: Budget,
    info: pb.GetServerInfoResponse,
    health: HealthReporter,
) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor(
                max_in_flight=settings.max_in_flight, default_deadline_s=settings.default_deadline_s
            )
        ],
        options=[
            ("grpc.max_receive_message_length", settings.image.max_bytes + _MESSAGE_OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            # gRPC core would cancel calls from 1,000 waiting on, unseen by us; we refuse them
            # ourselves.
            ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
            # Two servers on one port would share its calls without anybody noticing.
            ("grpc.so_reuseport", 0),
        ],
    )
    options = ServiceOptions(
        collection=settings.collection,
        default_limit=settings.default_limit,
        near_duplicate_similarity=settings.near_duplicate_similarity,
        max_in_flight_per_stream=settings.max_in_flight_per_stream,
        memory=memory,
        info=info,
    )
    add_ImageSearchServiceServicer_to_server(ImageSearchServicer(catalog, options), server)
    add_HealthServicer_to_server(health, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection(
        (SERVICE_NAME, health_name, reflection.SERVICE_NAME), server
    )
    try:
        port = server.add_insecure_port(settings.address)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {settings.address}: it is taken, or not an address of this machine; "
            "choose another with --address"
        ) from error
    return server, f"{settings.address.rpartition(':')[0]}:{port}"


def _info(settings: Settings, card: ModelCard) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        version=importlib.metadata.version("clipsearch-server"),
        model=convert.model(card),
        limits=pb.Limits(
            max_image_bytes=settings.image.max_bytes,
            max_image_pixels=settings.image.max_pixels,
            default_limit=settings.default_limit,
            max_limit=convert.MAX_LIMIT,
            fetch_enabled=settings.fetch.enabled,
        ),
    )
