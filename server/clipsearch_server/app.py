"""The composition root: with `open_models` and `open_store`, the only module that names an adapter.

What is opened is owned by one stack, in the order in which one thing needs the other, and closed in
the reverse order.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import add_ImageSearchServiceServicer_to_server
from clipsearch_server import metrics
from clipsearch_server.adding import ImageAdder
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog, EngineMaker, EngineMakerFactory
from clipsearch_server.embedding import ImageEmbedder
from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import ClipsearchError, ModelMismatch, StartupError
from clipsearch_server.fetch.http import HttpFetcher
from clipsearch_server.loaded_model import LoadedModels
from clipsearch_server.metrics_endpoint import counting_images, measure_lag, serve_metrics
from clipsearch_server.open_identity import Identity, open_identity
from clipsearch_server.open_models import max_decoded, open_models
from clipsearch_server.open_store import open_store
from clipsearch_server.ports import ImageFetcher, ImageIndex
from clipsearch_server.rpc import convert
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.call_record import begin_at_zero
from clipsearch_server.rpc.health import HealthReporter
from clipsearch_server.rpc.interceptors import SERVICE_NAME, CallInterceptor
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.servicer import ImageSearchServicer
from clipsearch_server.searching import ImageSearcher
from clipsearch_server.settings import Settings
from clipsearch_server.text_embedding import TextEmbedder
from clipsearch_server.tracing import trace_to

logger = logging.getLogger(__name__)

# Room for the request around an image of the largest size.
_MESSAGE_OVERHEAD_BYTES = 2**20
_MAX_PENDING_CALLS = 20_000
# Of one connection; more wait at their caller's. It is also all that one connection can make us
# begin and throw away at a time: while one opened and reset 30,000 streams as fast as it could
# (CVE-2023-44487), another caller waited 0.6 s at worst with 128, 5.6 s with 1,000, and without a
# limit the server took 200 MB more (tests/integration/test_wire.py has a smaller flood).
_MAX_CALLS_PER_CONNECTION = 128
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
async def open_app(settings: Settings, *, shares_port: bool = False) -> AsyncIterator[App]:
    """Opens everything that the settings name, and serves until the block is left.

    ``shares_port``: other processes that say so too may listen on the port, and the system hands
    each of them a part of the connections. Raises StartupError if something cannot be opened.
    """
    async with AsyncExitStack() as stack:
        # Before all that takes time, as it may say no.
        identity = await stack.enter_async_context(open_identity(settings))
        # Decoding processes start before gRPC does: gRPC's threads do not survive a fork.
        models = await open_models(stack, settings)
        await _open_tracing(stack, settings)
        store = await open_store(stack, settings, next(iter(models)).card)
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
        catalog = Catalog(
            store,
            models,
            default=settings.collection,
            max_collections=settings.max_collections,
            engine_maker=_engine_maker(settings, models, fetcher, executor, memory),
        )
        try:
            await catalog.check_index()
        except ModelMismatch:
            raise
        except ClipsearchError:
            pass  # the store waits for what is away, and health tells
        health = HealthReporter({"encoder": catalog.check_encoders, "index": catalog.check_index})
        await _open_metrics(stack, settings, catalog)
        server, address = _server(settings, identity, catalog, memory, health, shares_port)
        await health.check()
        await server.start()
        stack.push_async_callback(server.stop, 0)
        reporter = asyncio.create_task(health.report(), name="health")
        stack.callback(reporter.cancel)
        yield App(address, server, health, settings.grace_s)


async def _open_tracing(stack: AsyncExitStack, settings: Settings) -> None:
    if settings.tracing.endpoint:
        await stack.enter_async_context(
            trace_to(
                settings.tracing.endpoint,
                sample_ratio=settings.tracing.sample_ratio,
                version=_version(),
            )
        )


async def _open_metrics(stack: AsyncExitStack, settings: Settings, catalog: Catalog) -> None:
    """Counts from now on, and serves what is counted where the settings say."""
    begin_at_zero()
    metrics.BUILD_INFO.labels(
        version=_version(),
        encoder=settings.encoder.backend,
        index=settings.index.backend,
        model=next(iter(catalog.models)).card.model_id,
    ).set(1)
    lag = asyncio.create_task(measure_lag(), name="event loop lag")
    stack.callback(lag.cancel)
    if settings.metrics.address:
        stack.enter_context(counting_images(catalog.image_counts))
        address = await stack.enter_async_context(serve_metrics(settings.metrics.address))
        logger.info("metrics address=%s", address)


def _version() -> str:
    return importlib.metadata.version("clipsearch-server")


def _engine_maker(
    settings: Settings,
    models: LoadedModels,
    fetcher: ImageFetcher | None,
    executor: Executor,
    memory: Budget,
) -> EngineMakerFactory:
    """Returns how the engines of a collection are made. What embeds is one a model; what adds and
    searches, one a collection."""
    images = {
        model.card.fingerprint: ImageEmbedder(
            encoder=model.encoder,
            fetcher=fetcher,
            decoder=model.decoder,
            executor=executor,
            max_image_bytes=settings.image.max_bytes,
            max_decoded=max_decoded(settings),
            memory=memory,
        )
        for model in models
    }
    texts = {
        model.card.fingerprint: TextEmbedder(
            encoder=model.encoder,
            tokenizer=model.tokenizer,
            executor=executor,
            max_rows=min(_MAX_TEXT_ROWS, settings.encoder.max_waiting),
        )
        for model in models
    }

    choosers = asyncio.Semaphore(os.cpu_count() or 1)

    def maker(collection: str, fingerprint: str, index: ImageIndex) -> EngineMaker:
        embedder, texts_of_model = images[fingerprint], texts[fingerprint]
        return partial(
            SearchEngine,
            adder=ImageAdder(embedder=embedder, index=index, duplicates=settings.duplicates),
            searcher=ImageSearcher(
                texts=texts_of_model,
                images=embedder,
                index=index,
                executor=executor,
                choosers=choosers,
            ),
            texts=texts_of_model,
            collection=collection,
            model_fingerprint=fingerprint,
        )

    return maker


def _server(
    settings: Settings,
    identity: Identity,
    catalog: Catalog,
    memory: Budget,
    health: HealthReporter,
    shares_port: bool,
) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor(
                authenticate=identity.authenticate,
                admission=Admission(
                    {
                        Work.QUERY: settings.admission.max_queries,
                        Work.INGEST: settings.admission.max_ingest,
                        Work.BULK: settings.admission.max_bulk,
                    }
                ),
                default_deadline_s=settings.default_deadline_s,
            )
        ],
        options=[
            ("grpc.max_receive_message_length", settings.image.max_bytes + _MESSAGE_OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            # gRPC core would cancel calls from 1,000 waiting on, unseen by us; we refuse them
            # ourselves.
            ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
            ("grpc.max_concurrent_streams", _MAX_CALLS_PER_CONNECTION),
            # Two servers on one port would share its calls without anybody noticing.
            ("grpc.so_reuseport", int(shares_port)),
        ],
    )
    options = ServiceOptions(
        default_limit=settings.default_limit,
        near_duplicate_similarity=settings.near_duplicate_similarity,
        max_in_flight_per_stream=settings.max_in_flight_per_stream,
        memory=memory,
        info=_info(settings),
    )
    add_ImageSearchServiceServicer_to_server(ImageSearchServicer(catalog, options), server)
    add_HealthServicer_to_server(health, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection(
        (SERVICE_NAME, health_name, reflection.SERVICE_NAME), server
    )
    try:
        port = identity.listen(server, settings.address)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {settings.address}: it is taken, or not an address of this machine; "
            "choose another with --address"
        ) from error
    return server, f"{settings.address.rpartition(':')[0]}:{port}"


def _info(settings: Settings) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        version=_version(),
        limits=pb.Limits(
            max_image_bytes=settings.image.max_bytes,
            max_image_pixels=settings.image.max_pixels,
            default_limit=settings.default_limit,
            max_limit=convert.MAX_LIMIT,
            fetch_enabled=settings.fetch.enabled,
        ),
    )
