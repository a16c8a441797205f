"""What an evaluation should come to, found the slow way: no code of ours, and no batch.

Embeddings come from ONNX Runtime on the model's files, one at a time; ranks from sorting, one
query at a time; figures from the ranks by their definitions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray
from PIL import Image

Vector = NDArray[np.float64]


class Embedder:
    """The two towers of a model folder."""

    def __init__(self, folder: Path) -> None:
        self._images: dict[Path, Vector] = {}
        self._card = json.loads((folder / "model_card.json").read_text())
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "clip_text/tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._text, self._vision = (
            onnxruntime.InferenceSession(str(folder / tower / "1/model.onnx"), options)
            for tower in ("clip_text", "clip_vision")
        )

    def text(self, text: str) -> Vector:
        words = self._tokenizer.encode(text, add_special_tokens=False).ids
        words = words[: self._card["max_tokens"] - 2]
        ids = [self._card["start_token_id"], *words, self._card["end_token_id"]]
        (found,) = self._text.run(None, {"input_ids": np.array([ids], np.int64)})
        return np.asarray(found[0], np.float64)

    def image(self, file: Path) -> Vector:
        """Of a square picture, which needs no cropping."""
        if file not in self._images:
            self._images[file] = self._embed_image(file)
        return self._images[file]

    def _embed_image(self, file: Path) -> Vector:
        size = self._card["image_size_px"]
        picture = Image.open(file).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        assert picture.width == picture.height
        small = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(small).transpose(2, 0, 1)[None]
        (found,) = self._vision.run(None, {"pixel_values": pixels})
        return np.asarray(found[0], np.float64)


@dataclass(frozen=True)
class Figures:
    """Of queries with one right answer each."""

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    mrr: float


def score(texts: Sequence[Vector], images: Sequence[Vector]) -> list[list[float]]:
    """The score of each text with each image."""
    return [[float(np.dot(text, image)) for image in images] for text in texts]


def caption_ranks(scores: Sequence[Sequence[float]], own: Sequence[int]) -> list[int]:
    """The place of each caption's image when all images are sorted by their scores."""
    ranks = []
    for row, right in zip(scores, own, strict=True):
        order = sorted(range(len(row)), key=lambda place: -row[place])
        ranks.append(1 + order.index(right))
    return ranks


def image_ranks(scores: Sequence[Sequence[float]], own: Sequence[int]) -> list[int]:
    """For each image with captions: the place of the first of these among all captions, its other
    captions left out."""
    ranks = []
    for image in sorted(set(own)):
        order = sorted(range(len(scores)), key=lambda place: -scores[place][image])
        ranks.append(1 + next(at for at, place in enumerate(order) if own[place] == image))
    return ranks


def figures(ranks: Sequence[int]) -> Figures:
    return Figures(
        recall={k: mean(rank <= k for rank in ranks) for k in (1, 5, 10)},
        median_rank=median(ranks),
        mean_rank=mean(ranks),
        mrr=mean(1 / rank for rank in ranks),
    )
