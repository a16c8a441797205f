"""The model card: what a runtime must know of a model, and the fingerprint that tells two apart.

The server has its own description of the card; both meet in the file alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from clipsearch_export.checkpoint import Checkpoint
from clipsearch_export.choices import Precision

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model is. The numbers decide how text and images are prepared for it."""

    format_version: int
    model_id: str
    fingerprint: str  # 64 hexadecimal digits: hash of everything that decides an embedding
    precision: str
    embedding_dim: int
    image_size_px: int
    resize_px: int
    resample: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    max_tokens: int
    start_token_id: int
    end_token_id: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, precision: Precision) -> Self:
        """Describes the export of a checkpoint in a precision."""
        preprocessing = checkpoint.preprocessing
        return cls(
            format_version=FORMAT_VERSION,
            model_id=checkpoint.model_id,
            fingerprint=_fingerprint(checkpoint, precision),
            precision=precision.value,
            embedding_dim=checkpoint.model.visual_projection.out_features,
            image_size_px=preprocessing.image_size_px,
            resize_px=preprocessing.resize_px,
            resample=preprocessing.resample,
            image_mean=preprocessing.image_mean,
            image_std=preprocessing.image_std,
            max_tokens=checkpoint.max_tokens,
            start_token_id=checkpoint.start_token_id,
            end_token_id=checkpoint.end_token_id,
        )

    def to_json(self) -> str:
        """One line of ASCII: it travels in protobuf text format and in ONNX metadata too."""
        return json.dumps(dataclasses.asdict(self))


def _fingerprint(checkpoint: Checkpoint, precision: Precision) -> str:
    """Hashes what decides an embedding and nothing else: neither the model's name nor how its
    weights are stored, so that an index survives a new export of the same model."""
    config: Any = checkpoint.model.config  # typed as if its parts could be missing
    text, vision = config.text_config, config.vision_config
    decisive: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "precision": precision.value,
        "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
        "tokenizer": json.loads(checkpoint.tokenizer.to_str()),
        "max_tokens": checkpoint.max_tokens,
        # What the shapes of the weights do not tell.
        "text": [
            text.hidden_act,
            text.layer_norm_eps,
            text.num_attention_heads,
            text.eos_token_id,
        ],
        "vision": [
            vision.hidden_act,
            vision.layer_norm_eps,
            vision.num_attention_heads,
            vision.patch_size,
        ],
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        if name != "logit_scale":  # scales similarities, not embeddings
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()
