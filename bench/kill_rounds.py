"""SIGKILL in the middle of adding, replacing and deleting, over and over, against an oracle.

    .venv-dev/bin/python bench/kill_rounds.py [--rounds 200] [--seed 1] [--out FILE]

Each round starts a server on the same folder, compares all that it holds with what its callers were
told, has three callers work on it (a stream of AddImages; AddImage with request ids; replacing and
deleting what is there), and kills it, with every process of its own, after a random number of
acknowledgements. The oracle is the callers' log: what was acknowledged, and what was sent and may
or may not have been done. Checked is that nothing acknowledged is lost, nothing is there twice or
that nobody sent, and every image has its own id, metadata and embedding; and that repeating a call
without an answer stores the image once, under the id that it had.

Pictures are of few colours, so that every embedding is known beforehand, and of one content each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter
from uuid import UUID, uuid5

import grpc
import numpy as np
from measuring import RESULTS, machine
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipsearch import SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.image import decode_image
from clipsearch_server.model import open_model_folder
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess

MAX_RESTART_S = 5.0
MAX_ACKNOWLEDGED = 60  # in a round
COLOURS = 32
DELETED = 0  # as a version
_NAMES = UUID("6f1f7b1e-0c64-4f10-9a39-5ad2a7f3a9c1")


class Broken(Exception):
    """A promise was not kept."""


@dataclass(slots=True)
class Known:
    """What is known of an image: the version that was acknowledged last, and those sent since."""

    acknowledged: int = DELETED
    open: set[int] = field(default_factory=set)
    newest: int = DELETED  # of all versions there were


class Oracle:
    """What the callers sent, and what they were told."""

    def __init__(self) -> None:
        self.images: dict[int, Known] = {}
        self.acknowledgements = 0
        self.kill: Callable[[], None] | None = None
        self._kill_at = 0
        self._lock = threading.Lock()

    def kill_after(self, acknowledgements: int, kill: Callable[[], None]) -> None:
        self.kill, self._kill_at = kill, self.acknowledgements + acknowledgements

    def new(self) -> int:
        with self._lock:
            number = len(self.images)
            self.images[number] = Known()
            return number

    def sent(self, number: int, version: int) -> None:
        with self._lock:
            known = self.images[number]
            known.open.add(version)
            known.newest = max(known.newest, version)

    def told(self, number: int, version: int) -> None:
        """Notes an acknowledgement: whatever was sent before is through."""
        with self._lock:
            known = self.images[number]
            known.acknowledged, known.open = version, set()
            self.acknowledgements += 1
            is_last = self.acknowledgements == self._kill_at and self.kill is not None
        if is_last and self.kill is not None:
            self.kill()

    def open_numbers(self) -> list[int]:
        return [number for number, known in self.images.items() if known.open]

    def settled_numbers(self) -> list[int]:
        """Those that were sent, and whose every call was answered."""
        with self._lock:
            images = self.images.items()
            return [it for it, known in images if known.newest != DELETED and not known.open]


@dataclass(frozen=True, slots=True)
class Palette:
    """The pictures, and what the model makes of them."""

    colours: list[tuple[int, int, int]]
    embeddings: np.ndarray  # (COLOURS, d)

    def content(self, number: int) -> bytes:
        note = PngInfo()
        note.add_text("number", str(number))
        stream = BytesIO()
        colour = self.colours[number % COLOURS]
        Image.new("RGB", (16, 16), colour).save(stream, "PNG", pnginfo=note)
        return stream.getvalue()


def make_palette(seed: int) -> Palette:
    chance = random.Random(seed)
    colours = [
        (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        for _ in range(COLOURS)
    ]
    palette = Palette(colours, np.zeros((COLOURS, 1)))
    model = open_model_folder(DEMO_MODEL_DIR)
    card = model.card

    async def embed() -> np.ndarray:
        pixels = [
            decode_image(
                palette.content(number),
                size_px=card.image_size_px,
                resize_px=card.resize_px,
                resample=card.resample,
                max_pixels=2**20,
            ).pixels
            for number in range(COLOURS)
        ]
        async with OnnxEncoder(model) as encoder:
            return await encoder.encode_image(np.stack(pixels))

    return Palette(colours, asyncio.run(embed()))


def image_id(number: int) -> str:
    return str(uuid5(_NAMES, f"image {number}"))


def add_request(palette: Palette, number: int, version: int) -> pb.AddImageRequest:
    request = pb.AddImageRequest(
        id=image_id(number),
        content=palette.content(number),
        uri=str(number),
        request_id=str(uuid5(_NAMES, f"request {number} {version}")),
    )
    request.metadata.update({"version": version})
    return request


# The callers -------------------------------------------------------------------------------------


def add_by_stream(service: ImageSearchServiceStub, oracle: Oracle, palette: Palette) -> None:
    """First what has no answer yet from before, then new ones."""
    again = oracle.open_numbers()[::2]
    places = threading.Semaphore(8)
    over = threading.Event()

    def items() -> Iterator[pb.AddImagesRequest]:
        while not over.is_set():
            if not places.acquire(timeout=0.5):
                continue
            number = again.pop() if again else oracle.new()
            version = version_to_send(oracle.images[number])
            oracle.sent(number, version)
            yield pb.AddImagesRequest(
                item_id=f"{number} {version}", request=add_request(palette, number, version)
            )

    try:
        for response in service.AddImages(items()):
            number, version = map(int, response.item_id.split())
            take(oracle, number, version, response.response, response.error)
            places.release()
    finally:
        over.set()


def add_one_by_one(service: ImageSearchServiceStub, oracle: Oracle, palette: Palette) -> None:
    again = oracle.open_numbers()[1::2]
    while True:
        number = again.pop() if again else oracle.new()
        version = version_to_send(oracle.images[number])
        oracle.sent(number, version)
        response = service.AddImage(add_request(palette, number, version), timeout=30)
        take(oracle, number, version, response)


def version_to_send(known: Known) -> int:
    """The one that has no answer yet, under its request id; else another."""
    unanswered = max(known.open, default=DELETED)
    return unanswered if unanswered != DELETED else known.newest + 1


def change(
    service: ImageSearchServiceStub, oracle: Oracle, palette: Palette, chance: random.Random
) -> None:
    """Replaces and deletes images that nobody else has under way."""
    numbers = oracle.settled_numbers()
    while numbers:
        number = numbers.pop(chance.randrange(len(numbers)))
        version = oracle.images[number].newest + 1
        if oracle.images[number].acknowledged != DELETED and chance.random() < 0.3:
            oracle.sent(number, DELETED)
            service.DeleteImage(pb.DeleteImageRequest(id=image_id(number)), timeout=30)
            oracle.told(number, DELETED)
        else:
            oracle.sent(number, version)
            response = service.AddImage(add_request(palette, number, version), timeout=30)
            take(oracle, number, version, response)


def take(
    oracle: Oracle, number: int, version: int, response: pb.AddImageResponse, error: object = None
) -> None:
    if error is not None and getattr(error, "code", 0):
        raise Broken(f"image {number} was refused: {error}")
    if response.image.id != image_id(number):
        raise Broken(f"image {number} got the id {response.image.id}")
    oracle.told(number, version)


# The checks --------------------------------------------------------------------------------------


def check(client: SearchClient, oracle: Oracle, palette: Palette) -> None:
    """Compares all that is stored with what the oracle knows, and settles what was open."""
    seen: Counter[str] = Counter()
    found: dict[int, int] = {}
    for stored in client.export_images():
        image = stored.image
        number, version = int(image.uri), int(str(image.metadata["version"]))
        seen[image.id] += 1
        if number not in oracle.images:
            raise Broken(f"image {number} was never sent")
        if image.id != image_id(number):
            raise Broken(f"image {number} is stored under {image.id}")
        if number in found:
            raise Broken(f"image {number} is stored twice")
        found[number] = version
        likeness = palette.embeddings @ np.asarray(stored.embedding, np.float32)
        if likeness[number % COLOURS] < 0.9999:
            raise Broken(f"image {number} has another embedding: {likeness[number % COLOURS]}")
    (collection,) = client.server_info().collections
    if collection.image_count != len(found):
        raise Broken(f"{collection.image_count} are counted, and {len(found)} stored")
    for number, known in oracle.images.items():
        version = found.get(number, DELETED)
        if version != known.acknowledged and version not in known.open:
            raise Broken(f"image {number} is of version {version}, expected {known}")
        # What is open stays so: it is repeated, whether it was done or not.
        known.acknowledged = version


# The rounds --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    rounds: int
    seed: int
    acknowledged: int = 0
    unknown_outcomes: int = 0
    unknown_and_done: int = 0
    images: int = 0
    restart_s_median: float = 0.0
    restart_s_worst: float = 0.0
    broken: str = ""


def run(rounds: int, seed: int, data_dir: Path, say: Callable[[str], None] = print) -> Report:
    """Raises Broken if a promise was not kept."""
    chance = random.Random(seed)
    palette, oracle, report = make_palette(seed), Oracle(), Report(rounds, seed)
    restarts_s: list[float] = []
    for round_ in range(1, rounds + 2):
        start = perf_counter()
        with ServerProcess("--data-dir", str(data_dir)) as server:
            restarts_s.append(perf_counter() - start)
            with SearchClient(server.address) as client:
                before = {
                    number: set(oracle.images[number].open) for number in oracle.open_numbers()
                }
                check(client, oracle, palette)
                report.unknown_outcomes += len(before)
                report.unknown_and_done += sum(
                    oracle.images[number].acknowledged in versions
                    for number, versions in before.items()
                )
            if round_ > rounds:
                break
            oracle.kill_after(chance.randint(1, MAX_ACKNOWLEDGED), server.kill)
            work(server, oracle, palette, random.Random(chance.random()))
        say(f"round {round_}: {oracle.acknowledgements} acknowledged")
    report.acknowledged = oracle.acknowledgements
    report.images = sum(known.acknowledged != DELETED for known in oracle.images.values())
    report.restart_s_median, report.restart_s_worst = median(restarts_s), max(restarts_s)
    return report


def work(server: ServerProcess, oracle: Oracle, palette: Palette, chance: random.Random) -> None:
    """Has the callers work until the server is gone."""
    failures: list[BaseException] = []

    def caller(do: Callable[[ImageSearchServiceStub], None]) -> threading.Thread:
        def call() -> None:
            try:
                with grpc.insecure_channel(
                    server.address, options=[("grpc.use_local_subchannel_pool", 1)]
                ) as channel:
                    do(ImageSearchServiceStub(channel))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:  # type: ignore[attr-defined]
                    failures.append(error)
                    server.kill()
            except Exception as error:
                failures.append(error)
                server.kill()

        return threading.Thread(target=call)

    callers = [
        caller(lambda service: add_by_stream(service, oracle, palette)),
        caller(lambda service: add_one_by_one(service, oracle, palette)),
        caller(lambda service: change(service, oracle, palette, chance)),
    ]
    for it in callers:
        it.start()
    for it in callers:
        it.join()
    if failures:
        raise failures[0]


@contextmanager
def a_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-dir", type=Path, help="kept at the end; default: a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS / "kill_rounds.json")
    arguments = parser.parse_args()
    with a_folder(arguments.data_dir) as data_dir:
        try:
            report = run(arguments.rounds, arguments.seed, data_dir)
        except Broken as error:
            report = Report(arguments.rounds, arguments.seed, broken=str(error))
    if report.restart_s_median > MAX_RESTART_S:
        report.broken = "restarts take too long"
    result = machine() | asdict(report)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
