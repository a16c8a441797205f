"""Towers -> ONNX, by torch's exporter (the one on torch.export; the TorchScript one is
deprecated)."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from clipsearch_export.checkpoint import Checkpoint
from clipsearch_export.towers import TextTower, VisionTower
from clipsearch_export.weights import name_weights

# ONNX Runtime 1.19, which Triton 24.10 carries, refuses opset 22 and IR version 11.
OPSET = 18
MAX_IR_VERSION = 10
# Beyond this, weights go to a file beside the model's, which a runtime maps: it neither parses and
# copies them, nor holds those that it does not use, as most rows of the token embedding. Protobuf
# takes no message over 2 GiB anyway.
MAX_SINGLE_FILE_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class OnnxTowers:
    """Both towers of a checkpoint as ONNX models, their weights named after its parameters."""

    text: onnx.ModelProto
    vision: onnx.ModelProto


def export_towers(checkpoint: Checkpoint) -> OnnxTowers:
    """Exports both towers in the number format of the checkpoint's weights; inputs and outputs have
    the types that the towers' docstrings name, whatever the weights'.

    Batch and text length stay dynamic.
    """
    batch = Dim("n")
    # Between start and end token alone, and what the position embeddings allow.
    length = Dim("t", min=2, max=checkpoint.max_tokens)
    size = checkpoint.preprocessing.image_size_px
    text = _export(
        TextTower(checkpoint.model),
        # Not 1 and not the bounds: the exporter would take those for constants.
        torch.full((2, 3), checkpoint.end_token_id, dtype=torch.int64),
        "input_ids",
        "text_embeds",
        {0: batch, 1: length},
    )
    vision = _export(
        VisionTower(
            checkpoint.model,
            mean=checkpoint.preprocessing.image_mean,
            std=checkpoint.preprocessing.image_std,
        ),
        torch.zeros((2, 3, size, size), dtype=torch.uint8),
        "pixel_values",
        "image_embeds",
        {0: batch},
    )
    return OnnxTowers(text=text, vision=vision)


def _export(
    tower: nn.Module, example: Tensor, input_name: str, output_name: str, dynamic: dict[int, Dim]
) -> onnx.ModelProto:
    # It would warn of each torchvision operator that it cannot find; CLIP has none.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # Of torch's own use of its own deprecated names, while it copies the exported program.
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.simplefilter("ignore", category=DeprecationWarning)
        program = torch.onnx.export(
            tower.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
    assert program is not None  # None is the TorchScript exporter's answer
    model = program.model_proto
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    _strip_trace(model)
    _strip_weight_shapes(model)
    name_weights(model, tower.state_dict())
    return model


def _strip_trace(model: onnx.ModelProto) -> None:
    """Drops the exporter's notes on each node: stack traces of the machine that exported, which
    also make two exports of one checkpoint differ."""
    graph = model.graph
    noted: list[onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto] = [
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ]
    for item in noted:
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]


def _strip_weight_shapes(model: onnx.ModelProto) -> None:
    """Drops what the exporter notes of the weights' shapes, which they have themselves. ONNX
    Runtime transposes some of them when it quantises, and before 1.32 fails over the note."""
    graph = model.graph
    weights = {initializer.name for initializer in graph.initializer}
    noted = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(noted)


def save_onnx(
    model: onnx.ModelProto, file: Path, *, max_single_file_bytes: int = MAX_SINGLE_FILE_BYTES
) -> None:
    """Writes a model, in one file if its weights allow it; otherwise the weights go to the file
    with ``.data`` appended to the name. Creates the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = file.with_name(f"{file.name}.data")
    beside = weight_bytes(model) > max_single_file_bytes
    onnx.save(
        # onnx takes the weights that it writes to another file out of the model.
        copy.deepcopy(model) if beside else model,
        file,
        save_as_external_data=beside,
        location=weights.name,
    )
    if weights.exists():
        # For whoever may read the model: onnx leaves it to its owner alone.
        weights.chmod(file.stat().st_mode)


def weight_bytes(model: onnx.ModelProto) -> int:
    """The size of a model's weights."""
    return sum(len(initializer.raw_data) for initializer in model.graph.initializer)
