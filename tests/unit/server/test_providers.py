"""Which execution providers the in-process encoder asks for, and what it says if it gets others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.encoders.providers import CPU, CUDA, TENSORRT, Device, choose_providers
from clipsearch_server.errors import StartupError
from clipsearch_server.model import open_model_folder
from clipsearch_server.settings import DEMO_MODEL_DIR

GPU_BUILD = [TENSORRT, CUDA, CPU]
DEMO_MODEL = open_model_folder(DEMO_MODEL_DIR)


def chosen(device: Device, available: list[str], **changes: Any) -> dict[str, dict[str, str]]:
    options: dict[str, Any] = {
        "gpu_memory_bytes": 2**31,
        "half_precision": False,
        "engine_cache_dir": Path("/cache"),
        "shapes": ("pixels:1x2", "pixels:16x2", "pixels:16x2"),
    }
    return dict(choose_providers(device, available, **(options | changes)))


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("auto", GPU_BUILD, [TENSORRT, CUDA, CPU]),
        ("auto", ["AzureExecutionProvider", CPU], [CPU]),
        ("cuda", GPU_BUILD, [CUDA, CPU]),
        ("cuda", [CPU], [CPU]),
        ("tensorrt", GPU_BUILD, [TENSORRT, CUDA, CPU]),
        ("cpu", GPU_BUILD, [CPU]),
    ],
)
def test_the_best_there_is_comes_first(
    device: Device, available: list[str], expected: list[str]
) -> None:
    assert list(chosen(device, available)) == expected


def test_tensorrt_is_not_for_what_has_no_shapes_of_its_own() -> None:
    assert list(chosen("auto", GPU_BUILD, shapes=None)) == [CUDA, CPU]
    assert list(chosen("tensorrt", GPU_BUILD, shapes=None)) == [CUDA, CPU]


def test_a_gpus_memory_is_bounded() -> None:
    options = chosen("auto", GPU_BUILD)
    assert options[CUDA]["gpu_mem_limit"] == str(2**31)
    assert options[CUDA]["arena_extend_strategy"] == "kSameAsRequested"
    assert options[TENSORRT]["trt_max_workspace_size"] == str(2**31)
    assert options[TENSORRT]["trt_profile_max_shapes"] == "pixels:16x2"


@pytest.mark.parametrize("half", [True, False])
def test_only_a_half_precision_model_is_computed_in_half_precision(half: bool) -> None:
    options = chosen("auto", GPU_BUILD, half_precision=half)
    assert options[TENSORRT]["trt_fp16_enable"] == str(half)


def test_a_float32_model_is_computed_in_float32() -> None:
    assert chosen("cuda", GPU_BUILD)[CUDA]["use_tf32"] == "0"


async def test_what_runs_the_model_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "clipsearch_server.encoders"):
        async with OnnxEncoder(DEMO_MODEL) as encoder:
            assert encoder.description == f"onnxruntime {ort.__version__} ({CPU})"
    assert f"text={CPU} vision={CPU}" in caplog.text


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="there is a GPU build here")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
async def test_a_device_that_was_asked_for_and_is_not_there_ends_the_start(device: Device) -> None:
    with pytest.raises(StartupError, match=r"install clipsearch-server\[gpu\]"):
        async with OnnxEncoder(DEMO_MODEL, device=device):
            pass
