"""Baseline: the bare encoder, the limit of this machine. The server's ONNX files in sessions with
the server's options, in a tight loop, on inputs that are ready: no tokenizer, no JPEG, no wire, no
index."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from clipsearch_server.cores import cores
from clipsearch_server.encoders.ort import session_options
from clipsearch_server.image import decode_image
from clipsearch_server.model import ModelFolder, open_model_folder
from clipsearch_server.text import Tokenizer, pad
from speed.workload import photographs, tokenizer_of

TEXT_BATCHES = (4, 8, 16, 32)
IMAGE_BATCHES = (1, 4, 8, 16)

_open: dict[str, BareEncoder] = {}


def open_encoder(folder: Path) -> None:
    """Opens a model in this process, for the functions below."""
    _open[folder.name] = BareEncoder(folder)


def text_ms(name: str, texts: Sequence[str], seconds: float) -> list[float]:
    return _open[name].text_ms(texts, seconds)


def text_rate(name: str, texts: Sequence[str], batch: int, seconds: float) -> float:
    return _open[name].text_rate(texts, batch, seconds)


def image_rate(name: str, number: int, batch: int) -> float:
    return _open[name].image_rate(number, batch)


class BareEncoder:
    """Both towers of an exported model folder."""

    def __init__(self, folder: Path) -> None:
        model = open_model_folder(folder)
        self._tokenizer: Tokenizer = tokenizer_of(folder)
        self._text = _session(model.text_path)
        self._vision = _session(model.vision_path)
        self._pixels = _ready_pixels(model)

    def text_ms(self, texts: Sequence[str], seconds: float) -> list[float]:
        """Milliseconds of each text alone, one after the other."""
        ready = [ids[None] for ids in self._token_ids(texts)]
        times_ms: list[float] = []
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self._text.run(["text_embeds"], {"input_ids": ready[len(times_ms) % len(ready)]})
            times_ms.append((time.perf_counter() - start) * 1000)
        return times_ms

    def text_rate(self, texts: Sequence[str], batch: int, seconds: float) -> float:
        """Texts a second, in batches of like lengths."""
        by_length = sorted(self._token_ids(texts), key=len)
        batches = [
            pad(by_length[first : first + batch], self._tokenizer.end_token_id)
            for first in range(0, len(by_length), batch)
        ]
        random.Random(0).shuffle(batches)  # of short and of long texts in turn
        done = 0
        start = time.perf_counter()
        for rows in batches:
            self._text.run(["text_embeds"], {"input_ids": rows})
            done += len(rows)
            if time.perf_counter() - start > seconds:
                break
        return done / (time.perf_counter() - start)

    def image_rate(self, number: int, batch: int) -> float:
        """Images a second."""
        start = time.perf_counter()
        for _ in range(0, number, batch):
            self._vision.run(["image_embeds"], {"pixel_values": self._pixels[:batch]})
        return number / (time.perf_counter() - start)

    def _token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        return [self._tokenizer.tokenize(text).token_ids for text in texts]


def _session(file: Path) -> Any:
    return ort.InferenceSession(
        str(file), session_options(cores()), providers=["CPUExecutionProvider"]
    )


def _ready_pixels(model: ModelFolder) -> NDArray[np.uint8]:
    card = model.card
    return np.stack(
        [
            decode_image(
                content,
                size_px=card.image_size_px,
                resize_px=card.resize_px,
                resample=card.resample,
                max_pixels=2**30,
            ).pixels
            for content in photographs(0, max(IMAGE_BATCHES))
        ]
    )
