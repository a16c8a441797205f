"""The encoders in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from clipsearch_server.encoders.output import check_embeddings
from clipsearch_server.encoders.providers import CPU, Device, Provider, choose_providers, is_served
from clipsearch_server.errors import EncoderUnavailable, ModelOutputInvalid, StartupError
from clipsearch_server.model import ModelFolder
from clipsearch_server.niceness import yield_to_others
from clipsearch_server.ports import Embeddings, Pixels, TokenIds

logger = logging.getLogger(__name__)


class OnnxEncoder:
    """Runs both towers of a model folder in this process. Implements the port `Encoder`.

    Each tower has one worker thread, in which ONNX Runtime uses ``threads`` threads of its own (0:
    one for each core) and releases the interpreter lock: a text never waits behind a batch of
    images, and the event loop never waits at all. On a CPU, images leave the cores to texts, the
    event loop and the index where there are not enough for all.

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
        self._text: _Tower | None = None
        self._vision: _Tower | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        card = self._model.card
        batch, tokens, size = self._max_batch, card.max_tokens, card.image_size_px
        _register_arena()
        async with AsyncExitStack() as stack:
            text = _Tower("text", "input_ids", "text_embeds", card.embedding_dim)
            stack.push_async_callback(text.close)
            vision = _Tower(
                "vision", "pixel_values", "image_embeds", card.embedding_dim, yields=True
            )
            stack.push_async_callback(vision.close)
            await asyncio.gather(
                text.load(
                    self._model.text_path,
                    card.fingerprint,
                    self._threads,
                    self._providers(
                        shapes=(
                            "input_ids:1x1",
                            f"input_ids:{batch}x16",
                            f"input_ids:{batch}x{tokens}",
                        )
                    ),
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
            for tower in (text, vision):
                if not is_served(self._device, tower.provider):
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
    def description(self) -> str:
        provider = self._vision.provider if self._vision else "closed"
        return f"onnxruntime {ort.__version__} ({provider})"

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        return await self._open(self._text).run(token_ids)

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        return await self._open(self._vision).run(pixels)

    async def health(self) -> None:
        self._open(self._text)

    def _open(self, tower: _Tower | None) -> _Tower:
        if tower is None:
            raise EncoderUnavailable("the encoder is not open")
        return tower


class _Tower:
    """One ONNX session and the thread that runs it. If it ``yields``, that thread and those that
    ONNX Runtime starts from it leave the processor to others that want it."""

    def __init__(
        self, name: str, input_name: str, output_name: str, dim: int, *, yields: bool = False
    ) -> None:
        self._name = name
        self._input = input_name
        self._output = output_name
        self._dim = dim
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix=f"encode-{name}", initializer=yield_to_others if yields else None
        )
        self._session: Any = None  # onnxruntime has no type annotations

    async def close(self) -> None:
        """Waits for the call under way."""
        self._session = None
        await asyncio.to_thread(self._executor.shutdown)

    @property
    def provider(self) -> str:
        return str(self._session.get_providers()[0])

    async def load(
        self,
        file: Path,
        fingerprint: str,
        threads: int,
        providers: Sequence[Provider],
        *,
        example: NDArray[Any],
    ) -> None:
        """Loads the tower and runs it once, so that the first caller does not pay for it.

        Raises StartupError if the file is no model of this folder's, or does not run here.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._executor, self._load, file, fingerprint, threads, providers
        )
        try:
            await self.run(example)
        except ModelOutputInvalid as error:
            raise StartupError(f"{file}: {error.message}") from error

    async def run(self, values: NDArray[Any]) -> Embeddings:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._run, values)

    def _load(
        self, file: Path, fingerprint: str, threads: int, providers: Sequence[Provider]
    ) -> None:
        options = session_options(threads)
        if providers[0][0] == CPU:
            options.add_session_config_entry("session.use_env_allocators", "1")
            # Where lengths and batches vary, plans of memory for each cost more than they save.
            options.enable_mem_pattern = False
        session = _session(file, options, providers)
        metadata = session.get_modelmeta().custom_metadata_map
        if metadata.get("clipsearch.fingerprint") != fingerprint:
            raise StartupError(
                f"{file}: belongs to another model than the card beside it; export the model again"
            )
        self._session = session

    def _run(self, values: NDArray[Any]) -> Embeddings:
        try:
            (output,) = self._session.run([self._output], {self._input: values})
        except Exception as error:
            # The shapes were checked on the way here, so this is the model's failure.
            raise ModelOutputInvalid(f"the {self._name} encoder failed: {error}") from error
        return check_embeddings(np.asarray(output), rows=len(values), dim=self._dim)


@cache
def _register_arena() -> None:
    """Makes the one arena from which all towers on a CPU take what they compute with. It grows by
    what is needed, not to the next power of two, and is as fast as one a tower: for ViT-B/32 and
    batches of 16, 80 MB instead of 140. (Without an arena it is 50, and a batch faults 10,000 pages
    in anew.)"""
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = 1
    ort.create_and_register_allocator(
        info, ort.OrtArenaCfg({"max_mem": 0, "arena_extend_strategy": same_as_requested})
    )


def session_options(threads: int) -> Any:
    """Returns the options of a session on the CPU that computes with so many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for each other busily would take the cores that decoding, the index and the
    # event loop need, within a run too (docs/decisions/0002-speed.md).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(file: Path, options: Any, providers: Sequence[Provider]) -> Any:
    """Opens a model with the first of the providers that can; what that one cannot run goes to
    those after it. Raises StartupError if none can."""
    best, engine_options = providers[0]
    if best != CPU:
        ort.preload_dlls()  # the CUDA libraries that pip installed
    if cache := engine_options.get("trt_engine_cache_path"):
        Path(cache).mkdir(parents=True, exist_ok=True)
    try:
        return ort.InferenceSession(
            str(file),
            sess_options=options,
            providers=list(providers),
            # ONNX Runtime's own fallback forgets the options, and with them the memory's bound.
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime raises a type of its own for each failure
        if best == CPU:
            raise StartupError(f"{file}: ONNX Runtime does not load it: {error}") from error
        logger.warning("encoder provider %s cannot be used: %s", best, error)
        return _session(file, options, providers[1:])
