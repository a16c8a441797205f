"""Baseline: the bare encoder, the limit of this machine. The server's ONNX files in the server's
sessions, in a tight loop, on inputs that are ready: no tokenizer, no JPEG, no wire, no index."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.cores import cores
from clipsearch_server.encoders.providers import CPU
from clipsearch_server.encoders.session import Session
from clipsearch_server.image import decode_image
from clipsearch_server.model import ModelFolder, open_model_folder
from clipsearch_server.text import Tokenizer, pad
from speed.workload import photographs, tokenizer_of


@dataclass(frozen=True, slots=True)
class Batching:
    """How the encoder is fed."""

    rows: int
    at_a_time: int

    def __str__(self) -> str:
        return f"{self.at_a_time} x {self.rows}"


# Those that win somewhere.
TEXT_BATCHES = tuple(Batching(rows, at_a_time) for at_a_time in (1, 2) for rows in (8, 16, 32))
IMAGE_BATCHES = tuple(Batching(rows, at_a_time) for at_a_time in (1, 2) for rows in (4, 8, 16))

_open: dict[str, BareEncoder] = {}


def open_encoder(folder: Path) -> None:
    """Opens a model in this process, for the functions below."""
    _open[folder.name] = BareEncoder(folder)


def text_ms(name: str, texts: Sequence[str], seconds: float) -> list[float]:
    return _open[name].text_ms(texts, seconds)


def text_rate(name: str, texts: Sequence[str], batch: Batching, seconds: float) -> float:
    return _open[name].text_rate(texts, batch, seconds)


def image_rate(name: str, number: int, batch: Batching) -> float:
    return _open[name].image_rate(number, batch)


class BareEncoder:
    """Both towers of an exported model folder."""

    def __init__(self, folder: Path) -> None:
        model = open_model_folder(folder)
        self._tokenizer: Tokenizer = tokenizer_of(folder)
        self._text = _session(model.text_path, spin=True)
        self._vision = _session(model.vision_path, spin=False)
        self._pixels = _ready_pixels(model)

    def text_ms(self, texts: Sequence[str], seconds: float) -> list[float]:
        """Milliseconds of each text alone, one after the other."""
        ready = [ids[None] for ids in self._token_ids(texts)]
        times_ms: list[float] = []
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self._text.compute(ready[len(times_ms) % len(ready)])
            times_ms.append((time.perf_counter() - start) * 1000)
        return times_ms

    def text_rate(self, texts: Sequence[str], batch: Batching, seconds: float) -> float:
        """Texts a second, in batches of like lengths."""
        by_length = sorted(self._token_ids(texts), key=len)
        batches = [
            pad(by_length[first : first + batch.rows], self._tokenizer.end_token_id)
            for first in range(0, len(by_length), batch.rows)
        ]
        random.Random(0).shuffle(batches)  # of short and of long texts in turn
        return _rate(self._text.compute, batches, batch.at_a_time, seconds)

    def image_rate(self, number: int, batch: Batching) -> float:
        """Images a second."""
        at_once = batch.rows * batch.at_a_time
        batches = [self._pixels[: batch.rows]] * (-(-number // at_once) * batch.at_a_time)
        return _rate(self._vision.compute, batches, batch.at_a_time)

    def _token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        return [self._tokenizer.tokenize(text).token_ids for text in texts]


def _session(file: Path, *, spin: bool) -> Session:
    return Session(file, cores(), [(CPU, {})], spin=spin)


def _rate(
    compute: Callable[[NDArray[Any]], object],
    batches: Iterable[NDArray[Any]],
    at_a_time: int,
    seconds: float = math.inf,
) -> float:
    """Rows a second of all batches, or of those that are begun within some seconds."""
    left = iter(batches)
    start = time.perf_counter()

    def work() -> int:
        done = 0
        # Taking one is atomic: the threads have the interpreter lock in turn.
        while time.perf_counter() - start < seconds and (batch := next(left, None)) is not None:
            compute(batch)
            done += len(batch)
        return done

    with ThreadPoolExecutor(at_a_time) as threads:
        done = sum(it.result() for it in [threads.submit(work) for _ in range(at_a_time)])
    return done / (time.perf_counter() - start)


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
            for content in photographs(0, max(batch.rows for batch in IMAGE_BATCHES))
        ]
    )
