"""The composition root: with the modules `open_*`, the only one that names an adapter.

What is opened is owned by one stack, in the order in which one thing needs the other, and closed in
the reverse order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from clipsearch_server import metrics
from clipsearch_server.adding import ImageAdder
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog, EngineMaker, EngineMakerFactory
from clipsearch_server.cores import cores
from clipsearch_server.embedding import ImageEmbedder
from clipsearch_server.engine import SearchEngine
from clipsearch_server.entering import enter_both
from clipsearch_server.errors import ClipsearchError, ModelMismatch
from clipsearch_server.loaded_model import LoadedModels
from clipsearch_server.metrics_endpoint import counting_images, measure_lag, serve_metrics
from clipsearch_server.open_identity import open_identity
from clipsearch_server.open_models import max_decoded, open_folders, open_models
from clipsearch_server.open_server import open_server, server_version
from clipsearch_server.open_store import open_store
from clipsearch_server.ports import ImageFetcher, ImageIndex
from clipsearch_server.rpc.call_record import begin_at_zero
from clipsearch_server.rpc.drain import DrainInterceptor
from clipsearch_server.rpc.health import HealthReporter
from clipsearch_server.searching import ImageSearcher
from clipsearch_server.settings import Settings
from clipsearch_server.text_embedding import TextEmbedder
from clipsearch_server.tracing import trace_to

logger = logging.getLogger(__name__)

# Of the grace, for streams to end by themselves; in the rest is finished what they have brought.
_STREAMS_SHARE = 0.75
# Prompts that one request brings before an encoder at a time: those of others come in between.
_MAX_TEXT_ROWS = 256


@dataclass(frozen=True, slots=True)
class App:
    """A server that serves."""

    address: str  # host:port, with the port that was taken
    server: grpc.aio.Server
    health: HealthReporter
    draining: DrainInterceptor
    drain_delay_s: float
    grace_s: float

    async def drain(self) -> None:
        """Tells health checks; after drain_delay_s takes no more calls, and lets those under way
        finish: at most grace_s. Streams that bring nothing are ended at once, and those that would
        take longer before it is over."""
        await self.health.stop_serving()
        await asyncio.sleep(self.drain_delay_s)
        await self.draining.refuse_calls()
        end_streams = asyncio.get_running_loop().call_later(
            self.grace_s * _STREAMS_SHARE, self.draining.end_streams
        )
        end_idle_streams = asyncio.create_task(self.draining.end_idle_streams())
        await self.server.stop(self.grace_s)
        end_streams.cancel()
        end_idle_streams.cancel()


@asynccontextmanager
async def open_app(settings: Settings, *, shares_port: bool = False) -> AsyncIterator[App]:
    """Opens everything that the settings name, and serves until the block is left.

    ``shares_port``: other processes that say so too may listen on the port, and the system hands
    each of them a part of the connections. Raises StartupError if something cannot be opened.
    """
    async with AsyncExitStack() as stack:
        # Before all that takes time, as it may say no.
        identity = await stack.enter_async_context(open_identity(settings))
        folders = await asyncio.to_thread(open_folders, settings)
        # Before gRPC serves. Side by side, as the one has threads load, and the other a process.
        models, store = await enter_both(
            stack, open_models(settings, folders), open_store(settings, folders[0].card)
        )
        await _open_tracing(stack, settings)
        memory = Budget(settings.max_in_flight_mib * 2**20)
        fetcher = None
        if settings.fetch.enabled:
            # Imported only here: with what speaks HTTP, 0.1 s.
            from clipsearch_server.fetch.http import HttpFetcher

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
        executor = stack.enter_context(ThreadPoolExecutor(cores(), thread_name_prefix="engine"))
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
        draining = DrainInterceptor()
        await _open_metrics(stack, settings, catalog)
        server, address = open_server(
            settings,
            authenticate=identity.authenticate,
            listen=identity.listen,
            catalog=catalog,
            memory=memory,
            health=health,
            draining=draining,
            shares_port=shares_port,
        )
        await health.check()
        await server.start()
        stack.push_async_callback(server.stop, 0)
        reporter = asyncio.create_task(health.report(), name="health")
        stack.callback(reporter.cancel)
        yield App(
            address,
            server,
            health,
            draining,
            drain_delay_s=settings.drain_delay_s,
            grace_s=settings.grace_s,
        )


async def _open_tracing(stack: AsyncExitStack, settings: Settings) -> None:
    if settings.tracing.endpoint:
        await stack.enter_async_context(
            trace_to(
                settings.tracing.endpoint,
                sample_ratio=settings.tracing.sample_ratio,
                version=server_version(),
            )
        )


async def _open_metrics(stack: AsyncExitStack, settings: Settings, catalog: Catalog) -> None:
    """Counts from now on, and serves what is counted where the settings say."""
    begin_at_zero()
    metrics.BUILD_INFO.labels(
        version=server_version(),
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

    choosers = asyncio.Semaphore(cores())

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
            index=index,
            collection=collection,
            model_fingerprint=fingerprint,
        )

    return maker
