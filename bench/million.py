"""QueryText with a million images stored, held against a hundred thousand, and what is found.

    .venv-dev/bin/python bench/million.py build --model-dir FOLDER     # an hour, and 5 GB; goes on
    .venv-dev/bin/python bench/million.py measure --model-dir FOLDER   # bench/results/million.json

``build`` stores synthetic embeddings (clip_like.py) by the server's own embedded index, in a
collection of each size, and has it build their search graphs; and ranks by going through all of
them what is to be found. The model only lends its name, so one of random weights does.

``measure`` starts a server for each --ef (``index.hnsw_ef``) that serves both collections. One
caller asks it a new QueryText, by turns of one and the other, so that what else the machine does
disturbs both alike; then, as random weights send all texts to one corner, QueryImage by the ids of
stored images, which lead anywhere and need no encoder. A figure is the median of the rounds'
medians, the ratio that of the rounds' ratios. Recall@10 is of 1,000 texts and 1,000 pictures of
clip_like.py, asked of the same shards by the server's own class.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias
from uuid import UUID

import ann
import measuring
import numpy as np
from clip_like import BLOCK, ClipLike
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clipsearch import QueryResult, SearchClient
from clipsearch_server.indexes.edge.folder import CollectionFolder
from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.indexes.edge.shard import Shard
from clipsearch_server.indexes.edge.store import EdgeStore
from clipsearch_server.model import ModelCard, open_model_folder
from clipsearch_server.paging import WINDOWS
from clipsearch_server.ports import CollectionSpec, NearestQuery
from clipsearch_server.settings.indexes import IndexSettings
from clipsearch_server.testing import ServerProcess

Json: TypeAlias = dict[str, Any]

COLLECTIONS = {100_000: "images-100k", 1_000_000: "images-1m"}  # by the images in each
DEFAULT_EF = IndexSettings().hnsw_ef
RESULT = measuring.RESULTS / "million.json"
UPSERT = 1_000
UNTIMED = 200  # queries of each collection, for the kernel to have its pages

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=("build", "measure"))
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/ann"), help="as of ann.py")
    parser.add_argument("--ef", type=int, nargs="+", default=[DEFAULT_EF, 768, 3584])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queries", type=int, default=100, help="of each collection in a round")
    arguments = parser.parse_args()
    if arguments.stage == "build":
        for points in COLLECTIONS:
            rank(arguments.work, points)
        asyncio.run(build(data_dir(arguments.work), model(arguments)))
    else:
        measure(arguments)


def data_dir(work: Path) -> Path:
    return work / "served"


def model(arguments: argparse.Namespace) -> ModelCard:
    return open_model_folder(arguments.model_dir).card


def truth(work: Path, points: int) -> Path:
    return work / str(points) / "truth" / "truth.npz"


def rank(work: Path, points: int) -> None:
    place = ann.Workplace(work / str(points), points)
    place.folder.mkdir(parents=True, exist_ok=True)
    place.once("truth", partial(ann.rank, place))


async def build(folder: Path, card: ModelCard) -> None:
    spec = CollectionSpec(
        model_id=card.model_id, fingerprint=card.fingerprint, embedding_dim=card.embedding_dim
    )
    async with EdgeStore(
        folder,
        default="images",
        spec=spec,
        optimize_after_points=10**9,  # when all are there
        hnsw_ef=DEFAULT_EF,
        max_in_flight=100,
        timeout_s=600,
    ) as store:
        for points, name in COLLECTIONS.items():
            if (folder / f"{name}.built").exists():
                continue
            if name not in await store.collections():
                await store.create(name, spec)
            index = await store.open(name)
            await fill(index, points)
            console.print(f"{name}: building the search graph")
            start = perf_counter()
            await index.optimize()
            console.print(f"{name}: {perf_counter() - start:.0f} s")
            (folder / f"{name}.built").touch()


async def fill(index: EdgeIndex, points: int) -> None:
    """Goes on where it was cut off: a block that is half there is stored again."""
    world = ClipLike()
    done = await index.count() // BLOCK
    for block in track(range(done, points // BLOCK), f"storing {points:,}"):
        embeddings = world.images(block)
        for first in range(0, BLOCK, UPSERT):
            start = block * BLOCK + first
            images = [
                measuring.stored_image(number, UUID(int=number))
                for number in range(start, start + UPSERT)
            ]
            await index.upsert(images, embeddings[first : first + UPSERT])


def measure(arguments: argparse.Namespace) -> None:
    rows = []
    for ef in arguments.ef:
        found = {name: recall(arguments.work, points, ef) for points, name in COLLECTIONS.items()}
        console.print(f"hnsw_ef {ef}: recall@10", found)
        rounds = ask(ef, arguments)
        rows.append({"hnsw_ef": ef, "recall": found, **summary(rounds), "rounds": rounds})
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": ann.machine(),
        **measuring.machine(),
        "model": model(arguments).model_id,
        "queries": arguments.queries,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    show(rows)


def recall(work: Path, points: int, ef: int) -> dict[str, float]:
    """In a process of its own, as the server's index has one."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(_recall, work, points, ef).result()


def _recall(work: Path, points: int, ef: int) -> dict[str, float]:
    with np.load(truth(work, points)) as known:
        queries, nearest = known["queries"], known["nearest"]
    folder = CollectionFolder(data_dir(work) / "collections" / COLLECTIONS[points])
    shard = Shard.open(folder.current())
    right = []
    for query, wanted in zip(queries, nearest, strict=True):
        asked = NearestQuery(embedding=query, limit=WINDOWS[0])
        (hits,) = shard.search(shard.convert_queries([asked], ef), [None])
        right.append(len({hit.int for hit, _ in hits[: ann.LIMIT]} & set(wanted.tolist())))
    shard.close()
    texts, pictures = np.array(right).reshape(2, ann.QUERIES).mean(axis=1) / ann.LIMIT
    return {"texts": float(texts), "pictures": float(pictures)}


def ask(ef: int, arguments: argparse.Namespace) -> list[Json]:
    """Returns what each round's queries took in the middle, in milliseconds."""
    options = ["--data-dir", str(data_dir(arguments.work))]
    options += ["--model-dir", str(arguments.model_dir), "--index-hnsw-ef", str(ef)]
    seed = random.Random(1)
    with ServerProcess(*options) as server, SearchClient(server.address) as client:
        for name in COLLECTIONS.values():  # which are opened after the default one
            client.list_page(page_size=1, collection=name, timeout_s=600)
        one_round(client, UNTIMED, seed)
        return [
            one_round(client, arguments.queries, seed)
            for _ in track(range(arguments.rounds), f"hnsw_ef {ef}")
        ]


def one_round(client: SearchClient, queries: int, seed: random.Random) -> Json:
    def text(points: int) -> QueryResult:
        numbers = " ".join(f"{seed.randrange(1000):03}" for _ in range(2))
        return client.query_text(f"a picture of {numbers}", collection=COLLECTIONS[points])

    def picture(points: int) -> QueryResult:
        image_id = str(UUID(int=seed.randrange(points)))
        return client.query_image(id=image_id, collection=COLLECTIONS[points])

    result: Json = {"load": os.getloadavg()[0]}
    for kind, query in (("text", text), ("picture", picture)):
        times: dict[str, list[float]] = {name: [] for name in COLLECTIONS.values()}
        searches: dict[str, list[float]] = {name: [] for name in COLLECTIONS.values()}
        for _ in range(queries):
            for points, name in COLLECTIONS.items():
                start = perf_counter()
                answer = query(points)
                times[name].append((perf_counter() - start) * 1000)
                searches[name].append(answer.timings_ms["search"])
        for name in COLLECTIONS.values():
            result[f"{kind} {name}"] = median(times[name])
            result[f"{kind} {name} search"] = median(searches[name])
        few, many = (median(some) for some in times.values())
        result[f"{kind} ratio"] = many / few
    return result


def summary(rounds: list[Json]) -> Json:
    return {key: median(it[key] for it in rounds) for key in rounds[0]}


def show(rows: list[Json]) -> None:
    names = list(COLLECTIONS.values())
    table = Table(title=f"QueryText, one caller, {names[0]} and {names[1]}, {os.cpu_count()} cores")
    for column in (
        "hnsw_ef",
        "recall@10, texts",
        "pictures",
        "p50 ms",
        "ratio",
        "its search",
        "search by id",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["hnsw_ef"]),
            *(
                ", ".join(f"{row['recall'][name][kind]:.3f}" for name in names)
                for kind in ("texts", "pictures")
            ),
            ", ".join(f"{row[f'text {name}']:.1f}" for name in names),
            f"{row['text ratio']:.2f}",
            ", ".join(f"{row[f'text {name} search']:.1f}" for name in names),
            ", ".join(f"{row[f'picture {name} search']:.1f}" for name in names),
        )
    console.print(table)


if __name__ == "__main__":
    main()
