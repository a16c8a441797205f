"""The canary of a model folder: an input and the output of each tower, by which a running server
tells, again and again, whether what answers is this model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from clipsearch_export.card import ModelCard
from clipsearch_export.checkpoint import Checkpoint
from clipsearch_export.triton import TEXT_MODEL, VISION_MODEL

CANARY_NAME = "canary.npz"
_TEXT = "a canary in a coal mine"


def write_canary(folder: Path, checkpoint: Checkpoint, card: ModelCard) -> None:
    """Writes ``canary.npz`` beside the ONNX files, which are run for it.

    Arrays: ``input_ids`` (1, t) int64, ``text_embeds`` (1, d) float32, ``pixel_values``
    (1, 3, s, s) uint8, ``image_embeds`` (1, d) float32.
    """
    ids = checkpoint.tokenizer.encode(_TEXT).ids
    if len(ids) > card.max_tokens:
        ids = [*ids[: card.max_tokens - 1], card.end_token_id]
    arrays: dict[str, Any] = {
        "input_ids": np.array([ids], np.int64),
        "pixel_values": _pixels(card.image_size_px)[None],
    }
    for tower, given, output in (
        (TEXT_MODEL, "input_ids", "text_embeds"),
        (VISION_MODEL, "pixel_values", "image_embeds"),
    ):
        session = ort.InferenceSession(folder / tower / "1" / "model.onnx")
        (arrays[output],) = session.run([output], {given: arrays[given]})
    np.savez_compressed(folder / CANARY_NAME, **arrays)


def _pixels(side: int) -> np.ndarray:
    """(3, s, s) uint8: a disc before a sunset. Smooth, so that the file stays small."""
    y, x = np.mgrid[0:side, 0:side] / max(side - 1, 1)
    sky = np.stack([255 * (1 - y / 2), 160 * (1 - y), 80 + 120 * y])
    sun = np.hypot(x - 0.6, y - 0.4) < 0.2
    return np.where(sun, np.array([255, 240, 90]).reshape(3, 1, 1), sky).astype(np.uint8)
