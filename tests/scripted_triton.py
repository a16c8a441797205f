"""A Triton of tests: NVIDIA's own gRPC service, whose answers a test writes.

What it cannot say is whether the real one answers so; tests/integration/test_triton.py does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from clipsearch_server.model import CARD_NAME, TEXT_MODEL, VISION_MODEL, ModelCard
from clipsearch_server.settings import DEMO_MODEL_DIR

CARD = ModelCard(
    format_version=1,
    model_id="test/model",
    fingerprint="ab" * 32,
    precision="fp32",
    embedding_dim=4,
    image_size_px=8,
    resize_px=8,
    resample="bicubic",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    max_tokens=77,
    start_token_id=0,
    end_token_id=9,
    files={},
)

Infer = Callable[["pb.ModelInferRequest", Any], Awaitable["pb.ModelInferResponse"]]


class ScriptedTriton(GRPCInferenceServiceServicer):  # type: ignore[misc]  # has no types
    """Serves both towers as ``card`` says; answers inference with ``infer``, which tests replace.

    ``requests`` holds every inference, ``cancelled`` is set when a caller gave one up, and
    ``arrived`` counts those that came. Not counted, and always answered, are inputs that are in
    ``canaries``.
    """

    def __init__(self) -> None:
        self.card: dict[str, Any] = {"fingerprint": CARD.fingerprint, "model_id": CARD.model_id}
        self.embedding_dim = CARD.embedding_dim
        self.image_size_px = CARD.image_size_px
        self.text_type = "INT64"
        self.max_batch_size = 16
        self.infer: Infer = self.first_axis
        self.metadata_gate = asyncio.Event()  # what it is is told once this is set
        self.metadata_gate.set()
        self.canaries: set[bytes] = set()
        self.requests: list[Any] = []
        self.deadlines_s: list[float] = []
        self.cancelled = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="triton", version="1.2.3")

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        await self.metadata_gate.wait()
        tensor = pb.ModelMetadataResponse.TensorMetadata
        if request.name == TEXT_MODEL:
            inputs = tensor(name="input_ids", datatype=self.text_type, shape=[-1, -1])
            output = "text_embeds"
        else:
            size = self.image_size_px
            inputs = tensor(name="pixel_values", datatype="UINT8", shape=[-1, 3, size, size])
            output = "image_embeds"
        outputs = tensor(name=output, datatype="FP32", shape=[-1, self.embedding_dim])
        return pb.ModelMetadataResponse(name=request.name, inputs=[inputs], outputs=[outputs])

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        response = pb.ModelConfigResponse()
        response.config.name = request.name
        response.config.max_batch_size = self.max_batch_size
        if self.card:
            response.config.parameters["model_card"].string_value = json.dumps(self.card)
        return response

    def spare_what_has_come(self) -> None:
        """Takes what has been asked until now, which was a server's health alone, for canaries."""
        self.canaries = {request.raw_input_contents[0] for request in self.requests}
        self.requests.clear()
        self.deadlines_s.clear()
        self.arrived = asyncio.Semaphore(0)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        if request.raw_input_contents[0] in self.canaries:
            return await self.first_axis(request, context)
        self.requests.append(request)
        self.deadlines_s.append(context.time_remaining())
        self.arrived.release()
        try:
            return await self.infer(request, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def first_axis(self, request: Any, context: Any) -> Any:
        """Each row's embedding is the first axis."""
        rows = np.zeros((request.inputs[0].shape[0], self.embedding_dim), np.float32)
        rows[:, 0] = 1
        return answer(request, rows)

    async def never(self, request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    def failing(self, code: grpc.StatusCode, message: str) -> Infer:
        async def fail(request: Any, context: Any) -> Any:
            await context.abort(code, message)

        return fail


def write_model_folder(folder: Path) -> Path:
    """Writes what a server needs of the model that is served here: the card, with the demo model's
    tokenizer. Returns the folder."""
    tokenizer = f"{TEXT_MODEL}/tokenizer.json"
    contents = {tokenizer: (DEMO_MODEL_DIR / tokenizer).read_bytes()}
    for tower in (TEXT_MODEL, VISION_MODEL):
        contents[f"{tower}/1/model.onnx"] = b"which Triton runs"
    demo = json.loads((DEMO_MODEL_DIR / CARD_NAME).read_bytes())
    card = asdict(CARD) | {
        "files": {name: hashlib.sha256(it).hexdigest() for name, it in contents.items()},
        "start_token_id": demo["start_token_id"],
        "end_token_id": demo["end_token_id"],
    }
    for name, content in {**contents, CARD_NAME: json.dumps(card).encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def answer(request: Any, rows: Any, datatype: str = "FP32") -> Any:
    """A response with these rows as its only output."""
    output = "text_embeds" if request.model_name == TEXT_MODEL else "image_embeds"
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
    response.outputs.add(name=output, datatype=datatype, shape=rows.shape)
    response.raw_output_contents.append(rows.tobytes())
    return response


def tensor_of(request: Any) -> Any:
    """The request's only input as an array."""
    (tensor,) = request.inputs
    dtype = np.int64 if tensor.datatype == "INT64" else np.uint8
    return np.frombuffer(request.raw_input_contents[0], dtype).reshape(tuple(tensor.shape))


@asynccontextmanager
async def serving(
    triton: ScriptedTriton,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[str]:
    """Serves on loopback; yields the address."""
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(triton, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
