"""What the server does with far more queries than it can serve.

    .venv/bin/python bench/overload.py [--quick] [--calls 10000] [--option=--flag=value ...]

A server process with the demo model (or --model-dir) and 500 pictures, on this machine; the load
comes from --processes others, over raw gRPC without any retries, with a new text in each query, so
that no answer is remembered. Server and load share the cores: a second of the load's processor time
is one that the server lacks. That is so for the peak and for the overload alike, but more of it for
the overload, so the ratio errs to our disadvantage.

* Peak: the most OK answers a second that so and so many callers get who each ask again when they
  are answered; the best of several numbers of callers. Each has a connection of its own, up to 100
  as in the overload.
* Burst: all calls at once, over 1 connection and over 100, each with 30 s. Every answer is counted.
* Overload: ten times as many callers as the server admits, each of whom asks again when answered,
  and, when refused, after the pause that the server asks for. The OK answers a second, against the
  peak, are the goodput.

Meanwhile one more process asks for the server's health, every 20 ms, over a connection of its own;
and the server's resident memory is read every 50 ms. The table is printed, and written with all
that is needed to repeat it to bench/results/overload.json (but for --quick).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from measuring import RESULTS, fill, machine, percentile
from rich.console import Console
from rich.table import Table

from clipsearch import SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.settings import Settings
from clipsearch_server.testing import ServerProcess

RESULT = RESULTS / "overload.json"
STORED = 500
TIMEOUT_S = 30.0
HEALTH_EVERY_S = 0.02
START_S = 3.0  # for every process to connect; the first time, to be started too
PUSHBACK = "grpc-retry-pushback-ms"
QUERY_TEXT = "/clipsearch.v1.ImageSearchService/QueryText"
# Each its own connection: gRPC shares one between the channels of a process otherwise.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]

console = Console(highlight=False)


@dataclass
class Answers:
    """What came of calls: how many by code, and the milliseconds of those that were served."""

    codes: Counter[str] = field(default_factory=Counter)
    ok_ms: list[float] = field(default_factory=list)
    ok_at_s: list[float] = field(default_factory=list)  # after the beginning

    def __iadd__(self, other: Answers) -> Answers:
        self.codes += other.codes
        self.ok_ms += other.ok_ms
        self.ok_at_s += other.ok_at_s
        return self


@dataclass
class Phase:
    """A row of the table."""

    name: str
    seconds: float
    codes: dict[str, int]
    ok_per_s: float
    ok_p50_ms: float
    ok_p99_ms: float
    health_checks: int
    health_p50_ms: float
    health_p99_ms: float
    health_max_ms: float
    rss_before_mib: float
    rss_most_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000, help="of a burst")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each other measurement")
    parser.add_argument("--processes", type=int, default=2, help="that make the load")
    parser.add_argument("--seed", type=int, default=1, help="of the texts")
    parser.add_argument("--model-dir", help="model folder; default: the demo model")
    parser.add_argument("--option", action="append", default=[], help="of the server")
    parser.add_argument("--quick", action="store_true", help="a tenth of it; writes no file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.calls, arguments.seconds = arguments.calls // 10, 5.0
    need_files(20_000)
    options = list(arguments.option)
    if arguments.model_dir:
        options += ["--model-dir", arguments.model_dir]
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess("--data-dir", folder, *options) as server,
        # One more asks for the server's health.
        ProcessPoolExecutor(
            arguments.processes + 1, mp_context=multiprocessing.get_context("spawn")
        ) as pool,
    ):
        with SearchClient(server.address) as client:
            fill(client, STORED)
        bench = Bench(server, pool, arguments.processes, arguments.seed)
        phases = list(bench.phases(arguments.calls, arguments.seconds))
    report(phases, arguments, write=not arguments.quick)


class Bench:
    """Runs one measurement after the other."""

    def __init__(
        self, server: ServerProcess, pool: ProcessPoolExecutor, processes: int, seed: int
    ) -> None:
        self._server = server
        self._pool = pool
        self._processes = processes
        self._seeds = random.Random(seed)

    def phases(self, calls: int, seconds: float) -> Iterator[Phase]:
        admitted = Settings().admission.max_queries
        for callers in (16, 64, 256):
            yield self._measure(f"{callers} callers", min(callers, 100), seconds, callers)
        for channels in (1, 100):
            name = f"{calls:,} at once, {channels} connection{'s'[: channels - 1]}"
            yield self._measure(name, channels, None, calls)
        yield self._measure(f"{10 * admitted:,} callers", 100, seconds, 10 * admitted)

    def _measure(self, name: str, channels: int, seconds: float | None, callers: int) -> Phase:
        processes = min(self._processes, channels)
        start_at = time.time() + START_S
        with multiprocessing.get_context("spawn").Manager() as manager:
            stopped = manager.Event()
            health = self._pool.submit(check_health, self._server.address, start_at, stopped)
            with memory_of(self._server.process.pid) as rss_mib:
                loads: list[Future[tuple[Answers, float]]] = [
                    self._pool.submit(
                        load,
                        self._server.address,
                        part(channels, number, processes),
                        part(callers, number, processes),
                        seconds,
                        start_at,
                        self._seeds.randrange(2**32),
                    )
                    for number in range(processes)
                ]
                answers, lasted = Answers(), 0.0
                for answered, took in (it.result() for it in loads):
                    answers += answered
                    lasted = max(lasted, took)
            stopped.set()
            health_ms = health.result()
        ok = answers.ok_ms or [0.0, 0.0]
        return Phase(
            name=name,
            seconds=lasted,
            codes=dict(answers.codes),
            ok_per_s=ok_per_second(answers.ok_at_s, seconds, lasted),
            ok_p50_ms=percentile(ok, 50),
            ok_p99_ms=percentile(ok, 99),
            health_checks=len(health_ms),
            health_p50_ms=percentile(health_ms, 50),
            health_p99_ms=percentile(health_ms, 99),
            health_max_ms=max(health_ms),
            rss_before_mib=rss_mib[0],
            rss_most_mib=max(rss_mib),
        )


def load(
    address: str, channels: int, callers: int, seconds: float | None, start_at: float, seed: int
) -> tuple[Answers, float]:
    """In a process of its own: has callers ask once, or for so many seconds again and again.

    Returns what they were answered, and how long it took.
    """
    need_files(20_000)
    return asyncio.run(_load(address, channels, callers, seconds, start_at, seed))


async def _load(
    address: str, channels: int, callers: int, seconds: float | None, start_at: float, seed: int
) -> tuple[Answers, float]:
    texts = random.Random(seed)
    answers = Answers()
    begun = time.time()

    async def ask(method: Callable[..., grpc.aio.UnaryUnaryCall]) -> float:
        """Asks once. Returns the seconds to wait before asking again."""
        request = pb.QueryTextRequest(text=f"a picture of {texts.randrange(2**48):x}")
        start = time.perf_counter()
        call = method(request.SerializeToString(), timeout=TIMEOUT_S)
        code = await call.code()
        answers.codes[code.name] += 1
        if code is grpc.StatusCode.OK:
            answers.ok_ms.append((time.perf_counter() - start) * 1000)
            answers.ok_at_s.append(time.time() - begun)
            return 0.0
        trailers = dict(await call.trailing_metadata() or ())
        return int(trailers.get(PUSHBACK, 0)) / 1000

    async def ask_again(method: Callable[..., grpc.aio.UnaryUnaryCall], until: float) -> None:
        while time.time() < until:
            pause_s = await ask(method)
            await asyncio.sleep(min(pause_s, max(until - time.time(), 0)))

    opened = [grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) for _ in range(channels)]
    await asyncio.gather(*(channel.channel_ready() for channel in opened))
    methods = [channel.unary_unary(QUERY_TEXT) for channel in opened]
    await asyncio.sleep(start_at - time.time())
    begun = time.time()
    mine = [methods[number % channels] for number in range(callers)]
    if seconds is None:
        await asyncio.gather(*map(ask, mine))
    else:
        await asyncio.gather(*(ask_again(method, begun + seconds) for method in mine))
    took = time.time() - begun
    await asyncio.gather(*(channel.close() for channel in opened))
    return answers, took


def check_health(address: str, start_at: float, stopped: Event) -> list[float]:
    """In a process of its own: returns the milliseconds that each check took.

    Raises RuntimeError if the server does not say that it serves.
    """
    taken_ms = []
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest())
        time.sleep(max(start_at - time.time(), 0))
        while not stopped.wait(HEALTH_EVERY_S):
            start = time.perf_counter()
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            taken_ms.append((time.perf_counter() - start) * 1000)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                raise RuntimeError("the server says that it does not serve")
    return taken_ms


@contextmanager
def memory_of(pid: int) -> Iterator[list[float]]:
    """Yields a list that holds the MiB of a process, from before the block to its end."""
    sizes, stopped = [rss_mib(pid)], Event()

    def watch() -> None:
        while not stopped.wait(0.05):
            sizes.append(rss_mib(pid))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        stopped.set()
        thread.join()


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def need_files(count: int) -> None:
    """Raises the number of files that this process and its children may open, as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def ok_per_second(ok_at_s: Sequence[float], seconds: float | None, lasted: float) -> float:
    """Of a burst, over all of it; else over what comes after the first third, when all callers have
    begun, and before the end, when they go."""
    if seconds is None:
        return len(ok_at_s) / lasted
    counted = sum(seconds / 3 <= at_s <= seconds for at_s in ok_at_s)
    return counted / (seconds * 2 / 3)


def part(total: int, number: int, parts: int) -> int:
    return total // parts + (number < total % parts)


def report(phases: Sequence[Phase], arguments: argparse.Namespace, *, write: bool) -> None:
    table = Table(title=f"QueryText on {os.cpu_count()} cores, load included")
    for column in ("", "OK/s", "answers", "OK ms", "health ms", "MiB"):
        table.add_column(column, justify="right" if column else "left")
    for it in phases:
        table.add_row(
            it.name,
            f"{it.ok_per_s:.0f}",
            "\n".join(f"{count:,} {code}" for code, count in sorted(it.codes.items())),
            f"p50 {it.ok_p50_ms:.0f}\np99 {it.ok_p99_ms:.0f}",
            f"p50 {it.health_p50_ms:.0f}\np99 {it.health_p99_ms:.0f}\nmax {it.health_max_ms:.0f}",
            f"{it.rss_before_mib:.0f}\n+{it.rss_most_mib - it.rss_before_mib:.0f}",
        )
    console.print(table)
    overload = phases[-1]
    peak = max(it.ok_per_s for it in phases[:3])
    ratio = overload.ok_per_s / peak
    console.print(f"goodput with ten times the callers admitted: {ratio:.2f} of the peak")
    if not write:
        return
    result = {
        "seed": arguments.seed,
        **machine(),
        "arguments": {name: value for name, value in vars(arguments).items() if name != "quick"},
        "goodput_ratio": ratio,
        "phases": [asdict(it) for it in phases],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
