"""One trace from a client through a real server to Triton, as an OTLP collector gets it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from blockbuster import BlockBuster
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import format_trace_id

from clipsearch import AsyncSearchClient, SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import (
    ImageSearchServiceServicer,
    add_ImageSearchServiceServicer_to_server,
)
from clipsearch_server import tracing
from clipsearch_server.errors import StartupError, StorageFull
from clipsearch_server.testing import ServerProcess
from scripted_triton import ScriptedTriton, serving, write_model_folder

TEXT = "my private wish"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""

    async def Export(self, request: Any, context: Any) -> Any:
        self.raw += request.SerializeToString()
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


class TracedTriton(ScriptedTriton):
    """Keeps the trace context of each inference."""

    def __init__(self) -> None:
        super().__init__()
        self.traceparents: list[str | None] = []

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        self.traceparents.append(metadata.get("traceparent"))
        return await super().ModelInfer(request, context)


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector, f"http://127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sampler], TracerProvider]]:
    """Installs a tracer provider, as an application does that traces itself; its spans go
    nowhere."""
    providers: list[TracerProvider] = []

    def install(sampler: Sampler) -> TracerProvider:
        providers.append(TracerProvider(sampler=sampler, shutdown_on_exit=False))
        # The public way is open once in a process, and the tests are one.
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", providers[-1])
        return providers[-1]

    yield install
    for provider in providers:
        provider.shutdown()


async def test_a_trace_crosses_from_the_client_through_the_server_to_triton(
    collector: tuple[Collector, str], install: Callable[[Sampler], TracerProvider], tmp_path: Path
) -> None:
    collected, endpoint = collector
    triton = TracedTriton()
    async with serving(triton) as address:
        server = ServerProcess(
            *("--data-dir", str(tmp_path / "data")),
            *("--model-dir", str(write_model_folder(tmp_path / "model"))),
            *("--encoder-backend", "triton", "--triton-address", address),
            *("--tracing-endpoint", endpoint, "--tracing-sample-ratio", "0"),
            *("--log-format", "json"),
        )
        await asyncio.to_thread(server.__enter__)
        try:
            async with AsyncSearchClient(server.address) as client:
                tracer = install(ALWAYS_ON).get_tracer("test")
                with tracer.start_as_current_span("work") as span:
                    await client.query_text(TEXT)
                install(ALWAYS_OFF)
                await client.query_text("of which nothing is to be traced")
        finally:
            await asyncio.to_thread(server.stop)
    traced = format_trace_id(span.get_span_context().trace_id)
    assert {it.trace_id.hex() for it in collected.spans} == {traced}
    spans = {it.name: it for it in collected.spans}
    call = spans["clipsearch.v1.ImageSearchService/QueryText"]
    assert call.kind == Span.SPAN_KIND_SERVER
    for stage in ("tokenise", "embed", "search"):
        assert spans[stage].parent_span_id == call.span_id, stage
    # Triton is asked for a batch, which has the call that waits for it as its parent.
    batch = spans["batch text"]
    assert batch.parent_span_id == spans["embed"].span_id
    wanted = f"00-{traced}-{batch.span_id.hex()}-"
    assert sum(str(it).startswith(wanted) for it in triton.traceparents) == 1
    assert TEXT.encode() not in collected.raw
    assert f'"trace_id": "{traced}"' in server.log
    assert "private" not in server.log


class Propagator(TextMapPropagator):
    """Writes a header as AWS's does."""

    fields = frozenset({"X-Amzn-Trace-Id"})

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        setter.set(carrier, "X-Amzn-Trace-Id", "Root=1-a")

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        return Context()


@pytest.fixture
def capitals() -> Iterator[None]:
    former = propagate.get_global_textmap()
    propagate.set_global_textmap(Propagator())
    yield
    propagate.set_global_textmap(former)


@pytest.mark.usefixtures("capitals")
async def test_a_header_in_capitals_breaks_no_call_of_the_client() -> None:
    seen: list[Any] = []

    class Service(ImageSearchServiceServicer):
        async def GetServerInfo(self, request: Any, context: Any) -> pb.GetServerInfoResponse:
            seen.append(dict(context.invocation_metadata()).get("x-amzn-trace-id"))
            return pb.GetServerInfoResponse()

    server = grpc.aio.server()
    add_ImageSearchServiceServicer_to_server(Service(), server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with AsyncSearchClient(target) as client:
            await client.server_info()
        with SearchClient(target) as sync_client:
            await asyncio.to_thread(sync_client.server_info)
    finally:
        await server.stop(0)
    assert seen == ["Root=1-a", "Root=1-a"]


SAMPLED, UNSAMPLED = f"00-{'a' * 32}-{'1' * 16}-01", f"00-{'b' * 32}-{'2' * 16}-00"


async def a_call(traceparent: str) -> tracing.Parent:
    """Begins a call in a task of its own, as the server does; returns its span."""

    async def begin() -> tracing.Parent:
        span = tracing.begin_call("service/method", [("traceparent", traceparent)])
        assert span is not None
        found = tracing.parent()
        span.end()
        return found

    return await asyncio.create_task(begin())


async def test_a_batch_is_traced_if_one_of_its_calls_is(
    collector: tuple[Collector, str], blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # OpenTelemetry is imported and set up before anything is served
    collected, endpoint = collector
    async with tracing.trace_to(endpoint, sample_ratio=0, version="1"):
        traced, other = await a_call(SAMPLED), await a_call(UNSAMPLED)
        with tracing.span("batch", of=[other, traced, other, None]):
            headers = tracing.headers()
        with tracing.span("untraced", of=[other]):
            assert not tracing.trace_id()
    assert headers is not None
    spans = {it.name: it for it in collected.spans}
    assert spans.keys() == {"service/method", "batch"}
    batch = spans["batch"]
    assert batch.trace_id.hex() == "a" * 32
    assert batch.parent_span_id == spans["service/method"].span_id
    assert not batch.links
    assert headers["traceparent"] == f"00-{'a' * 32}-{batch.span_id.hex()}-01"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(StorageFull(TEXT), "STORAGE_FULL"), (OSError(TEXT), "OSError")],
)
async def test_a_stage_that_fails_says_with_what_kind_of_error_and_not_its_text(
    collector: tuple[Collector, str], blockbuster: BlockBuster, error: Exception, kind: str
) -> None:
    blockbuster.deactivate()  # as above
    collected, endpoint = collector
    async with tracing.trace_to(endpoint, sample_ratio=1, version="1"):
        with pytest.raises(type(error)), tracing.span("stage"):
            raise error
    (span,) = collected.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert {it.key: it.value.string_value for it in span.attributes} == {"error.type": kind}
    assert not span.events
    assert TEXT.encode() not in collected.raw


def test_without_opentelemetry_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # One in its way that says what a missing one does.
    missing = "raise ModuleNotFoundError(\"No module named 'opentelemetry'\")"
    (tmp_path / "opentelemetry.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    options = ("--data-dir", str(tmp_path), "--tracing-endpoint", "http://127.0.0.1:1")
    with pytest.raises(StartupError) as caught, ServerProcess(*options):
        pass
    (line,) = caught.value.message.splitlines()[-1:]
    assert line.startswith("clipsearch-server: tracing.endpoint is set")
    assert 'pip install "./server[otel]"' in line
