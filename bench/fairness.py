"""What somebody who searches feels of somebody who loads images as fast as the server takes them.

    .venv/bin/python bench/fairness.py [MODEL_FOLDER ...] [--option=--flag=value ...]

Without a folder: the demo model. `make bench` leaves exported models of random weights, and of
another size, in build/bench/model. A server process with 500 pictures; then, in turn and again in
each round: queries alone, and queries while a process of its own adds 640 x 480 JPEGs over one
stream. That process stands for another machine, so it takes only the cores' time that the server
leaves.
One caller asks one QueryText after the other (a new text each time) for --seconds, and then one
QueryImage after the other, every 50 ms. The ratio of a round's p99 to that of its idle half is what
counts; and the last column says what the queries cost the load: images/s alone, then beside them.

With Triton: start one that serves the folder, and give --option=--encoder-backend=triton and
--option=--triton-address=HOST:PORT.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from threading import Event

from measuring import RESULTS, fill, machine, percentile, photograph
from rich.console import Console
from rich.table import Table

from clipsearch import AddItem, SearchClient
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess

RESULT = RESULTS / "fairness.json"
STORED = 500
PAUSE_S = 0.05
VARIETY = 64  # pictures, each under many ids: their making must not slow the load down

console = Console(highlight=False)


@dataclass
class Round:
    """Milliseconds of queries alone and beside the load, and images a second of the load."""

    kind: str
    idle_p50_ms: float
    idle_p99_ms: float
    loaded_p50_ms: float
    loaded_p99_ms: float
    images_per_s: float
    alone_images_per_s: float

    @property
    def ratio(self) -> float:
        return self.loaded_p99_ms / self.idle_p99_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", help="default: the demo model")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of the texts")
    parser.add_argument("--option", action="append", default=[], help="of the server")
    parser.add_argument("--quick", action="store_true", help="one short round; writes no file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 4.0, 1
    results = {}
    for folder in arguments.models or [DEMO_MODEL_DIR]:
        name = json.loads((folder / "model_card.json").read_text())["model_id"]
        results[name] = measure(folder, name, arguments)
    if not arguments.quick:
        result = {
            "seed": arguments.seed,
            **machine(),
            "options": arguments.option,
            "seconds": arguments.seconds,
            "rounds": {name: [asdict(it) for it in rounds] for name, rounds in results.items()},
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, name: str, arguments: argparse.Namespace) -> list[Round]:
    options = ["--model-dir", str(folder), "--duplicates", "allow", *arguments.option]
    texts = random.Random(arguments.seed)
    numbers = count()
    rounds: list[Round] = []
    with (
        tempfile.TemporaryDirectory() as data_dir,
        ServerProcess("--data-dir", data_dir, *options) as server,
        SearchClient(server.address) as client,
        ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=leave_the_cores_to_others,
        ) as pool,
        multiprocessing.get_context("spawn").Manager() as manager,
    ):
        fill(client, STORED)

        def query_text() -> None:
            client.query_text(f"a picture of {texts.randrange(2**48):x}")

        def query_image() -> None:
            client.query_image(content=photograph(VARIETY + next(numbers)))

        def load(seconds: float, meanwhile: Callable[[], list[float]]) -> tuple[float, list[float]]:
            stopped = manager.Event()
            started = manager.Event()
            loading = pool.submit(add_images, server.address, started, stopped)
            started.wait()
            times_ms = meanwhile()
            stopped.set()
            return loading.result(), times_ms

        seconds = arguments.seconds
        for _ in range(arguments.rounds):
            alone, _none = load(seconds, lambda: [time.sleep(seconds) or 0.0])
            for kind, query in (("QueryText", query_text), ("QueryImage", query_image)):
                idle_ms = ask(query, seconds)
                rate, loaded_ms = load(seconds, lambda query=query: ask(query, seconds))
                rounds.append(
                    Round(
                        kind,
                        *(percentile(idle_ms, percent) for percent in (50, 99)),
                        *(percentile(loaded_ms, percent) for percent in (50, 99)),
                        images_per_s=rate,
                        alone_images_per_s=alone,
                    )
                )
    show(name, rounds)
    return rounds


def ask(query: Callable[[], None], seconds: float) -> list[float]:
    """Returns the milliseconds of one query after the other."""
    times_ms: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = time.perf_counter()
        query()
        times_ms.append((time.perf_counter() - start) * 1000)
        time.sleep(PAUSE_S)
    return times_ms


def leave_the_cores_to_others() -> None:
    """Linux may divide the cores among sessions first: sched(7), autogroup."""
    os.nice(19)
    os.setsid()
    with suppress(FileNotFoundError):
        Path("/proc/self/autogroup").write_text("19")


def add_images(address: str, started: Event, stopped: Event) -> float:
    """In a process of its own: adds images until it is stopped, and returns how many a second it
    got in, the first second left out."""
    contents = [photograph(number) for number in range(VARIETY)]
    seed = random.getrandbits(32)

    def items() -> Sequence[AddItem]:
        for number in count():
            if number % 16 == 0 and stopped.is_set():
                return
            # Another trailing byte is another content, so that each is decoded and embedded.
            content = contents[number % VARIETY] + f"{seed}-{number}".encode()
            yield AddItem(item_id=str(number), content=content)

    added, begun = 0, 0.0
    first = time.monotonic()
    with SearchClient(address) as client:
        for result in client.add_images(items()):
            if result.error:
                raise result.error
            if begun:
                added += 1
            elif time.monotonic() - first > 1:
                begun = time.monotonic()
                started.set()
        return added / (time.monotonic() - begun)


def show(name: str, rounds: Sequence[Round]) -> None:
    table = Table(title=f"{name} on {os.cpu_count()} cores")
    for column in ("", "idle p50, p99 ms", "beside the load", "p99 ratio", "images/s"):
        table.add_column(column, justify="right" if column else "left")
    for it in rounds:
        table.add_row(
            it.kind,
            f"{it.idle_p50_ms:.1f}, {it.idle_p99_ms:.1f}",
            f"{it.loaded_p50_ms:.1f}, {it.loaded_p99_ms:.1f}",
            f"{it.ratio:.2f}",
            f"{it.alone_images_per_s:.0f}, {it.images_per_s:.0f}",
        )
    console.print(table)
    for kind in ("QueryText", "QueryImage"):
        ratio = median(it.ratio for it in rounds if it.kind == kind)
        console.print(f"{kind}: p99 {ratio:.2f} times its idle value (median of the rounds)")


if __name__ == "__main__":
    main()
