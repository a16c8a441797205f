"""What a round measures, and who takes part."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TypeAlias

from fairness import leave_the_cores_to_others

from clipsearch import SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.testing import LoggedProcess, ServerProcess
from speed import load, targets
from speed.contestants import bare, empty, infinity, pytorch
from speed.contestants.server import serving
from speed.model import PRECISIONS, Model
from speed.processes import Worker, awake, sleep, wake
from speed.targets import BARE, INFINITY, PYTORCH, SERVER
from speed.workload import Captions, photographs, tokenizer_of

STORED = 10_000  # images, of random embeddings, before anything is asked
CALLERS = 32
TOKENS = 12  # of the texts of the single caller
SCHEDULED_RATE = 20.0  # queries a second in the open loop

Step: TypeAlias = Callable[[], dict[str, float]]
Told: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 1.5  # of each rate, in each turn
    scheduled_s: float = 6.0  # of each half of queries beside an ingest
    images: dict[str, int] = field(default_factory=lambda: {"fp32": 32, "int8-dynamic": 64})


QUICK = Plan(rounds=2, seconds=0.8, scheduled_s=2.5, images={"fp32": 16, "int8-dynamic": 32})


class Measures:
    """All that is measured, each in a process of its own that sleeps until its turn."""

    def __init__(
        self,
        stack: ExitStack,
        model: Model,
        plan: Plan,
        infinity_home: Path | None,
        build: Path,
        tell: Told,
    ) -> None:
        self._plan = plan
        self._captions = Captions(tokenizer_of(model.exported["fp32"]), seed=1)
        self._images = count(start=1000, step=1000)  # the first of each thousand new ones
        self.notes: list[str] = []

        tell("starting all contestants")
        workers = [stack.enter_context(Worker()) for _ in range(4)]
        self._generator, self._loader, self._bare, self._pytorch = workers
        ready = [
            self._generator.start(photographs, 0, 1),  # makes them all
            self._loader.start(photographs, 0, 1),
            self._loader.start(leave_the_cores_to_others),  # it stands for another machine
            *(self._bare.start(bare.open_encoder, model.exported[it]) for it in PRECISIONS),
            self._pytorch.start(pytorch.open_model, model.checkpoint, STORED),
            self._pytorch.start(pytorch.image_rate, 0, 2),
        ]
        with ThreadPoolExecutor() as threads:
            servers = {
                precision: threads.submit(
                    stack.enter_context, serving(model.exported[precision], stored=STORED)
                )
                for precision in PRECISIONS
            }
            peer = infinity_home and threads.submit(
                stack.enter_context,
                infinity.InfinityProcess(
                    infinity_home,
                    model.checkpoint,
                    port=_free_port(),
                    log_file=build / "infinity.log",
                ),
            )
            for it in ready:
                it.result()
        self._servers = {precision: server.result() for precision, server in servers.items()}
        self._infinity = peer.result() if peer else None
        if self._infinity is not None:
            self._infinity_texts(seconds=1.0)
            self._infinity_images(8)
            self._sleeps(stack, self._infinity.process.pid)
        for server in self._servers.values():
            self._add_images(server, 8)
            self._sleeps(stack, server.process.pid)
        self._sleeps(stack, self._pytorch.pid)
        self._repeated, answer_bytes = self._repeated_query()
        self._empty = stack.enter_context(_empty_server(answer_bytes))
        self._sleeps(stack, self._empty.process.pid)
        self._batches = {}
        for precision in PRECISIONS:
            tell(f"looking for the bare encoder's best batches, {precision}")
            self._batches[precision] = self._best_batches(precision)
        self._sleeps(stack, self._bare.pid)

    def turns(self) -> list[tuple[str, Step]]:
        """What a round does there and back."""
        steps: list[tuple[str, Step]] = []
        for precision in PRECISIONS:
            steps += [
                (f"bare encoder, texts, {precision}", partial(self._bare_texts, precision)),
                (f"server, texts, {precision}", partial(self._server_texts, precision)),
                (f"bare encoder, images, {precision}", partial(self._bare_images, precision)),
                (f"server, images, {precision}", partial(self._server_images, precision)),
            ]
        steps.append(("transformers on PyTorch", self._pytorch_rates))
        if self._infinity is not None:
            steps.append(("infinity_emb", self._infinity_rates))
        steps.append(("repeated queries and empty calls", self._repeated_rates))
        return steps

    def beside_ingest(self) -> dict[str, float]:
        """What a round does once, as it looks at the slowest."""
        server, seconds = self._servers["fp32"], self._plan.scheduled_s
        with awake(server.process.pid):
            idle_ms = self._query_on_schedule(server, seconds)
            loading = self._loader.start(
                load.add_for, server.address, next(self._images), seconds + 2
            )
            self._query_on_schedule(server, 1.0)  # until the load is there
            loaded_ms = self._query_on_schedule(server, seconds)
            rate = loading.result()
        return {
            targets.IDLE_P99: idle_ms,
            targets.LOADED_P99: loaded_ms,
            "server fp32: images/s of that ingest": rate,
        }

    def _bare_texts(self, precision: str) -> dict[str, float]:
        seconds, (batch, _) = self._plan.seconds, self._batches[precision]
        with awake(self._bare.pid):
            alike = self._captions.take(400, tokens=TOKENS)
            times_ms = self._bare.call(bare.text_ms, precision, alike, seconds / 2)
            texts = self._captions.take(2000)
            rate = self._bare.call(bare.text_rate, precision, texts, batch, seconds)
        return {
            targets.text_p50(BARE, precision): median(times_ms),
            targets.texts(BARE, precision): rate,
        }

    def _server_texts(self, precision: str) -> dict[str, float]:
        seconds, server = self._plan.seconds, self._servers[precision]
        alike, texts = self._captions.take(2000, tokens=TOKENS), self._captions.take(8000)
        with awake(server.process.pid):
            alone = self._generator.call(
                load.query_texts, server.address, alike, callers=1, seconds=seconds / 2
            )
            together = self._generator.call(
                load.query_texts, server.address, texts, callers=CALLERS, seconds=seconds
            )
        return {
            targets.text_p50(SERVER, precision): alone.percentile(50),
            targets.texts(SERVER, precision): together.rate,
            f"{SERVER} {precision}: ms of a text, p50, 32 callers": together.percentile(50),
            f"{SERVER} {precision}: ms of a text, p99, 32 callers": together.percentile(99),
            f"load generator: share of a core, texts, {precision}": together.cpu_s / seconds,
        }

    def _bare_images(self, precision: str) -> dict[str, float]:
        (_, batch), number = self._batches[precision], self._plan.images[precision]
        with awake(self._bare.pid):
            rate = self._bare.call(bare.image_rate, precision, number, batch)
        return {targets.images(BARE, precision): rate}

    def _server_images(self, precision: str) -> dict[str, float]:
        server = self._servers[precision]
        with awake(server.process.pid):
            rate = self._add_images(server, self._plan.images[precision])
        return {targets.images(SERVER, precision): rate}

    def _pytorch_rates(self) -> dict[str, float]:
        with awake(self._pytorch.pid):
            texts = self._captions.take(500)
            text_rate = self._pytorch.call(pytorch.text_rate, texts, self._plan.seconds)
            number = self._plan.images["fp32"] // 2
            image_rate = self._pytorch.call(pytorch.image_rate, next(self._images), number)
        return {
            targets.texts(PYTORCH, "fp32"): text_rate,
            targets.images(PYTORCH, "fp32"): image_rate,
        }

    def _infinity_rates(self) -> dict[str, float]:
        assert self._infinity is not None
        with awake(self._infinity.process.pid):
            return {
                targets.texts(INFINITY, "fp32"): self._infinity_texts(self._plan.seconds),
                targets.images(INFINITY, "fp32"): self._infinity_images(self._plan.images["fp32"]),
            }

    def _repeated_rates(self) -> dict[str, float]:
        server = self._servers["fp32"]
        rates = {}
        for figure, process, method in (
            (targets.REPEATED, server, load.QUERY_TEXT),
            (targets.EMPTY, self._empty, empty.METHOD),
        ):
            with awake(process.process.pid):
                samples = self._generator.call(
                    load.repeat,
                    process.address,
                    method,
                    self._repeated,
                    callers=CALLERS,
                    seconds=self._plan.seconds,
                )
            rates[figure] = samples.rate
            rates[f"load generator: share of a core, {figure}"] = samples.cpu_s / samples.seconds
        return rates

    def _query_on_schedule(self, server: ServerProcess, seconds: float) -> float:
        texts = self._captions.take(round(SCHEDULED_RATE * seconds))
        return self._generator.call(
            load.query_on_schedule, server.address, texts, rate=SCHEDULED_RATE, seconds=seconds
        ).percentile(99)

    def _add_images(self, server: ServerProcess, number: int) -> float:
        return self._generator.call(load.add_images, server.address, next(self._images), number)

    def _infinity_texts(self, seconds: float) -> float:
        assert self._infinity is not None
        requests = infinity.text_requests(self._captions.take(4000))
        return self._generator.call(
            load.infinity_texts, self._infinity.address, requests, callers=CALLERS, seconds=seconds
        ).rate

    def _infinity_images(self, number: int) -> float:
        assert self._infinity is not None
        return self._generator.call(
            load.infinity_images,
            self._infinity.address,
            next(self._images),
            number,
            callers=CALLERS,
        )

    def _best_batches(self, precision: str) -> tuple[bare.Batching, bare.Batching]:
        """How the bare encoder is fastest, with texts and with images."""
        texts = self._captions.take(1000)
        text_rates = {
            batch: self._bare.call(bare.text_rate, precision, texts, batch, 0.7)
            for batch in bare.TEXT_BATCHES
        }
        image_rates = {
            batch: self._bare.call(
                bare.image_rate, precision, max(batch.rows * batch.at_a_time, 8), batch
            )
            for batch in bare.IMAGE_BATCHES
        }
        best = (
            max(text_rates, key=text_rates.__getitem__),
            max(image_rates, key=image_rates.__getitem__),
        )
        self.notes.append(
            f"The bare encoder is fastest with {best[0]} texts and {best[1]} images (batches at a "
            f"time, and rows of each), {precision}."
        )
        return best

    def _repeated_query(self) -> tuple[bytes, int]:
        """The query that is asked again and again, and the size of its answer."""
        (text,) = self._captions.take(1, tokens=TOKENS)
        request = pb.QueryTextRequest(text=text)
        server = self._servers["fp32"]
        with awake(server.process.pid), SearchClient(server.address) as client:
            hits = client.query_text(text).hits
            assert hits, "the server found nothing"
            answer = self._generator.call(load.answer_bytes, server.address, text)
        return request.SerializeToString(), answer

    @staticmethod
    def _sleeps(stack: ExitStack, pid: int) -> None:
        """From now on but for its turns. It is woken to be stopped."""
        sleep(pid)
        stack.callback(wake, pid)


@contextmanager
def _empty_server(answer_bytes: int) -> Iterator[LoggedProcess]:
    # The folders that this interpreter imports from are not all its own.
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "speed.contestants.empty", str(answer_bytes)]
    with LoggedProcess(command, ready=r"serving address=(\S+)", environment=environment) as server:
        yield server


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
