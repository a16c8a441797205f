"""One of a model's two encoders on ONNX Runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from clipsearch_server.encoders.output import check_embeddings
from clipsearch_server.encoders.providers import CPU, Provider
from clipsearch_server.errors import ModelOutputInvalid, StartupError
from clipsearch_server.niceness import yield_to_others
from clipsearch_server.ports import Embeddings

logger = logging.getLogger(__name__)


class Tower:
    """One ONNX session and the threads that run it. If it ``yields``, they leave the processor to
    others that want it.

    On a CPU two batches are computed at a time (``concurrency``). A lone one has all threads, which
    wait for each other some 200 times; a second one goes to a single thread of the session's pool,
    and neither waits for anything from then on. With two cores, something else busy on one of them
    a third of the time, that is two fifths more texts a second (docs/decisions/0002-speed.md).
    """

    def __init__(
        self, name: str, input_name: str, output_name: str, dim: int, *, yields: bool = False
    ) -> None:
        self._name = name
        self._input = input_name
        self._output = output_name
        self._dim = dim
        self._yields = yields
        self._executor = ThreadPoolExecutor(
            2, thread_name_prefix=f"encode-{name}", initializer=yield_to_others if yields else None
        )
        self._alone = Lock()  # held by the batch that has the threads of the session's pool
        self._session: Any = None  # onnxruntime has no type annotations
        self.concurrency = 1

    async def close(self) -> None:
        """Waits for the calls under way."""
        await asyncio.to_thread(self._executor.shutdown)
        self._session = None

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
        """Embeds n rows. Raises ModelOutputInvalid if the model fails, or answers with anything but
        unit vectors."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._run, values)

    def _load(
        self, file: Path, fingerprint: str, threads: int, providers: Sequence[Provider]
    ) -> None:
        # Here, as the threads of the session's pool get the niceness of the one that makes them.
        session = _session(file, threads, providers, spins=not self._yields)
        metadata = session.get_modelmeta().custom_metadata_map
        if metadata.get("clipsearch.fingerprint") != fingerprint:
            raise StartupError(
                f"{file}: belongs to another model than the card beside it; export the model again"
            )
        self._session = session
        # A pool of one thread is the caller's.
        self.concurrency = 2 if threads > 1 and self.provider == CPU else 1

    def _run(self, values: NDArray[Any]) -> Embeddings:
        try:
            output = self._compute({self._input: values})
        except Exception as error:
            # The shapes were checked on the way here, so this is the model's failure.
            raise ModelOutputInvalid(f"the {self._name} encoder failed: {error}") from error
        return check_embeddings(np.asarray(output), rows=len(values), dim=self._dim)

    def _compute(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        if not self._alone.acquire(blocking=self.concurrency == 1):
            return self._compute_beside(inputs)
        try:
            outputs: list[NDArray[Any]] = self._session.run([self._output], inputs)
        finally:
            self._alone.release()
        return outputs[0]

    def _compute_beside(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        computed: Future[NDArray[Any]] = Future()

        def finish(outputs: Sequence[NDArray[Any]], _: object, error: str) -> None:
            if error:
                computed.set_exception(RuntimeError(error))
            else:
                computed.set_result(outputs[0])

        self._session.run_async([self._output], inputs, finish, None)
        return computed.result()


def session_options(threads: int, *, spins: bool) -> Any:
    """Returns the options of a session that computes with so many threads on a CPU. If it
    ``spins``, those wait for each other busily while it computes, and sleep between: a lone text
    takes a quarter less, but what would use the cores meanwhile has to do without."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if spins:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(file: Path, threads: int, providers: Sequence[Provider], *, spins: bool) -> Any:
    """Opens a model with the first of the providers that can; what that one cannot run goes to
    those after it. Raises StartupError if none can."""
    best, engine_options = providers[0]
    options = session_options(threads, spins=spins and best == CPU)
    if best == CPU:
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Where lengths and batches vary, plans of memory for each cost more than they save.
        options.enable_mem_pattern = False
    else:
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
        return _session(file, threads, providers[1:], spins=spins)


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
