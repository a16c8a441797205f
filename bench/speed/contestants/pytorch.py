"""Baseline: what one writes first. transformers on PyTorch, one text or image at a time, each text
padded to 77 tokens, and the same index, in one process and without a wire."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from PIL import Image

from clipsearch_server.cores import cores
from speed.workload import photographs

_HITS = 5

_state: dict[str, FirstVersion] = {}


def open_model(folder: Path, stored: int) -> None:
    """Opens a checkpoint in this process, and an index with so many images."""
    _state["open"] = FirstVersion(folder, stored)


def text_rate(texts: Sequence[str], seconds: float) -> float:
    """Queries a second: text in, hits out."""
    asked, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _state["open"].query(texts[asked % len(texts)])
        asked += 1
    return asked / (time.perf_counter() - start)


def image_rate(first: int, number: int) -> float:
    """Images a second: JPEG in, stored."""
    contents = photographs(first, number)
    start = time.perf_counter()
    for content in contents:
        _state["open"].add(content)
    return number / (time.perf_counter() - start)


class FirstVersion:
    def __init__(self, folder: Path, stored: int) -> None:
        import torch
        from transformers import CLIPModel, CLIPProcessor
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self._torch = torch
        self._model: Any = CLIPModel.from_pretrained(folder).eval()
        self._processor: Any = CLIPProcessor.from_pretrained(folder)
        dim = self._model.config.projection_dim
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._shard = edge.EdgeShard.create(
            self._folder.name,
            edge.EdgeConfig(
                vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine),
                max_search_threads=cores(),
            ),
        )
        for vectors in np.split(np.random.default_rng(0).standard_normal((stored, dim)), 10):
            self._upsert(vectors)

    def query(self, text: str) -> object:
        inputs = self._processor(text=text, padding="max_length", return_tensors="pt")
        with self._torch.inference_mode():
            embedding = _vector(self._model.get_text_features(**inputs))
        return self._shard.query(
            edge.QueryRequest(
                query=edge.Query.Nearest(embedding.tolist()), limit=_HITS, with_payload=True
            )
        )

    def add(self, content: bytes) -> None:
        with Image.open(BytesIO(content)) as image:
            inputs = self._processor(images=image, return_tensors="pt")
        with self._torch.inference_mode():
            self._upsert(_vector(self._model.get_image_features(**inputs))[None])

    def _upsert(self, vectors: NDArray[np.floating]) -> None:
        """(n, d): stores n points."""
        points = [
            edge.Point(uuid4(), vector, {"uri": "https://example.com/picture.jpg"})
            for vector in vectors.tolist()
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))


def _vector(features: Any) -> NDArray[np.float32]:
    """(d,): transformers 5 answers with the projection in an output of many parts."""
    pooled = getattr(features, "pooler_output", features)
    vector: NDArray[np.float32] = pooled[0].numpy()
    return vector / np.linalg.norm(vector)
