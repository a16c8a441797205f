"""An ONNX model on ONNX Runtime: from arrays to an array, without a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from clipsearch_server.encoders.providers import CPU, Provider
from clipsearch_server.errors import StartupError

logger = logging.getLogger(__name__)


class Session:
    """A model of one input and one output, on the first of the providers that can run it; what that
    one cannot run goes to those after it.

    It may be called from as many threads as ``concurrency`` says. On a CPU these are two. A lone
    call computes in ``threads`` threads, which wait for each other some 200 times; a second one is
    computed by a single thread of the session's pool, and neither waits for anything from then on.
    On two cores, of which something else takes a third of one, two get through two fifths more
    (docs/decisions/0002-speed.md).

    If threads ``spin``, they wait for each other busily while one computes, and sleep between: a
    lone text takes a quarter less, but what would use the cores meanwhile has to do without. The
    threads of the pool get the niceness of the thread that makes the session.

    Raises StartupError if no provider can run the model.
    """

    def __init__(
        self, file: Path, threads: int, providers: Sequence[Provider], *, spin: bool
    ) -> None:
        self._session = _open(file, threads, providers, spin=spin)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._alone = Lock()  # held by the call that has the threads of the pool
        # A pool of one thread is the caller's.
        self.concurrency = 2 if threads > 1 and self.provider == CPU else 1

    @property
    def provider(self) -> str:
        return str(self._session.get_providers()[0])

    @property
    def metadata(self) -> dict[str, str]:
        metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return metadata

    def compute(self, values: NDArray[Any]) -> NDArray[Any]:
        """Raises what ONNX Runtime does, which has types of its own."""
        inputs = {self._input: values}
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


def _open(file: Path, threads: int, providers: Sequence[Provider], *, spin: bool) -> Any:
    best, engine_options = providers[0]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if best == CPU and spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
        return _open(file, threads, providers[1:], spin=spin)


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
