"""Spans of a call, for OpenTelemetry. Unless `trace_to` was called, they cost an ``if``.

A trace comes in with a call's W3C ``traceparent`` and goes on to the neighbour that is asked. No
span holds a text, a URL or a key, nor what an error says: only what kind of error it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from threading import Thread
from typing import TYPE_CHECKING, TypeAlias

from clipsearch_server.errors import ClipsearchError, StartupError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext

    Parent: TypeAlias = SpanContext | None

_TRACEPARENT = "traceparent"
_FLUSH_S = 5.0
# The codes of google.rpc that OpenTelemetry's conventions call an error of the server: UNKNOWN,
# DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_SERVER_FAULTS = frozenset({2, 4, 12, 13, 14, 15})


class _Tracing:
    """OpenTelemetry, imported: only whoever wants traces needs to have it."""

    def __init__(self, exporter: SpanExporter, *, sample_ratio: float, version: str) -> None:
        from opentelemetry import context, trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.context = context
        self.trace = trace
        self.propagator = TraceContextTextMapPropagator()
        self.provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio),
            resource=Resource.create({"service.name": "clipsearch", "service.version": version}),
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(
            BatchSpanProcessor(exporter, export_timeout_millis=_FLUSH_S * 1000)
        )
        self.tracer = self.provider.get_tracer("clipsearch_server", version)


_tracing: _Tracing | None = None


@asynccontextmanager
async def trace_to(endpoint: str, *, sample_ratio: float, version: str) -> AsyncIterator[None]:
    """Sends the spans made in this block to an OTLP collector at http(s)://host:port, over gRPC.

    A call whose caller says whether it is traced is as that says; of the others, ``sample_ratio``
    are. Leaving takes up to 5 s if the collector is silent. Raises StartupError if OpenTelemetry is
    not installed.
    """
    global _tracing
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_FLUSH_S
        )
        _tracing = _Tracing(exporter, sample_ratio=sample_ratio, version=version)
    except ModuleNotFoundError as error:
        raise StartupError(
            "tracing.endpoint is set, and OpenTelemetry is not installed: "
            'pip install "./server[otel]"'
        ) from error
    # A thread that nobody waits for at the end: the provider may take half a minute to give up.
    flush = Thread(target=_tracing.provider.shutdown, name="spans", daemon=True)
    try:
        yield
    finally:
        _tracing = None
        flush.start()
        await asyncio.to_thread(flush.join, _FLUSH_S)


def begin_call(name: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span | None:
    """Begins the span of a call, which is its task's from now on; None if nothing is traced."""
    if _tracing is None:
        return None
    carrier = {
        key: value
        for key, value in metadata
        if key in (_TRACEPARENT, "tracestate") and isinstance(value, str)
    }
    service, _, method = name.partition("/")
    span = _tracing.tracer.start_span(
        name,
        context=_tracing.propagator.extract(carrier),
        kind=_tracing.trace.SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
    )
    # Never detached: the call has a task of its own, and may be closed from another.
    _tracing.context.attach(_tracing.trace.set_span_in_context(span))
    return span


def end_call(span: Span, code: int, reason: str) -> None:
    """Ends the span of a call with its status: a code of google.rpc, and our reason."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("rpc.grpc.status_code", code)
    if reason:
        span.set_attribute("error.type", reason)
    if code in _SERVER_FAULTS:
        span.set_status(StatusCode.ERROR)
    span.end()


def span(name: str, *, of: Sequence[Parent] | None = None) -> AbstractContextManager[None]:
    """Times the block: as a part of the call being served, or ``of`` those who began it (`parent`),
    as a child of the first that is traced and with links to the others that are."""
    if _tracing is None or (of is not None and not any(of)):
        return _NO_SPAN
    return _span(_tracing, name, of)


_NO_SPAN = nullcontext()


@contextmanager
def _span(tracing: _Tracing, name: str, of: Sequence[Parent] | None) -> Iterator[None]:
    trace = tracing.trace
    context: Context | None = None
    links = []
    if of is not None:
        known = {it.span_id: it for it in of if it is not None}.values()
        first, *others = [it for it in known if it.trace_flags.sampled] or known
        context = trace.set_span_in_context(trace.NonRecordingSpan(first))
        links = [trace.Link(other) for other in others]
    with tracing.tracer.start_as_current_span(
        name,
        context=context,
        links=links,
        record_exception=False,  # what it says may be what a caller wrote
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except Exception as error:
            kind = error.reason if isinstance(error, ClipsearchError) else type(error).__name__
            made.set_attribute("error.type", kind)
            made.set_status(trace.StatusCode.ERROR)
            raise


def parent() -> Parent:
    """Returns the span being made, for who works for several calls at once."""
    if _tracing is None:
        return None
    found = _tracing.trace.get_current_span().get_span_context()
    return found if found.is_valid else None


def headers() -> Mapping[str, str] | None:
    """Returns what goes to a neighbour with a request, so that its spans join the trace."""
    if _tracing is None:
        return None
    carrier: dict[str, str] = {}
    _tracing.propagator.inject(carrier)
    return carrier


def trace_id() -> str:
    """Returns the id of the trace that the call being served belongs to; "" if it is not traced."""
    found = parent()
    return f"{found.trace_id:032x}" if found is not None and found.trace_flags.sampled else ""
