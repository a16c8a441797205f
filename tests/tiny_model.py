"""A model folder that is written at once: a model of few dimensions, which means nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clipsearch_server.settings import DEMO_MODEL_DIR

FINGERPRINT = "7" * 64
DIM = 8
SIZE_PX = 32


def write_tiny_model(folder: Path) -> Path:
    """Writes a folder as the exporter would, with the demo model's tokenizer.

    An image's embedding is a projection of its mean colour; a text's, of the mean of its token ids
    and of their number.
    """
    card = json.loads((DEMO_MODEL_DIR / "model_card.json").read_text())
    text, vision = folder / "clip_text", folder / "clip_vision"
    for tower in (text, vision):
        (tower / "1").mkdir(parents=True)
    shutil.copyfile(DEMO_MODEL_DIR / "clip_text" / "tokenizer.json", text / "tokenizer.json")
    tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])
    shape = ["n", 3, SIZE_PX, SIZE_PX]
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.UINT8, shape)
    _save(text / "1" / "model.onnx", tokens, "text_embeds", mean_over=[1], features=1)
    _save(vision / "1" / "model.onnx", pixels, "image_embeds", mean_over=[2, 3], features=3)
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in card["files"]
        if name != "canary.npz"
    }
    changes = {
        "model_id": "tests/tiny",
        "fingerprint": FINGERPRINT,
        "embedding_dim": DIM,
        "image_size_px": SIZE_PX,
        "resize_px": SIZE_PX,
        "files": files,
    }
    (folder / "model_card.json").write_text(json.dumps(card | changes))
    return folder


def _save(
    file: Path, given: onnx.ValueInfoProto, output: str, *, mean_over: list[int], features: int
) -> None:
    """Writes the graph normalise(mean(input) @ weights + bias)."""
    random = np.random.default_rng(features)
    constants = {
        "axes": np.array(mean_over, np.int64),
        "last": np.array([-1], np.int64),
        "weights": random.standard_normal((features, DIM)).astype(np.float32) / 255,
        "bias": random.standard_normal(DIM).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", [given.name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=int(features == 1)),
        helper.make_node("MatMul", ["mean", "weights"], ["projected"]),
        helper.make_node("Add", ["projected", "bias"], ["sum"]),
        helper.make_node("ReduceL2", ["sum", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["sum", "norm"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [given],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", DIM])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"clipsearch.fingerprint": FINGERPRINT})
    onnx.save(model, str(file))
