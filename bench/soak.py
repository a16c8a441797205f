"""A server at mixed load for minutes: does it grow?

    .venv-dev/bin/python bench/soak.py [--minutes 10] [--seed 1] [--out FOLDER]

Callers search, add, replace, delete, export, add in bulk, send what is broken, and give up in the
middle; the number of images stays about the same. Each second the resident memory, open files and
threads of the server and of its processes are read, and how late its answer to a health check is.
Written are `soak.json` and `soak.svg`, with the slope of each over the second half of the run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from time import monotonic, perf_counter, sleep

import grpc
import numpy as np
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from measuring import RESULTS, machine
from PIL import Image

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.testing import ServerProcess

IMAGES = 2000  # about so many are stored at a time
EXPECTED = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
# What the slope may be for a run to pass, by the minute.
MAX_GROWTH_MIB = 1.0
MAX_GROWTH_FILES = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    server_mib: float
    children_mib: float  # the index and the decoders
    files: int
    threads: int
    health_ms: float


@dataclass(slots=True)
class Result:
    minutes: float
    seed: int
    calls: dict[str, int] = field(default_factory=dict)  # by method and outcome
    slopes_per_minute: dict[str, float] = field(default_factory=dict)  # over the second half
    health_ms_p99: float = 0.0
    was_unhealthy: int = 0  # samples
    samples: list[Sample] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        odd = [name for name in self.calls if name.split()[-1] not in EXPECTED]
        slopes = self.slopes_per_minute
        if slopes["server_mib"] > MAX_GROWTH_MIB or slopes["children_mib"] > MAX_GROWTH_MIB:
            odd.append("memory grows")
        if slopes["files"] > MAX_GROWTH_FILES or slopes["threads"] > MAX_GROWTH_FILES:
            odd.append("files or threads grow")
        if self.was_unhealthy:
            odd.append(f"unhealthy in {self.was_unhealthy} samples")
        return odd


class Load:
    """Callers, each with a connection of its own, until stopped."""

    def __init__(self, address: str, seed: int) -> None:
        self.calls: Counter[str] = Counter()
        self._address = address
        self._stopping = threading.Event()
        self._ids: deque[str] = deque()
        kinds = [query, query, add, add, replace, delete, page, export, bulk, broken, give_up]
        self._threads = [
            threading.Thread(target=self._work, args=(kind, random.Random(seed * 100 + n)))
            for n, kind in enumerate(kinds)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self, kind: Kind, chance: random.Random) -> None:
        with grpc.insecure_channel(
            self._address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            service = ImageSearchServiceStub(channel)
            while not self._stopping.wait(chance.uniform(0.0, 0.05)):
                try:
                    kind(service, self._ids, chance)
                    outcome = "OK"
                except grpc.RpcError as error:
                    outcome = error.code().name  # type: ignore[attr-defined]
                self.calls[f"{kind.__name__} {outcome}"] += 1


Kind = Callable[[ImageSearchServiceStub, "deque[str]", random.Random], None]


def query(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    service.QueryText(pb.QueryTextRequest(text=f"thing {chance.random()}", limit=20), timeout=30)


def add(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    if len(ids) < IMAGES:
        request = pb.AddImageRequest(content=picture(chance))
        ids.append(service.AddImage(request, timeout=30).image.id)


def replace(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    if ids:
        request = pb.AddImageRequest(id=ids[-1], content=picture(chance))
        service.AddImage(request, timeout=30)


def delete(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    if len(ids) >= IMAGES * 0.8:
        service.DeleteImage(pb.DeleteImageRequest(id=ids.popleft()), timeout=30)


def page(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    service.ListImages(pb.ListImagesRequest(page_size=100), timeout=30)


def export(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    for _ in service.ExportImages(pb.ExportImagesRequest(), timeout=60):
        pass


def bulk(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    def items() -> Iterator[pb.AddImagesRequest]:
        for number in range(30):
            content = picture(chance) if number % 10 else b"no image"
            request = pb.AddImageRequest(content=content)
            yield pb.AddImagesRequest(item_id=str(number), request=request)

    if len(ids) < IMAGES:
        for answer in service.AddImages(items(), timeout=60):
            if answer.HasField("response"):
                ids.append(answer.response.image.id)


def broken(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    content = picture(chance)
    service.AddImage(pb.AddImageRequest(content=content[: len(content) // 2]), timeout=30)


def give_up(service: ImageSearchServiceStub, ids: deque[str], chance: random.Random) -> None:
    request = pb.QueryImageRequest(content=picture(chance))
    service.QueryImage(request, timeout=chance.uniform(0.0005, 0.02))


def picture(chance: random.Random) -> bytes:
    out = BytesIO()
    Image.frombytes("RGB", (64, 48), chance.randbytes(64 * 48 * 3)).save(out, "PNG")
    return out.getvalue()


def sample(server: psutil.Process, health: HealthStub, start: float) -> tuple[Sample, bool]:
    asked = perf_counter()
    answer = health.Check(HealthCheckRequest(), timeout=30)
    health_ms = (perf_counter() - asked) * 1000
    processes = [server, *server.children(recursive=True)]
    resident, files, threads = [], 0, 0
    for process in processes:
        try:
            with process.oneshot():
                resident.append(process.memory_info().rss / 2**20)
                files += process.num_fds()
                threads += process.num_threads()
        except psutil.NoSuchProcess:  # a decoder that was replaced, or a graph's builder
            continue
    one = Sample(
        at_s=round(monotonic() - start, 2),
        server_mib=round(resident[0], 2),
        children_mib=round(sum(resident[1:]), 2),
        files=files,
        threads=threads,
        health_ms=round(health_ms, 2),
    )
    return one, answer.status == HealthCheckResponse.SERVING


def run(minutes: float, seed: int, data_dir: Path, interval_s: float = 1.0) -> Result:
    result = Result(minutes, seed)
    # The index gives back the room of what was deleted and replaced as often as that: several times
    # in a run, which else would show the rise between two of them.
    often = ("--index-optimize-after-points", "2000")
    with ServerProcess("--data-dir", str(data_dir), *often) as server:
        process = psutil.Process(server.process.pid)
        with grpc.insecure_channel(server.address) as channel, Load(server.address, seed) as load:
            health = HealthStub(channel)
            start = monotonic()
            while monotonic() - start < minutes * 60:
                one, is_healthy = sample(process, health, start)
                result.samples.append(one)
                result.was_unhealthy += not is_healthy
                sleep(interval_s)
        result.calls = dict(sorted(load.calls.items()))
    half = result.samples[len(result.samples) // 2 :]
    at = np.array([it.at_s for it in half]) / 60
    for name in ("server_mib", "children_mib", "files", "threads"):
        values = np.array([getattr(it, name) for it in half], float)
        result.slopes_per_minute[name] = round(float(np.polyfit(at, values, 1)[0]), 4)
    times_ms = [it.health_ms for it in result.samples]
    result.health_ms_p99 = round(float(np.quantile(times_ms, 0.99)), 2)
    return result


# The plot -----------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _GAP = 640, 130, 60, 34
_PANELS = (
    ("server, MiB resident", "server_mib"),
    ("index and decoders, MiB resident", "children_mib"),
    ("open files", "files"),
    ("threads", "threads"),
    ("health check, ms", "health_ms"),
)


def plot(result: Result) -> str:
    """An SVG with a panel for each thing that was sampled, from zero on."""
    height = (_HEIGHT + _GAP) * len(_PANELS) + _GAP
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f"<title>{result.minutes:g} minutes of mixed load</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    end_s = result.samples[-1].at_s or 1.0
    for number, (title, name) in enumerate(_PANELS):
        top = _GAP + number * (_HEIGHT + _GAP)
        values = [float(getattr(it, name)) for it in result.samples]
        high = max(values) * 1.1 or 1.0
        slope = result.slopes_per_minute.get(name)
        said = "" if slope is None else f"; second half: {slope:+.3f} a minute"
        points = " ".join(
            f"{_LEFT + (_WIDTH - _LEFT - 10) * it.at_s / end_s:.1f},"
            f"{top + _HEIGHT * (1 - value / high):.1f}"
            for it, value in zip(result.samples, values, strict=True)
        )
        bottom = top + _HEIGHT
        parts += [
            f'<text x="{_LEFT}" y="{top - 6}">{title}{said}</text>',
            f'<path d="M{_LEFT},{top}V{bottom}H{_WIDTH - 10}" fill="none" stroke="#888"/>',
            f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{high:.4g}</text>',
            f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
            f'<polyline points="{points}" fill="none" stroke="#2563a8" stroke-width="1.2"/>',
        ]
    minutes = f"{end_s / 60:.1f} min"
    parts += [
        f'<text x="{_WIDTH - 10}" y="{height - 8}" text-anchor="end">{minutes}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data_dir:
        result = run(arguments.minutes, arguments.seed, Path(data_dir))
    facts = machine() | asdict(result)
    facts["samples"] = {
        it.name: [getattr(sample, it.name) for sample in result.samples] for it in fields(Sample)
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "soak.json").write_text(json.dumps(facts) + "\n")
    (arguments.out / "soak.svg").write_text(plot(result))
    del facts["samples"]
    print(json.dumps(facts, indent=2))
    for failure in result.failures:
        print(f"failed: {failure}")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
