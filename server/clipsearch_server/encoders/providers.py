"""Which of ONNX Runtime's execution providers run the encoders, and what they may take of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda", "tensorrt"]
Provider: TypeAlias = tuple[str, dict[str, str]]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

# Best first. What a provider cannot run goes to the next, so each brings those below it.
_PREFERENCE = (TENSORRT, CUDA, CPU)
_FIRST = {"auto": TENSORRT, "tensorrt": TENSORRT, "cuda": CUDA, "cpu": CPU}


def choose_providers(
    device: Device,
    available: Sequence[str],
    *,
    gpu_memory_bytes: int,
    half_precision: bool,
    engine_cache_dir: Path,
    shapes: tuple[str, str, str] | None,
) -> list[Provider]:
    """Returns the providers to ask ONNX Runtime for, best first, with their options.

    ``available`` is what this build of ONNX Runtime brings; whether its libraries load shows when a
    session is made. ``half_precision`` lets TensorRT compute in float16: only for a model that does
    so itself, since its embeddings must not depend on where it runs. ``shapes`` are the smallest,
    the usual and the largest of the input, as in "pixel_values:1x3x224x224": TensorRT builds one
    engine for them, and builds it anew for what is beyond. None: inside, sizes depend on values, as
    those of texts do on how much of them is padding, for which it has no engine.
    """
    smallest, usual, largest = shapes or ("", "", "")
    options: dict[str, dict[str, str]] = {
        # https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
        CUDA: {
            "gpu_mem_limit": str(gpu_memory_bytes),
            # The arena never gives memory back, so it takes what is needed and not the double.
            "arena_extend_strategy": "kSameAsRequested",
            # The default tries out every algorithm for each new batch size.
            "cudnn_conv_algo_search": "HEURISTIC",
            # The default rounds the factors of float32 products to 10 bits (TF32).
            "use_tf32": "0",
        },
        # https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
        TENSORRT: {
            "trt_max_workspace_size": str(gpu_memory_bytes),
            "trt_fp16_enable": str(half_precision),
            # An engine takes minutes to build.
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(engine_cache_dir),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(engine_cache_dir),
            "trt_profile_min_shapes": smallest,
            "trt_profile_opt_shapes": usual,
            "trt_profile_max_shapes": largest,
        },
        CPU: {},
    }
    wanted = _PREFERENCE[_PREFERENCE.index(_FIRST[device]) :]
    return [
        (name, options[name])
        for name in wanted
        if name in available and not (name == TENSORRT and shapes is None)
    ]


def is_served(device: Device, provider: str) -> bool:
    """Whether the provider that a session got is one that was asked for."""
    return device == "auto" or provider == _FIRST[device]
