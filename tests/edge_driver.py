"""Writes to an index and has it optimised over and over, until it is killed (test_edge_crash.py).

Prints a line for what happened: ``ready``, ``<worker> <steps>`` when a worker's steps so far are
acknowledged, ``stage <name>`` when optimising comes to a stage.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np

from clipsearch_server.indexes.edge import rebuild
from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.ports import CollectionSpec, StoredImage
from edge_indexes import an_edge_index

DIM = 32
WORKERS = 4
IDS = 200  # of each worker: so many that what a switch loses is not soon written again
# Of a worker after each write. Those that never rest take the cores from what copies and builds;
# as it is, there is always somebody who writes during a switch, which takes longer.
PAUSE_S = 0.005
BORN = datetime(2026, 1, 1, tzinfo=UTC)


def open_index(data_dir: Path, **options: float) -> AbstractAsyncContextManager[EdgeIndex]:
    spec = CollectionSpec(model_id="test", fingerprint="0" * 64, embedding_dim=DIM)
    return an_edge_index(data_dir, spec, **options)


def image_id(worker: int, step: int) -> UUID:
    return UUID(int=(worker << 64) + step % IDS)


def image(worker: int, step: int) -> StoredImage:
    return StoredImage(
        id=image_id(worker, step),
        url="",
        uri="",
        metadata={"step": step},
        sha256=f"{worker:032x}{step:032x}",
        media_type="image/png",
        width_px=1,
        height_px=1,
        size_bytes=1,
        create_time=BORN,
        update_time=BORN,
    )


def embedding(worker: int, step: int) -> np.ndarray:
    vector = np.random.default_rng((worker, step)).standard_normal((1, DIM)).astype(np.float32)
    return vector / np.linalg.norm(vector)


def state_after(worker: int, steps: int) -> dict[UUID, int]:
    """id -> the step that wrote it: what a worker's first steps leave. Every seventh deletes."""
    state: dict[UUID, int] = {}
    for step in range(steps):
        if step % 7 == 6:
            state.pop(image_id(worker, step), None)
        else:
            state[image_id(worker, step)] = step
    return state


async def work(index: EdgeIndex, worker: int, step: int) -> None:
    while True:
        if step % 7 == 6:
            await index.delete([image_id(worker, step)])
        else:
            await index.upsert([image(worker, step)], embedding(worker, step))
        step += 1
        say(worker, step)
        await asyncio.sleep(PAUSE_S)


async def optimize(index: EdgeIndex) -> None:
    while True:
        await index.optimize()


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class StagePrinter(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say("stage", record.getMessage().split(": ")[-1].split()[0])


async def main(data_dir: Path, steps: list[int]) -> None:
    rebuild._NICE = 0  # its builder would wait for every other test's work
    log = logging.getLogger("clipsearch_server.indexes.edge.rebuild")
    log.setLevel(logging.INFO)
    log.addHandler(StagePrinter())
    async with open_index(data_dir) as index:
        say("ready")
        async with asyncio.TaskGroup() as group:
            group.create_task(optimize(index))
            for worker in range(WORKERS):
                group.create_task(work(index, worker, steps[worker]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
