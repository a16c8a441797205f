"""The encoders in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnxruntime as ort

from clipsearch_server.encoders.providers import Device, choose_providers, is_served
from clipsearch_server.encoders.tower import Tower
from clipsearch_server.errors import EncoderUnavailable, StartupError
from clipsearch_server.model import ModelFolder
from clipsearch_server.ports import Embeddings, Pixels, TokenIds

logger = logging.getLogger(__name__)


class OnnxEncoder:
    """Runs both towers of a model folder in this process. Implements the port `Encoder`.

    Each tower computes in ``threads`` threads (0: one for each core), without the interpreter lock:
    a text never waits behind a batch of images, and the event loop never waits at all. On a CPU,
    images leave the cores to texts, the event loop and the index where there are not enough for
    all.

    ``device`` says where: "auto" is the best provider of TensorRT, CUDA and CPU that this machine
    and the installed package have. On a GPU each tower takes ``gpu_memory_bytes`` at most;
    TensorRT's engines are kept in ``engine_cache_dir``, and are made for ``max_batch`` rows.
    Entering raises StartupError if a file is not this model's, or the device is not there.
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        threads: int = 0,
        device: Device = "auto",
        gpu_memory_bytes: int = 2**32,
        max_batch: int = 16,
        engine_cache_dir: Path = Path("tensorrt"),
    ) -> None:
        self._model = model
        self._threads = threads or os.cpu_count() or 1
        self._device: Device = device
        self._max_batch = max_batch
        self._providers = partial(
            choose_providers,
            device,
            ort.get_available_providers(),
            gpu_memory_bytes=gpu_memory_bytes,
            half_precision=model.card.precision == "fp16",
            engine_cache_dir=engine_cache_dir,
        )
        self._text: Tower | None = None
        self._vision: Tower | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        card = self._model.card
        batch, size = self._max_batch, card.image_size_px
        async with AsyncExitStack() as stack:
            text = Tower("text", card.embedding_dim)
            stack.push_async_callback(text.close)
            vision = Tower("vision", card.embedding_dim, yields=True)
            stack.push_async_callback(vision.close)
            await asyncio.gather(
                text.load(
                    self._model.text_path,
                    card.fingerprint,
                    self._threads,
                    self._providers(shapes=None),
                    example=np.zeros((1, 8), np.int64),
                ),
                vision.load(
                    self._model.vision_path,
                    card.fingerprint,
                    self._threads,
                    self._providers(
                        shapes=(
                            f"pixel_values:1x3x{size}x{size}",
                            f"pixel_values:{batch}x3x{size}x{size}",
                            f"pixel_values:{batch}x3x{size}x{size}",
                        )
                    ),
                    example=np.zeros((1, 3, size, size), np.uint8),
                ),
            )
            # TensorRT is for images alone.
            text_device: Device = "cuda" if self._device == "tensorrt" else self._device
            for tower, device in ((text, text_device), (vision, self._device)):
                if not is_served(device, tower.provider):
                    raise StartupError(
                        f"the encoder is to run on {self._device}, but ONNX Runtime has only "
                        f"{tower.provider} here; install clipsearch-server[gpu] and a driver, or "
                        "set --encoder-device auto"
                    )
            logger.info("encoder providers text=%s vision=%s", text.provider, vision.provider)
            self._text, self._vision = text, vision
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._text = self._vision = None
        await self._stack.aclose()

    @property
    def concurrency(self) -> int:
        """How many batches of texts, and how many of images, are computed at a time."""
        return min(self._open(tower).concurrency for tower in (self._text, self._vision))

    @property
    def description(self) -> str:
        provider = self._vision.provider if self._vision else "closed"
        return f"onnxruntime {ort.__version__} ({provider})"

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        return await self._open(self._text).run(token_ids)

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        return await self._open(self._vision).run(pixels)

    async def health(self) -> None:
        self._open(self._text)

    def _open(self, tower: Tower | None) -> Tower:
        if tower is None:
            raise EncoderUnavailable("the encoder is not open")
        return tower
