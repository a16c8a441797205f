"""The parity gate: a written model folder against the PyTorch model, stage by stage.

The folder's side uses the folder alone, as a server does: `tokenizers`, Pillow and ONNX Runtime.
The other side is transformers' tokenizer, image processor and CLIPModel. A mistake in one stage
shows in that stage's row, and not as a slightly worse embedding at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from clipsearch_export.checkpoint import Checkpoint, Preprocessing
from clipsearch_export.samples import SAMPLE_TEXTS, sample_images

Embeddings: TypeAlias = NDArray[np.float32]  # (n, d)


@dataclass(frozen=True, slots=True)
class Stage:
    """How far both sides agree at one stage: for each sample a number, 1 for full agreement."""

    name: str
    agreement: NDArray[np.float64]  # (samples,)
    required: float | None  # of the worst sample; None: for information

    @property
    def worst(self) -> float:
        return float(self.agreement.min())

    @property
    def mean(self) -> float:
        return float(self.agreement.mean())

    @property
    def passed(self) -> bool:
        return self.required is None or self.worst >= self.required  # false for NaN


def check_parity(folder: Path, checkpoint: Checkpoint, *, min_cosine: float) -> list[Stage]:
    """Compares a model folder with the checkpoint that it was exported from.

    Token ids and pixels must be equal; embeddings must have at least ``min_cosine`` with
    PyTorch's, and, as what else is in a batch ought not to matter, a padded one in a batch with the
    same one alone. Rankings are reported: a model with no sense of its own flips them at a breath.
    """
    images = sample_images()
    token_ids = _encode(folder, checkpoint)
    pixels = np.stack([prepare_pixels(image, checkpoint.preprocessing) for image in images])
    reference_ids: list[list[int]] = [
        checkpoint.reference_tokenizer(
            text, truncation=True, max_length=checkpoint.max_tokens
        ).input_ids
        for text in SAMPLE_TEXTS
    ]
    reference_values = checkpoint.reference_processor(images, return_tensors="pt")["pixel_values"]
    reference_texts, reference_images = _reference(checkpoint, reference_ids, reference_values)

    text = ort.InferenceSession(folder / "clip_text" / "1" / "model.onnx")
    vision = ort.InferenceSession(folder / "clip_vision" / "1" / "model.onnx")
    texts = np.concatenate([_run(text, np.array([ids], dtype=np.int64)) for ids in token_ids])
    embedded_images = np.concatenate([_run(vision, image[None]) for image in pixels])
    padded = _run(text, _pad(token_ids, checkpoint.max_tokens, checkpoint.end_token_id))
    batched_images = _run(vision, pixels)

    ranking = np.concatenate(
        [
            _same_top(texts @ embedded_images.T, reference_texts @ reference_images.T),
            _same_top(embedded_images @ texts.T, reference_images @ reference_texts.T),
        ]
    )
    return [
        Stage("token ids", _equal(token_ids, reference_ids), 1.0),
        Stage("pixels", _same_pixels(pixels, reference_values, checkpoint.preprocessing), 1.0),
        Stage("text embeddings", _cosine(texts, reference_texts), min_cosine),
        Stage("image embeddings", _cosine(embedded_images, reference_images), min_cosine),
        Stage("texts padded in a batch", _cosine(padded, texts), min_cosine),
        Stage("images in a batch", _cosine(batched_images, embedded_images), min_cosine),
        Stage("top-1 of rankings", ranking, None),
    ]


def prepare_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What a server does to an RGB image, (3, s, s): the shorter side resized, the longer cut down
    to whole pixels as torchvision's Resize does, the centre cropped."""
    resize_px, size = preprocessing.resize_px, preprocessing.image_size_px
    shorter = min(image.size)
    width, height = (int(resize_px * side / shorter) for side in image.size)
    resized = image.resize((width, height), Image.Resampling[preprocessing.resample.upper()])
    left, top = (width - size) // 2, (height - size) // 2
    cropped = resized.crop((left, top, left + size, top + size))
    return np.asarray(cropped, dtype=np.uint8).transpose(2, 0, 1)


def _encode(folder: Path, checkpoint: Checkpoint) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "clip_text" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(SAMPLE_TEXTS))]
    limit, end = checkpoint.max_tokens, checkpoint.end_token_id
    return [ids if len(ids) <= limit else [*ids[: limit - 1], end] for ids in encoded]


def _reference(
    checkpoint: Checkpoint, token_ids: Sequence[Sequence[int]], pixel_values: torch.Tensor
) -> tuple[Embeddings, Embeddings]:
    """PyTorch's embeddings, padded and masked as transformers' processor does."""
    length = max(map(len, token_ids))
    mask = _pad([[1] * len(ids) for ids in token_ids], length, 0)
    with torch.no_grad():
        output = checkpoint.model(
            input_ids=torch.from_numpy(_pad(token_ids, length, checkpoint.end_token_id)),
            attention_mask=torch.from_numpy(mask),
            pixel_values=pixel_values,
        )
    return output.text_embeds.numpy(), output.image_embeds.numpy()


def _run(session: ort.InferenceSession, values: NDArray[np.generic]) -> Embeddings:
    (output,) = session.run(None, {session.get_inputs()[0].name: values})
    return np.asarray(output)


def _pad(rows: Sequence[Sequence[int]], length: int, value: int) -> NDArray[np.int64]:
    return np.array([[*row, *[value] * (length - len(row))] for row in rows], dtype=np.int64)


def _cosine(actual: Embeddings, expected: Embeddings) -> NDArray[np.float64]:
    """Cosine of unit vectors, by their distance: a vector of another length agrees less."""
    difference = actual.astype(np.float64) - expected
    return np.asarray(1.0 - np.square(difference).sum(axis=1) / 2)


def _equal(
    actual: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    return np.array([float(a == b) for a, b in zip(actual, expected, strict=True)])


def _same_pixels(
    pixels: NDArray[np.uint8], reference: torch.Tensor, preprocessing: Preprocessing
) -> NDArray[np.float64]:
    """The share of equal pixels, once the reference's normalisation is undone."""
    mean = np.array(preprocessing.image_mean).reshape(3, 1, 1)
    std = np.array(preprocessing.image_std).reshape(3, 1, 1)
    expected = np.rint((reference.numpy() * std + mean) * 255)
    return np.asarray((pixels == expected).mean(axis=(1, 2, 3)))


def _same_top(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(actual.argmax(axis=1) == expected.argmax(axis=1), dtype=np.float64)
