"""What a Triton server is to serve of a model folder, how it gets it, and whether it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch_server.model import TEXT_MODEL, VISION_MODEL, ModelCard
from clipsearch_server.ports import TokenIds

# Triton's batcher merges requests of equal shapes, and warms up these.
_TEXT_LENGTHS = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """A tower as Triton names it: names, data types and shapes without the batch."""

    name: str
    input_name: str
    input_type: str
    input_dims: tuple[int, ...]  # -1: any
    output_name: str
    output_dims: tuple[int, ...]


def text_tower(card: ModelCard) -> TowerSpec:
    return TowerSpec(TEXT_MODEL, "input_ids", "INT64", (-1,), "text_embeds", (card.embedding_dim,))


def vision_tower(card: ModelCard) -> TowerSpec:
    size = card.image_size_px
    return TowerSpec(
        VISION_MODEL,
        "pixel_values",
        "UINT8",
        (3, size, size),
        "image_embeds",
        (card.embedding_dim,),
    )


def pad_to_bucket(token_ids: TokenIds, pad_token_id: int, max_tokens: int) -> TokenIds:
    """(n, t) int64 -> (n, the next of a few lengths) int64, filled up with the padding token."""
    length = token_ids.shape[1]
    bucket = next((bucket for bucket in _TEXT_LENGTHS if length <= bucket), max_tokens)
    padding = min(bucket, max(max_tokens, length)) - length
    return np.pad(token_ids, ((0, 0), (0, padding)), constant_values=pad_token_id)


def difference(tower: TowerSpec, fingerprint: str, metadata: Any, config: Any) -> str | None:
    """Returns what is wrong with Triton's ModelMetadataResponse and ModelConfig of a tower, for
    people; None if they are the tower's."""
    card = _served_card(config)
    if (served := card.get("fingerprint")) != fingerprint:
        which = f"{card['model_id']} ({served[:12]})" if served else "a model without a card"
        return (
            f"{tower.name} is {which}, expected the fingerprint {fingerprint[:12]}; give Triton "
            "the model folder that --model-dir names"
        )
    if config.max_batch_size < 1:
        return f"{tower.name} does not batch; set max_batch_size in its config.pbtxt"
    for kind, tensors, expected in (
        ("input", metadata.inputs, (tower.input_name, tower.input_type, tower.input_dims)),
        ("output", metadata.outputs, (tower.output_name, "FP32", tower.output_dims)),
    ):
        found = [(tensor.name, tensor.datatype, tuple(tensor.shape[1:])) for tensor in tensors]
        if found != [expected]:
            return f"{tower.name} has the {kind} {_shown(found)}, expected {_shown([expected])}"
    return None


def _served_card(config: Any) -> dict[str, Any]:
    try:
        card = json.loads(config.parameters["model_card"].string_value)
    except ValueError:
        return {}
    valid = isinstance(card, dict) and all(
        isinstance(card.get(key), str) for key in ("fingerprint", "model_id")
    )
    return card if valid else {}


def _shown(tensors: list[tuple[str, str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {kind} {list(dims)}" for name, kind, dims in tensors) or "nothing"
