"""If OpenTelemetry is installed, and the application traces its work, its traces go on into the
server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:  # the extra [otel]
    _is_installed = False
else:
    _is_installed = True

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_SERVICE = "clipsearch.v1.ImageSearchService"


@contextmanager
def traced(method: str) -> Iterator[Metadata]:
    """Makes a span of a call; yields the metadata that the call is to bring."""
    if not _is_installed:
        yield ()
        return
    with trace.get_tracer("clipsearch").start_as_current_span(
        f"{_SERVICE}/{method}",
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.service": _SERVICE, "rpc.method": method},
    ):
        yield trace_metadata()


def trace_metadata() -> Metadata:
    """Returns the metadata that carries the span being made; empty if there is none."""
    carrier: dict[str, str] = {}
    if _is_installed:
        propagate.inject(carrier)
    # gRPC takes names in lower case only, and some propagators write X-Amzn-Trace-Id and the like.
    return tuple((name.lower(), value) for name, value in carrier.items())
