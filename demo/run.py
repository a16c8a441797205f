"""`make demo`: adds the sample pictures to a real server, and finds some by describing them.

Everything goes through the gRPC service, the ONNX encoders and the vector engine that users get.
The server runs as a process of its own on a free port, with its data under ``build/demo``. With
``--triton`` (`make demo ENCODER=triton`) a real Triton, started here too, runs the model.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clipsearch import AddItem, QueryResult, SearchClient
from clipsearch.cli.sheet import write_sheet
from clipsearch_server.testing import ServerProcess, TritonProcess

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "demo" / "pictures"
BUILD = ROOT / "build" / "demo"

QUERIES = (
    "a black cat",
    "heavy rain",
    "slice of pizza",
    "happy birthday",
    "someone crying",
    "a red car",
    "something to eat with soup",
    "a place to sleep",
)
HITS = 5

console = Console(highlight=False)


def main(triton: tuple[Path, Path] | None) -> int:
    start = perf_counter()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    options = ["--data-dir", str(BUILD / "data")]
    with ExitStack() as stack:
        if triton:
            home, models = triton
            running = TritonProcess(home, models, log_file=BUILD / "triton.log")
            address = stack.enter_context(running).address
            options += ["--encoder-backend", "triton", "--triton-address", address]
            options += ["--model-dir", str(models)]
        server = stack.enter_context(ServerProcess(*options, log_file=BUILD / "server.log"))
        client = stack.enter_context(SearchClient(server.address))
        started_s = perf_counter() - start
        info = client.server_info()
        console.print(
            f"server at {server.address}: model {info.model.id}, {info.encoder}, {info.index}",
            style="dim",
        )
        added, add_s = add_pictures(client)
        results = {}
        for query in QUERIES:
            results[query] = client.query_text(query, limit=HITS)
            show(query, results[query])
        console.print(timings(results, added, started_s, add_s))
    failed = added == 0 or any(not result.hits for result in results.values())
    console.print(f"contact sheets: {BUILD.relative_to(ROOT)}/*.png")
    return 1 if failed else 0


def add_pictures(client: SearchClient) -> tuple[int, float]:
    """Adds the sample pictures over one stream; returns how many, and the seconds it took."""
    with (PICTURES / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def items() -> Iterator[AddItem]:
        for row in rows:
            path = PICTURES / row["file"]
            yield AddItem(
                item_id=row["file"],
                content=path.read_bytes(),
                uri=path.as_uri(),
                metadata={"name": row["name"]},
            )

    start = perf_counter()
    added = 0
    with Progress(
        TextColumn("adding pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("add", total=len(rows))
        for result in client.add_images(items()):
            if result.error is None:
                added += 1
            else:
                progress.console.print(f"{result.item_id}: {result.error}", style="red")
            progress.advance(task)
    return added, perf_counter() - start


def show(query: str, result: QueryResult) -> None:
    """Prints the hits of a query as a table, and writes them as a contact sheet."""
    table = Table(title=f'"{query}"', title_justify="left", title_style="bold", box=SIMPLE)
    table.add_column("#", justify="right", style="dim")
    table.add_column("score", justify="right")
    table.add_column("picture", min_width=len(query))
    for rank, hit in enumerate(result.hits, start=1):
        table.add_row(str(rank), f"{hit.score:.3f}", str(hit.image.metadata["name"]))
    console.print(table)
    write_sheet(BUILD / f"{query.replace(' ', '-')}.png", query, result.hits)


def timings(results: dict[str, QueryResult], added: int, started_s: float, add_s: float) -> Table:
    table = Table(
        title="timings on this machine", title_justify="left", title_style="bold", box=SIMPLE
    )
    table.add_column("step")
    table.add_column("time", justify="right")
    table.add_row("start the server", f"{started_s:.1f} s")
    table.add_row(f"add {added} pictures", f"{add_s:.1f} s ({added / add_s:.0f} a second)")
    for stage in ("tokenise", "embed", "search", "total"):
        times = [result.timings_ms[stage] for result in results.values()]
        table.add_row(f"a query: {stage}", f"{median(times):.2f} ms")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Adds the sample pictures, and finds some.")
    parser.add_argument(
        "--triton",
        nargs=2,
        type=Path,
        metavar=("HOME", "MODELS"),
        help="run the model folder MODELS on the Triton installed in HOME",
    )
    sys.exit(main(parser.parse_args().triton))
