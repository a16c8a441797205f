"""SIGTERM under load, over and over: no call that was under way may fail.

    .venv-dev/bin/python bench/drain.py [--rounds 100] [--seed 1] [--out FILE]

Each round starts a server, has callers in processes of their own load it (QueryText, AddImage,
streams of AddImages, an idle connection, a watcher of its health), and sends SIGTERM at a random
moment. A call is under way if its caller had begun it, over a connection that was made, by the time
at which SIGTERM was sent, and each of these must be answered; later ones are refused, with
UNAVAILABLE and nothing else. The server must exit with 0 within its grace, and say NOT_SERVING.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from measuring import RESULTS, machine
from PIL import Image

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.testing import ServerProcess

GRACE_S = 10.0
PROCESSES = 3
CALLERS = 4  # of each kind, in each process
STREAM_ITEMS = 20
# What exiting takes after the last call: closing the index and the processes of the decoder.
CLOSING_S = 3.0


@dataclass(slots=True)
class Call:
    """A call as its caller saw it; times by the machine's monotonic clock."""

    kind: str
    began_at: float
    outcome: str


@dataclass(slots=True)
class Report:
    rounds: int
    seed: int
    answered: int = 0  # calls that were begun before SIGTERM
    refused: int = 0  # calls that came later
    exit_s_worst: float = 0.0
    failed: list[str] = field(default_factory=list)


def run(
    rounds: int,
    seed: int,
    folder: Path,
    *,
    processes: int = PROCESSES,
    say: Callable[[str], None] = print,
) -> Report:
    chance, report = random.Random(seed), Report(rounds, seed)
    for number in range(1, rounds + 1):
        one_round(folder / str(number), processes, chance.uniform(0.1, 1.0), report)
        say(f"round {number}: {report.answered} answered, {len(report.failed)} failed")
    return report


def one_round(folder: Path, processes: int, terminate_after_s: float, report: Report) -> None:
    with ServerProcess("--data-dir", str(folder), "--grace-s", str(GRACE_S)) as server:
        watcher = Watcher(server.address)
        callers = [
            subprocess.Popen(
                [sys.executable, __file__, "--load", server.address, "--seed", str(number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(processes)
        ]
        for caller in callers:
            assert caller.stdout is not None
            if not caller.stdout.readline():
                raise RuntimeError("a process of callers ended early")
        with grpc.insecure_channel(server.address) as idle:
            ImageSearchServiceStub(idle).GetServerInfo(pb.GetServerInfoRequest())
            sleep(terminate_after_s)
            sent_at = monotonic()
            code = server.stop()
            exit_s = monotonic() - sent_at
        calls: list[Call] = []
        for caller in callers:
            said, _ = caller.communicate(timeout=90)
            calls += [Call(**call) for call in json.loads(said)]
        told = watcher.finish()
    judge(calls, sent_at, code, exit_s, told, report)


def judge(
    calls: list[Call], sent_at: float, code: int, exit_s: float, told: list[int], report: Report
) -> None:
    wrong: Counter[str] = Counter()
    for call in calls:
        if call.outcome == "OK":
            report.answered += call.began_at < sent_at
        elif call.began_at < sent_at:
            wrong[f"{call.kind} under way: {call.outcome}"] += 1
        elif call.outcome.startswith("UNAVAILABLE"):
            report.refused += 1
        else:
            wrong[f"{call.kind} refused with {call.outcome}"] += 1
    if code != 0:
        wrong[f"exit code {code}"] += 1
    if exit_s > GRACE_S + CLOSING_S:
        wrong[f"exit after {exit_s:.1f} s"] += 1
    if told[-1:] != [HealthCheckResponse.NOT_SERVING]:
        wrong[f"health was told as {told}"] += 1
    report.exit_s_worst = max(report.exit_s_worst, exit_s)
    report.failed += [f"{count} x {what}" for what, count in wrong.items()]


class Watcher:
    """Watches a server's health until it ends the stream."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stream = HealthStub(self._channel).Watch(HealthCheckRequest())
        self._told: list[int] = []
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def finish(self) -> list[int]:
        self._thread.join(30)
        self._channel.close()
        return self._told

    def _watch(self) -> None:
        try:
            self._told += [answer.status for answer in self._stream]
        except grpc.RpcError as error:
            self._told.append(-error.code().value[0])  # type: ignore[attr-defined]


def load(address: str, seed: int) -> None:
    """Loads a server until it refuses; prints a line when it begins, then what became of each
    call."""
    calls: list[Call] = []
    kinds = [query, add, stream] * CALLERS
    ready = threading.Barrier(len(kinds) + 1)
    threads = [
        threading.Thread(target=call_on, args=(address, kind, seed * 100 + n, ready, calls))
        for n, kind in enumerate(kinds)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps([asdict(call) for call in calls]))


def call_on(
    address: str,
    kind: Callable[[ImageSearchServiceStub, random.Random], str],
    seed: int,
    ready: threading.Barrier,
    calls: list[Call],
) -> None:
    chance = random.Random(seed)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        grpc.channel_ready_future(channel).result(10)
        ready.wait()
        service = ImageSearchServiceStub(channel)
        while True:
            began_at = monotonic()
            outcome = outcome_of(kind, service, chance)
            calls.append(Call(kind.__name__, began_at, outcome))
            if outcome.startswith("UNAVAILABLE"):
                return


def outcome_of(
    kind: Callable[[ImageSearchServiceStub, random.Random], str],
    service: ImageSearchServiceStub,
    chance: random.Random,
) -> str:
    try:
        return kind(service, chance)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"  # type: ignore[attr-defined]


def query(service: ImageSearchServiceStub, chance: random.Random) -> str:
    service.QueryText(pb.QueryTextRequest(text=f"picture {chance.random()}"), timeout=60)
    return "OK"


def add(service: ImageSearchServiceStub, chance: random.Random) -> str:
    service.AddImage(pb.AddImageRequest(content=picture(chance)), timeout=60)
    return "OK"


def stream(service: ImageSearchServiceStub, chance: random.Random) -> str:
    """A stream that takes a while: its items come one after the other."""

    def items() -> Iterator[pb.AddImagesRequest]:
        for number in range(STREAM_ITEMS):
            request = pb.AddImageRequest(content=picture(chance))
            yield pb.AddImagesRequest(item_id=str(number), request=request)
            sleep(0.02)

    answers = list(service.AddImages(items(), timeout=60))
    errors = [answer.error.message for answer in answers if answer.HasField("error")]
    if errors or len(answers) != STREAM_ITEMS:
        return f"BROKEN {len(answers)} answers, {errors[:1]}"
    return "OK"


def picture(chance: random.Random) -> bytes:
    out = BytesIO()
    Image.frombytes("RGB", (8, 8), chance.randbytes(192)).save(out, "PNG")
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "drain.json")
    parser.add_argument("--load", help=argparse.SUPPRESS)  # a process of callers
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load, arguments.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = run(arguments.rounds, arguments.seed, Path(folder))
    result = json.dumps(machine() | asdict(report), indent=2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(result + "\n")
    print(result)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
