"""A second model that takes no export to make: the demo model, cut off after some dimensions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from clipsearch_server.model import CARD_NAME, TEXT_MODEL, VISION_MODEL
from clipsearch_server.settings import DEMO_MODEL_DIR

TOWERS = ((TEXT_MODEL, "text_embeds"), (VISION_MODEL, "image_embeds"))


def write_shorter_model(folder: Path, embedding_dim: int) -> Path:
    """Writes a model folder whose embeddings are the first numbers of the demo model's, of L2 norm
    1 again: it finds much the same with other scores. Returns the folder."""
    card: dict[str, Any] = json.loads((DEMO_MODEL_DIR / CARD_NAME).read_bytes())
    card["model_id"] = f"{card['model_id']}-{embedding_dim}"
    card["embedding_dim"] = embedding_dim
    card["fingerprint"] = hashlib.sha256(card["model_id"].encode()).hexdigest()
    tokenizer = f"{TEXT_MODEL}/tokenizer.json"
    contents = {tokenizer: (DEMO_MODEL_DIR / tokenizer).read_bytes()}
    for tower, output in TOWERS:
        name = f"{tower}/1/model.onnx"
        model = onnx.load(DEMO_MODEL_DIR / name)
        _cut_off(model.graph, output, embedding_dim)
        stored = {it.key: it.value for it in model.metadata_props}
        stored["clipsearch.fingerprint"] = card["fingerprint"]
        onnx.helper.set_model_props(model, stored)
        contents[name] = model.SerializeToString()
    card["files"] = {name: hashlib.sha256(it).hexdigest() for name, it in contents.items()}
    for name, content in {**contents, CARD_NAME: json.dumps(card).encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _cut_off(graph: onnx.GraphProto, output: str, embedding_dim: int) -> None:
    whole, cut = f"{output}_whole", f"{output}_cut"
    for node in graph.node:
        node.output[:] = [whole if it == output else it for it in node.output]
        node.input[:] = [whole if it == output else it for it in node.input]
    bounds = {"from": 0, "to": embedding_dim, "axis": -1}
    for name, value in bounds.items():
        array = np.array([value], np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{output}_{name}"))
    inputs = [whole, *(f"{output}_{name}" for name in bounds)]
    graph.node.append(onnx.helper.make_node("Slice", inputs, [cut]))
    graph.node.append(onnx.helper.make_node("LpNormalization", [cut], [output], axis=-1, p=2))
    (described,) = (it for it in graph.output if it.name == output)
    described.type.tensor_type.shape.dim[-1].dim_value = embedding_dim
