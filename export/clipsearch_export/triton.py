"""What Triton needs beside the ONNX files: the configuration of each model, and, for builds of
Triton without the onnxruntime backend, the code that runs the same files in its python backend."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPModel

from clipsearch_export.card import ModelCard
from clipsearch_export.choices import Backend

TEXT_MODEL = "clip_text"
VISION_MODEL = "clip_vision"

_MAX_BATCH_SIZE = 64
# Texts are padded to one of these lengths before they are sent (the server's encoders/batching.py),
# since Triton batches requests of equal shape alone. Warmed up, so that no caller is the first.
_LENGTH_BUCKETS = (8, 16, 32)

# Copied, never imported: it runs in Triton's process.
_PYTHON_MODEL = Path(__file__).with_name("triton_python_model.py")

_CONFIG = """\
# Written by `make export-models`; docs/triton.md says why, and what may be changed.
name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
input [ {{ name: "{input_name}" data_type: {input_type} dims: [ {input_dims} ] }} ]
output [ {{ name: "{output_name}" data_type: TYPE_FP32 dims: [ {embedding_dim} ] }} ]
version_policy {{ latest {{ num_versions: 1 }} }}
# One instance on each GPU, or on the CPU where there is none.
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
dynamic_batching {{
  max_queue_delay_microseconds: 100
  default_queue_policy {{
    max_queue_size: 512
    default_timeout_microseconds: 10000000
    allow_timeout_override: true
    timeout_action: REJECT
  }}
}}
response_cache {{ enable: false }}
model_warmup [
{warmup}
]
{parameters}
"""
_WARMUP = """\
  {{
    name: "{name}"
    batch_size: {batch_size}
    inputs {{
      key: "{input_name}"
      value {{ data_type: {input_type} dims: [ {dims} ] zero_data: true }}
    }}
  }}"""
_PARAMETER = 'parameters {{ key: "{key}" value {{ string_value: {value} }} }}'


@dataclass(frozen=True, slots=True)
class _Tower:
    name: str
    input_name: str
    input_type: str
    input_dims: str  # without the batch
    output_name: str
    warmups: tuple[tuple[int, str], ...]  # batch size, dims
    tokens: int  # of the longest text, or an image's patches and its class token


def write_triton_files(folder: Path, card: ModelCard, model: CLIPModel, backend: Backend) -> None:
    """Writes config.pbtxt beside the ``1/model.onnx`` of both towers, and the code of the backend
    if it has any."""
    for name in (TEXT_MODEL, VISION_MODEL):
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(
            triton_config(name, card, model, backend), encoding="ascii"
        )
        if backend is Backend.PYTHON:
            shutil.copyfile(_PYTHON_MODEL, version / "model.py")


def triton_config(name: str, card: ModelCard, model: CLIPModel, backend: Backend) -> str:
    """Returns the config.pbtxt of TEXT_MODEL or VISION_MODEL. Of ``model`` the sizes count, and not
    the weights."""
    tower = _text(card) if name == TEXT_MODEL else _vision(card, model)
    # A JSON string is a string of protobuf's text format: the card is ASCII.
    parameters = {"model_card": json.dumps(card.to_json())}
    if backend is Backend.ONNXRUNTIME:
        # The arena that ONNX Runtime takes GPU memory from never gives any back, so it is bounded,
        # grows by what is needed instead of doubling, and is as large as it gets after the warm-up.
        # (memory.enable_memory_arena_shrinkage would fail every request on a machine without a
        # GPU.) These keys count here and not among the execution accelerators' parameters: the
        # backend overwrites those with its defaults as soon as a model has any parameters.
        parameters |= {
            "gpu_mem_limit": f'"{_gpu_bytes(tower, model)}"',
            "arena_extend_strategy": '"1"',  # kSameAsRequested
            # Heuristic: the default tries out every algorithm for each new batch size.
            "cudnn_conv_algo_search": '"1"',
        }
    return _CONFIG.format(
        name=name,
        backend=backend.value,
        max_batch_size=_MAX_BATCH_SIZE,
        input_name=tower.input_name,
        input_type=tower.input_type,
        input_dims=tower.input_dims,
        output_name=tower.output_name,
        embedding_dim=card.embedding_dim,
        warmup=",\n".join(
            _WARMUP.format(
                name=f"{batch_size} of {dims}",
                batch_size=batch_size,
                input_name=tower.input_name,
                input_type=tower.input_type,
                dims=dims,
            )
            for batch_size, dims in tower.warmups
        ),
        parameters="\n".join(
            _PARAMETER.format(key=key, value=value) for key, value in parameters.items()
        ),
    )


def _text(card: ModelCard) -> _Tower:
    lengths = [length for length in _LENGTH_BUCKETS if length < card.max_tokens]
    return _Tower(
        name=TEXT_MODEL,
        input_name="input_ids",
        input_type="TYPE_INT64",
        input_dims="-1",
        output_name="text_embeds",
        warmups=(
            *((1, str(length)) for length in (*lengths, card.max_tokens)),
            (_MAX_BATCH_SIZE, str(card.max_tokens)),
        ),
        tokens=card.max_tokens,
    )


def _vision(card: ModelCard, model: CLIPModel) -> _Tower:
    config: Any = model.config.vision_config  # typed as if it could be missing
    dims = f"3, {card.image_size_px}, {card.image_size_px}"
    return _Tower(
        name=VISION_MODEL,
        input_name="pixel_values",
        input_type="TYPE_UINT8",
        input_dims=dims,
        output_name="image_embeds",
        warmups=((1, dims), (_MAX_BATCH_SIZE, dims)),
        tokens=(card.image_size_px // config.patch_size) ** 2 + 1,
    )


def _gpu_bytes(tower: _Tower, model: CLIPModel) -> int:
    """The most that a tower may take of a GPU's memory: a bound, not what it takes.

    Weights in float32 twice (once while they are copied), the buffers of the widest layer and of
    attention at the largest batch, and half a gigabyte for the libraries' workspaces. On a CPU,
    ONNX Runtime held 4.5 of the widest buffers, and 8 are allowed (ViT-B/32, 64 texts of 77 tokens:
    183 MiB; 64 images: 169 MiB).
    """
    config: Any  # typed as if its parts could be missing
    if tower.name == TEXT_MODEL:
        part, projection, config = model.text_model, model.text_projection, model.config.text_config
    else:
        part, projection = model.vision_model, model.visual_projection
        config = model.config.vision_config
    weights = sum(p.numel() for module in (part, projection) for p in module.parameters())
    tokens = _MAX_BATCH_SIZE * tower.tokens
    widest: int = tokens * config.intermediate_size
    attention: int = tokens * tower.tokens * config.num_attention_heads
    return 4 * (2 * weights + 8 * widest + 4 * attention) + 2**29
