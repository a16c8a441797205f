"""The server on the real tritonserver binary: the same answers, and every way in which it can fail.

The models run in Triton's python backend, on the very ONNX files that the embedded encoder reads.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from tritonclient.grpc import InferenceServerClient

from clipsearch import (
    AddItem,
    DeadlineExceededError,
    SearchClient,
    SearchError,
    UnavailableError,
)
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.encoders.batching import BatchingEncoder
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.encoders.triton import TritonEncoder
from clipsearch_server.errors import ModelOutputInvalid, Overloaded
from clipsearch_server.model import open_model_folder
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess, TritonProcess

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".triton"
EXPORTER = ROOT / "export" / "clipsearch_export"
PICTURES = ROOT / "demo" / "pictures"
WAIT_S = 60.0  # for what takes two seconds, where it is not the time that was promised
# reliability.md, rows 34 and 35, and the time in which a neighbour that is back must be found.
NOTICED_S = RECOVERED_S = 3.0  # docs/health.md says 2 s; one more for busy cores

pytestmark = [
    pytest.mark.skipif(
        not (HOME / "ready").exists(), reason="needs tritonserver: make .triton/ready"
    ),
    pytest.mark.skipif(
        find_spec("torch") is None,
        reason="the exporter needs torch",
    ),
]


@pytest.fixture(scope="module")
def models(pytestconfig: pytest.Config) -> Path:
    """The demo model with what the exporter writes beside it for the python backend. Kept for the
    next run of the same code and model: importing the exporter takes as long as several tests."""
    sources = sorted(path for folder in (EXPORTER, DEMO_MODEL_DIR) for path in folder.rglob("*"))
    digest = hashlib.sha256()
    for file in sources:
        if file.is_file() and file.suffix != ".pyc":
            digest.update(file.read_bytes())
    cache: pytest.Cache = pytestconfig.cache  # type: ignore[assignment]
    folder = cache.mkdir("triton_models") / digest.hexdigest()
    if not folder.exists():
        new = folder.with_suffix(f".{os.getpid()}")
        shutil.copytree(DEMO_MODEL_DIR, new, dirs_exist_ok=True)
        write_for_triton(new)
        new.rename(folder)
    return folder


def write_for_triton(folder: Path) -> None:
    from clipsearch_export.card import ModelCard
    from clipsearch_export.checkpoint import load_checkpoint
    from clipsearch_export.choices import DEMO, Backend, Precision
    from clipsearch_export.triton import write_triton_files

    checkpoint = load_checkpoint(DEMO)
    card = ModelCard.of(checkpoint, Precision.FP32)
    write_triton_files(folder, card, checkpoint.model, Backend.PYTHON)


@pytest.fixture(scope="module")
def triton(models: Path) -> Iterator[TritonProcess]:
    with TritonProcess(HOME, models) as process:
        yield process
    process.release()


@contextmanager
def server_on(triton: TritonProcess, models: Path, folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess(
        *("--encoder-backend", "triton", "--triton-address", triton.reserved_address),
        *("--triton-timeout-s", "5", "--model-dir", str(models), "--data-dir", str(folder)),
    ) as server:
        yield server


def health(server: ServerProcess, name: str = "encoder") -> int:
    with grpc.insecure_channel(server.address) as channel:
        status = HealthStub(channel).Check(HealthCheckRequest(service=name), timeout=5).status
    return int(status)


def wait_for_health(server: ServerProcess, wanted: int, within_s: float = WAIT_S) -> None:
    """Returns once it is told; fails if that takes longer."""
    start = monotonic()
    while health(server) != wanted or health(server, "") != wanted:
        assert monotonic() - start < within_s, "health was not told in time"
        sleep(0.05)


def items(count: int) -> list[AddItem]:
    files = [path for path in sorted(PICTURES.iterdir()) if path.suffix in {".png", ".webp"}]
    return [AddItem(item_id=path.name, content=path.read_bytes()) for path in files[:count]]


def test_it_finds_the_same_images_with_the_same_scores(
    triton: TritonProcess, models: Path, tmp_path: Path
) -> None:
    queries = ("a black cat", "heavy rain", "slice of pizza", "x" * 500)
    found = []
    with (
        server_on(triton, models, tmp_path / "triton") as on_triton,
        ServerProcess("--data-dir", str(tmp_path / "embedded")) as embedded,
    ):
        for server in (on_triton, embedded):
            with SearchClient(server.address) as client:
                assert all(result.error is None for result in client.add_images(items(200)))
                found.append(
                    [
                        (hit.image.id, hit.score)
                        for text in queries
                        for hit in client.query_text(text, limit=20).hits
                    ]
                )
        with SearchClient(on_triton.address) as client:
            assert client.server_info().encoder.startswith("triton 2.")
    ids, scores = zip(*found[0], strict=True)
    expected_ids, expected_scores = zip(*found[1], strict=True)
    assert ids == expected_ids
    assert scores == pytest.approx(expected_scores, abs=1e-4)


async def test_texts_of_mixed_length_are_batched(triton: TritonProcess, models: Path) -> None:
    model = await asyncio.to_thread(open_model_folder, models)
    random = np.random.default_rng(0)
    texts = [random.integers(0, 8000, (1, length)) for length in random.integers(3, 32, 64)]
    for ids in texts:
        ids[0, -1] = model.card.end_token_id
    async with (
        TritonEncoder(model.card, address=triton.address, timeout_s=30) as triton_encoder,
        BatchingEncoder(
            triton_encoder,
            pad_token_id=model.card.end_token_id,
            max_batch=16,
            max_image_batch=16,
            max_waiting=64,
            concurrency=8,
        ) as encoder,
        OnnxEncoder(model) as reference,
    ):
        before = await asyncio.to_thread(executions, triton.address)
        embeddings = await asyncio.gather(*(encoder.encode_text(ids) for ids in texts))
        for ids, embedding in zip(texts, embeddings, strict=True):
            assert np.abs(embedding - await reference.encode_text(ids)).max() < 1e-5
    end = time.monotonic() + 60
    while True:  # Triton counts a request some time after it has answered
        after = await asyncio.to_thread(executions, triton.address)
        embedded, batches = np.subtract(after, before)
        if embedded == 64:
            break
        assert embedded < 64
        assert time.monotonic() < end
    assert batches <= 16


def executions(address: str) -> tuple[int, int]:
    """How many texts Triton has embedded, and in how many batches."""
    with InferenceServerClient(address) as client:
        (statistics,) = client.get_inference_statistics("clip_text").model_stats
    return statistics.inference_count, statistics.execution_count


@pytest.mark.by_the_clock
def test_row_34_a_triton_that_comes_late_is_found(models: Path, tmp_path: Path) -> None:
    triton = TritonProcess(HOME, models)
    with (
        server_on(triton, models, tmp_path) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        service = ImageSearchServiceStub(channel)
        assert health(server) == HealthCheckResponse.NOT_SERVING
        assert health(server, "index") == HealthCheckResponse.SERVING
        assert outcome(service, 0) == "MODEL_UNAVAILABLE"
        with triton:
            wait_for_health(server, HealthCheckResponse.SERVING, RECOVERED_S)
            assert outcome(service, 0) == "OK"
    triton.release()


def test_row_34_a_triton_that_is_killed_under_load(models: Path, tmp_path: Path) -> None:
    triton = TritonProcess(HOME, models)
    with (
        server_on(triton, models, tmp_path) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        service = ImageSearchServiceStub(channel)
        with triton, ThreadPoolExecutor(8) as callers:
            wait_for_health(server, HealthCheckResponse.SERVING)
            calls = [callers.submit(outcome, service, number) for number in range(400)]
            calls[50].result()
            triton.kill()
            outcomes = {call.result() for call in calls}
        assert outcomes == {"OK", "MODEL_UNAVAILABLE"}
        wait_for_health(server, HealthCheckResponse.NOT_SERVING)
        with triton:
            wait_for_health(server, HealthCheckResponse.SERVING)
            assert outcome(service, 0) == "OK"
    triton.release()


def outcome(service: ImageSearchServiceStub, number: int) -> str:
    """What became of a query that is not repeated: OK, or the reason why it failed."""
    try:
        service.QueryText(pb.QueryTextRequest(text=f"picture {number}"), timeout=30)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        assert status.code == code_pb2.UNAVAILABLE
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        return str(info.reason)
    return "OK"


@pytest.mark.by_the_clock
def test_row_35_a_triton_that_hangs(models: Path, tmp_path: Path) -> None:
    triton = TritonProcess(HOME, models)
    with (
        triton,
        server_on(triton, models, tmp_path) as server,
        grpc.insecure_channel(server.address) as channel,
        SearchClient(server.address) as client,
    ):
        service = ImageSearchServiceStub(channel)
        wait_for_health(server, HealthCheckResponse.SERVING, RECOVERED_S)
        triton.pause()
        try:
            with pytest.raises(SearchError) as caught:
                client.query_text("a cat", timeout_s=0.5)
            assert isinstance(caught.value, DeadlineExceededError | UnavailableError)
            wait_for_health(server, HealthCheckResponse.NOT_SERVING, NOTICED_S)
            assert outcome(service, 0) == "MODEL_UNAVAILABLE"
        finally:
            triton.resume()
        wait_for_health(server, HealthCheckResponse.SERVING, RECOVERED_S)
        assert outcome(service, 0) == "OK"
    triton.release()


@dataclass(frozen=True, slots=True)
class Reloadable:
    """A Triton whose models a test changes, and which are mended again; and a server on it."""

    triton: TritonProcess
    models: Path
    server: ServerProcess

    @contextmanager
    def changed(self, texts: Mapping[str, str]) -> Iterator[None]:
        """What Triton runs is what these files of one model say now, instead of its own."""
        (model,) = {name.partition("/")[0] for name in texts}
        originals = {name: (self.models / name).read_text() for name in texts}
        try:
            self._load(model, texts)
            yield
        finally:
            self._load(model, originals)

    def _load(self, model: str, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            (self.models / name).write_text(text)
        with InferenceServerClient(self.triton.address) as client:
            client.load_model(model)


@pytest.fixture(scope="module")
def reloadable(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloadable]:
    folder = tmp_path_factory.mktemp("reloadable")
    own = shutil.copytree(models, folder / "models")
    with TritonProcess(HOME, own) as triton, server_on(triton, models, folder) as server:
        yield Reloadable(triton, own, server)
    triton.release()


def test_row_38_another_model_behind_the_same_name(reloadable: Reloadable, models: Path) -> None:
    config = (models / "clip_text" / "config.pbtxt").read_text()
    card = open_model_folder(models).card
    server = reloadable.server
    wait_for_health(server, HealthCheckResponse.SERVING)
    with grpc.insecure_channel(server.address) as channel:
        service = ImageSearchServiceStub(channel)
        other = config.replace(card.fingerprint, "0" * 64)
        with reloadable.changed({"clip_text/config.pbtxt": other}):
            wait_for_health(server, HealthCheckResponse.NOT_SERVING)
            assert outcome(service, 38) == "MODEL_UNAVAILABLE"
            assert "clip_text is clipsearch/demo (000000000000)" in server.log
            assert card.fingerprint[:12] in server.log
        wait_for_health(server, HealthCheckResponse.SERVING)
        assert outcome(service, 38) == "OK"


WRONG = """
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            given = np.from_dlpack(triton.get_input_tensor_by_name(request, "input_ids"))
            rows = np.random.default_rng(7).standard_normal((len(given), 256)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            output = triton.Tensor.from_dlpack("text_embeds", rows)
            answers.append(triton.InferenceResponse([output]))
        return answers
"""


def test_other_weights_behind_the_right_card(reloadable: Reloadable) -> None:
    """Nothing but what it answers tells that this is another model."""
    server = reloadable.server
    wait_for_health(server, HealthCheckResponse.SERVING)
    with grpc.insecure_channel(server.address) as channel:
        service = ImageSearchServiceStub(channel)
        with reloadable.changed({"clip_text/1/model.py": WRONG}):
            wait_for_health(server, HealthCheckResponse.NOT_SERVING)
            assert health(server, "index") == HealthCheckResponse.SERVING
            assert outcome(service, 39) == "MODEL_UNAVAILABLE"  # for what is not remembered
        wait_for_health(server, HealthCheckResponse.SERVING)
        assert outcome(service, 39) == "OK"


SPOILT = """
import numpy as np
import time
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        {first}
        rows = [len(np.from_dlpack(triton.get_input_tensor_by_name(r, "pixel_values")))
                for r in requests]
        return [
            triton.InferenceResponse([triton.Tensor.from_dlpack(
                "image_embeds", np.full((n, 256), np.nan, np.float32))])
            for n in rows
        ]
"""


def test_row_37_an_embedding_of_nan_is_never_stored(reloadable: Reloadable) -> None:
    server = reloadable.server
    wait_for_health(server, HealthCheckResponse.SERVING)
    with (
        reloadable.changed({"clip_vision/1/model.py": SPOILT.format(first="pass")}),
        SearchClient(server.address) as client,
    ):
        wait_for_health(server, HealthCheckResponse.NOT_SERVING)
        client.query_text("a cat", timeout_s=5)  # the other tower is well
        for result in client.add_images(items(5)):
            assert result.error is not None
            assert result.error.reason == "MODEL_OUTPUT_INVALID"
            assert "nan" not in str(result.error).lower()
        assert client.server_info().collections[0].image_count == 0
        assert "not of unit length" in server.log
    wait_for_health(server, HealthCheckResponse.SERVING)


async def test_row_36_a_full_queue_is_an_overload(reloadable: Reloadable, models: Path) -> None:
    config = (models / "clip_vision" / "config.pbtxt").read_text()
    for setting, value in (("max_queue_size: 512", 1), ("batch_size: 64", 1)):
        assert setting in config
        config = config.replace(setting, f"{setting.partition(':')[0]}: {value}")
    slow = SPOILT.format(first="time.sleep(0.3)")
    change = reloadable.changed(
        {"clip_vision/config.pbtxt": config, "clip_vision/1/model.py": slow}
    )
    card = (await asyncio.to_thread(open_model_folder, models)).card
    await asyncio.to_thread(change.__enter__)
    try:
        async with TritonEncoder(card, address=reloadable.triton.address, timeout_s=10) as encoder:
            pixels = np.zeros((1, 3, 64, 64), np.uint8)
            answers = await asyncio.gather(
                *(encoder.encode_image(pixels) for _ in range(8)), return_exceptions=True
            )
            await encoder.health()
    finally:
        await asyncio.to_thread(change.__exit__, None, None, None)
    kinds = {type(answer) for answer in answers}
    assert Overloaded in kinds
    assert kinds == {Overloaded, ModelOutputInvalid}  # those that got through are NaN
