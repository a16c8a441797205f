"""What is counted of calls, where Prometheus finds it, and that all of it is documented."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server import metrics
from clipsearch_server.catalog import Catalog
from clipsearch_server.errors import (
    IndexUnavailable,
    Overloaded,
    StartupError,
    StorageFull,
)
from clipsearch_server.metrics_endpoint import counting_images, measure_lag, serve_metrics
from clipsearch_server.rpc.call_record import begin_at_zero
from fakes import FakeEncoder
from samples import png

SERVICE = "clipsearch.v1.ImageSearchService"
DOCUMENT = Path(__file__).parents[3] / "docs" / "observability.md"


def value(name: str, **labels: str) -> float:
    """What is counted so far; tests of one process share it."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def handled(method: str, code: str, kind: str = "unary") -> float:
    return value(
        "grpc_server_handled_total",
        grpc_type=kind,
        grpc_service=SERVICE,
        grpc_method=method,
        grpc_code=code,
    )


async def scraped(address: str) -> dict[str, float]:
    """The samples of one scrape, by name and labels."""

    def get() -> str:
        with urlopen(f"http://{address}/metrics", timeout=10) as response:
            return str(response.read().decode())

    text = await asyncio.to_thread(get)
    return {
        " ".join((sample.name, *sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_calls_are_counted_by_their_status_in_the_words_of_others(
    service: ImageSearchServiceStub,
) -> None:
    ok, bad = handled("QueryText", "OK"), handled("QueryText", "InvalidArgument")
    errors = value("clipsearch_errors_total", reason="INVALID_FIELD")
    hits = value("clipsearch_cache_requests_total", cache="text", result="hit")
    answered = value("clipsearch_cache_requests_total", cache="answer", result="hit")
    for limit in (1, 1, 2):
        await service.QueryText(pb.QueryTextRequest(text="red", limit=limit))
    with pytest.raises(grpc.aio.AioRpcError):
        await service.QueryText(pb.QueryTextRequest(text=""))
    assert handled("QueryText", "OK") == ok + 3
    assert handled("QueryText", "InvalidArgument") == bad + 1
    assert value("clipsearch_errors_total", reason="INVALID_FIELD") == errors + 1
    assert value("clipsearch_cache_requests_total", cache="answer", result="hit") == answered + 1
    assert value("clipsearch_cache_requests_total", cache="text", result="hit") == hits + 1


async def test_a_bad_item_of_a_stream_is_an_error_though_its_call_is_ok(
    service: ImageSearchServiceStub,
) -> None:
    ok = handled("AddImages", "OK", "bidi_stream")
    errors = value("clipsearch_errors_total", reason="IMAGE_FORMAT_UNSUPPORTED")
    added = value("clipsearch_images_added_total", outcome="added")
    decoded = value("clipsearch_stage_seconds_count", stage="decode")

    async def items() -> AsyncIterator[pb.AddImagesRequest]:
        for content in (png("red"), b"no image"):
            yield pb.AddImagesRequest(item_id="a", request=pb.AddImageRequest(content=content))

    assert len([it async for it in service.AddImages(items())]) == 2
    assert handled("AddImages", "OK", "bidi_stream") == ok + 1
    assert value("clipsearch_errors_total", reason="IMAGE_FORMAT_UNSUPPORTED") == errors + 1
    assert value("clipsearch_images_added_total", outcome="added") == added + 1
    assert value("clipsearch_stage_seconds_count", stage="decode") == decoded + 2


def test_each_way_to_be_refused_is_there_before_the_first_is() -> None:
    begin_at_zero()
    for reason in ("SERVER_OVERLOADED", "QUOTA_EXCEEDED", "UNAUTHENTICATED", "PERMISSION_DENIED"):
        for work in ("query", "ingest", "bulk"):
            labels = {"work": work, "reason": reason}
            assert REGISTRY.get_sample_value("clipsearch_refused_total", labels) is not None


async def test_what_is_refused_and_what_is_under_way_can_be_seen(
    service: ImageSearchServiceStub, encoder: FakeEncoder
) -> None:
    refused = value("clipsearch_refused_total", work="query", reason="SERVER_OVERLOADED")
    encoder.gate.clear()
    calls = [service.QueryText(pb.QueryTextRequest(text=f"red {n}")) for n in range(8)]
    await encoder.until_waiting(8)
    assert value("clipsearch_in_flight", work="query") == 8
    with pytest.raises(grpc.aio.AioRpcError):
        await service.QueryText(pb.QueryTextRequest(text="red"))
    encoder.gate.set()
    await asyncio.gather(*calls)
    assert value("clipsearch_in_flight", work="query") == 0
    now = value("clipsearch_refused_total", work="query", reason="SERVER_OVERLOADED")
    assert now == refused + 1


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (Overloaded("too many texts and images are waiting for the encoder"), 1),
        (MemoryError(), 1),
        (StorageFull("the disk is full"), 0),
        (IndexUnavailable("the index is away"), 0),
    ],
)
async def test_a_call_that_finds_no_room_further_in_is_refused_as_one_at_the_door_is(
    service: ImageSearchServiceStub, encoder: FakeEncoder, error: Exception, refused: int
) -> None:
    labels = {"work": "query", "reason": getattr(error, "reason", "SERVER_OVERLOADED")}
    before = value("clipsearch_refused_total", **labels)
    encoder.fail_with = error
    with pytest.raises(grpc.aio.AioRpcError):
        await service.QueryText(pb.QueryTextRequest(text="red"))
    assert value("clipsearch_refused_total", **labels) == before + refused


async def test_an_error_of_ours_is_counted_as_ours(
    service: ImageSearchServiceStub, encoder: FakeEncoder
) -> None:
    before = value("clipsearch_internal_errors_total", reason="INTERNAL")
    encoder.fail_with = RuntimeError("secret")
    with pytest.raises(grpc.aio.AioRpcError):
        await service.QueryText(pb.QueryTextRequest(text="red"))
    assert value("clipsearch_internal_errors_total", reason="INTERNAL") == before + 1


async def test_the_endpoint_shows_what_is_counted_when_asked(
    catalog: Catalog, service: ImageSearchServiceStub
) -> None:
    await service.AddImage(pb.AddImageRequest(content=png("red")))
    lag = asyncio.create_task(measure_lag())
    with counting_images(catalog.image_counts):
        async with serve_metrics("127.0.0.1:0") as address:
            samples = await scraped(address)
            while not samples["clipsearch_event_loop_lag_seconds_count"]:
                samples = await scraped(address)
    lag.cancel()
    (images,) = (it for it in samples if it.startswith("clipsearch_collection_images "))
    assert samples[images] == 1
    assert samples["process_resident_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (IndexUnavailable("the index is away"), 0),
        (asyncio.CancelledError(), 0),
        (RuntimeError("a bug of ours"), 1),
    ],
)
async def test_an_index_that_cannot_be_counted_shows_no_images_and_hides_nothing_else(
    error: BaseException, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def away() -> Mapping[str, int]:
        raise error

    with counting_images(away):
        async with serve_metrics("127.0.0.1:0") as address:
            samples = await scraped(address)
    assert not [it for it in samples if it.startswith("clipsearch_collection_images")]
    assert "process_cpu_seconds_total" in samples
    logged = [it.getMessage() for it in caplog.records if it.name.endswith("metrics_endpoint")]
    assert logged == ["cannot count the images of the collections"] * lines


async def test_a_scrape_that_fails_is_logged_and_prints_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Collector):
        def describe(self) -> Iterator[Metric]:
            yield from ()

        def collect(self) -> Iterator[Metric]:
            raise RuntimeError("a bug of ours")

    registry = CollectorRegistry()
    registry.register(Broken())
    async with serve_metrics("127.0.0.1:0", registry) as address:
        with pytest.raises(HTTPError, match="500"):
            await scraped(address)
    (record,) = (it for it in caplog.records if it.name.endswith("metrics_endpoint"))
    assert record.getMessage() == "the metrics cannot be shown"
    assert record.exc_info
    assert capfd.readouterr().err == ""


async def test_a_port_that_is_taken_is_an_error_that_names_the_way_out() -> None:
    async with serve_metrics("127.0.0.1:0") as address:
        with pytest.raises(StartupError, match="choose another with --metrics-address") as caught:
            async with serve_metrics(address):
                pass
    assert address in caught.value.message


WORKER = """
from clipsearch_server import metrics
metrics.IN_FLIGHT.labels("query").inc()
metrics.DEPENDENCY_SERVING.labels("index").set({serving})
metrics.ERRORS.labels("INTERNAL").inc()
metrics.STAGE_SECONDS.labels("embed").observe(0.02)
"""
PARENT = """
import sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
sys.stdout.buffer.write(generate_latest(registry))
"""


def test_what_several_processes_counted_can_be_put_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def run(script: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout

    for serving in (1, 0):
        run(WORKER.format(serving=serving))
    text = run(PARENT)
    assert 'clipsearch_in_flight{work="query"} 2.0' in text
    assert 'clipsearch_dependency_serving{dependency="index"} 0.0' in text
    assert 'clipsearch_errors_total{reason="INTERNAL"} 2.0' in text
    assert 'clipsearch_stage_seconds_count{stage="embed"} 2.0' in text


def test_the_document_lists_every_metric_with_its_labels() -> None:
    row = re.compile(r"^\| `((?:grpc|clipsearch)_\w+)` \|([^|]*)\|", re.MULTILINE)
    listed = dict(row.findall(DOCUMENT.read_text()))
    # As prometheus_client keeps a counter's name: without its end.
    ours = {
        metric._name + ("_total" if metric._type == "counter" else ""): metric._labelnames
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    ours[metrics.COLLECTION_IMAGES] = ("collection",)
    documented = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in listed.items()}
    assert documented == ours
