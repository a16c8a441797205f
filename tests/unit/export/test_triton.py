"""Triton's configuration, as Triton's own schema reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the exporter needs torch")

import numpy as np
import torch
from google.protobuf import text_format
from transformers import CLIPConfig, CLIPModel
from tritonclient.grpc import model_config_pb2

from clipsearch_export.__main__ import main
from clipsearch_export.card import ModelCard
from clipsearch_export.choices import Backend
from clipsearch_export.triton import TEXT_MODEL, VISION_MODEL, triton_config

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT.parent / "shared" / "models" / "clip-vit-base-patch32"
TOWERS = (TEXT_MODEL, VISION_MODEL)


def read(folder: Path, tower: str) -> Any:
    """A config.pbtxt as Triton reads it; raises ParseError if a field does not exist."""
    text = (folder / tower / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    ("tower", "input_name", "data_type", "dims", "output_name"),
    [
        (TEXT_MODEL, "input_ids", "TYPE_INT64", [-1], "text_embeds"),
        (VISION_MODEL, "pixel_values", "TYPE_UINT8", [3, 24, 24], "image_embeds"),
    ],
)
def test_it_describes_the_files_beside_it(
    laion_export: Path,
    tower: str,
    input_name: str,
    data_type: str,
    dims: list[int],
    output_name: str,
) -> None:
    config = read(laion_export, tower)

    assert (config.name, config.backend) == (tower, "onnxruntime")
    (inputs,), (outputs,) = config.input, config.output
    assert (inputs.name, list(inputs.dims)) == (input_name, dims)
    assert inputs.data_type == model_config_pb2.DataType.Value(data_type)
    assert (outputs.name, list(outputs.dims)) == (output_name, [40])
    assert outputs.data_type == model_config_pb2.DataType.Value("TYPE_FP32")
    card = json.loads((laion_export / "model_card.json").read_text())
    del card["files"]
    assert json.loads(config.parameters["model_card"].string_value) == card


@pytest.mark.parametrize("tower", TOWERS)
def test_it_batches_with_a_bounded_queue_and_a_bounded_memory(
    laion_export: Path, tower: str
) -> None:
    config = read(laion_export, tower)

    assert config.max_batch_size > 1
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert not config.dynamic_batching.preferred_batch_size
    policy = config.dynamic_batching.default_queue_policy
    assert policy.max_queue_size > 0
    assert policy.default_timeout_microseconds > 0
    assert policy.allow_timeout_override
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO
    assert not config.response_cache.enable
    assert config.version_policy.latest.num_versions == 1
    assert int(config.parameters["gpu_mem_limit"].string_value) > 2**29
    assert config.parameters["arena_extend_strategy"].string_value == "1"


def test_every_shape_that_is_sent_is_warmed_up(laion_export: Path) -> None:
    texts = [
        (warmup.batch_size, list(warmup.inputs["input_ids"].dims))
        for warmup in read(laion_export, TEXT_MODEL).model_warmup
    ]
    assert texts == [(1, [8]), (1, [12]), (64, [12])]  # its texts have 12 tokens at most
    images = read(laion_export, VISION_MODEL).model_warmup
    assert {warmup.batch_size for warmup in images} == {1, 64}
    assert all(list(w.inputs["pixel_values"].dims) == [3, 24, 24] for w in images)


@pytest.mark.parametrize("length", range(1, 78))
def test_what_the_server_sends_is_what_is_warmed_up(length: int) -> None:
    triton_model = pytest.importorskip(
        "clipsearch_server.encoders.triton_model", reason="needs clipsearch-server"
    )
    sent = triton_model.pad_to_bucket(np.zeros((1, length), np.int64), 0, 77)
    warm = {
        tuple(warmup.inputs["input_ids"].dims)
        for warmup in read(ROOT / "triton_models", TEXT_MODEL).model_warmup
    }
    assert sent.shape[1:] in warm


@pytest.mark.usefixtures("exported_once")
def test_the_python_backend_gets_its_code(openai_checkpoint: Path, tmp_path: Path) -> None:
    assert main([str(openai_checkpoint), "--backend", "python", "--out", str(tmp_path)]) == 0
    for tower in TOWERS:
        config = read(tmp_path, tower)
        assert config.backend == "python"
        assert set(config.parameters) == {"model_card"}
        assert "class TritonPythonModel" in (tmp_path / tower / "1" / "model.py").read_text()


def test_the_card_does_not_forbid_tuning(laion_export: Path) -> None:
    files = json.loads((laion_export / "model_card.json").read_text())["files"]
    assert set(files) == {
        "canary.npz",
        "clip_text/tokenizer.json",
        "clip_text/1/model.onnx",
        "clip_vision/1/model.onnx",
    }


@pytest.mark.parametrize("tower", TOWERS)
def test_what_is_committed_is_what_is_written_for_the_default_model(tower: str) -> None:
    """But for the fingerprint, which nobody knows without the weights: zeros stand for it."""
    committed = (ROOT / "triton_models" / tower / "config.pbtxt").read_text()
    values = json.loads(read(ROOT / "triton_models", tower).parameters["model_card"].string_value)
    assert values["model_id"] in (ROOT / "Makefile").read_text()
    assert values["fingerprint"] == "0" * 64

    with torch.device("meta"):  # transformers' defaults are ViT-B/32's sizes
        model = CLIPModel(CLIPConfig())
    assert triton_config(tower, ModelCard(**values), model, Backend.ONNXRUNTIME) == committed


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="needs the default model's configuration")
def test_the_default_models_sizes_are_its_own() -> None:
    values = json.loads(
        read(ROOT / "triton_models", TEXT_MODEL).parameters["model_card"].string_value
    )
    processor = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    config = CLIPConfig.from_pretrained(CHECKPOINT)

    assert values["image_mean"] == processor["image_mean"]
    assert values["image_std"] == processor["image_std"]
    assert values["resize_px"] == processor["size"]["shortest_edge"]
    assert values["image_size_px"] == config.vision_config.image_size
    assert values["embedding_dim"] == config.projection_dim
    assert values["max_tokens"] == config.text_config.max_position_embeddings
    with torch.device("meta"):
        ours, theirs = CLIPModel(CLIPConfig()), CLIPModel(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == shapes


def test_the_demo_model_has_what_is_written_for_it() -> None:
    shipped = ROOT / "server" / "clipsearch_server" / "demo_model"
    from clipsearch_export.checkpoint import load_checkpoint
    from clipsearch_export.choices import DEMO

    checkpoint = load_checkpoint(DEMO)
    for tower in TOWERS:
        config = (shipped / tower / "config.pbtxt").read_text()
        values = json.loads(read(shipped, tower).parameters["model_card"].string_value)
        card = ModelCard(**values)
        assert config == triton_config(tower, card, checkpoint.model, Backend.ONNXRUNTIME)


def test_the_documented_tensorrt_option_is_one_that_triton_reads(laion_export: Path) -> None:
    """The keys are those that the onnxruntime backend knows; it refuses a model over any other."""
    documented = (ROOT / "docs" / "triton.md").read_text()
    (block,) = re.findall(r"^optimization \{.*?^\}$", documented, re.DOTALL | re.MULTILINE)
    config = (laion_export / VISION_MODEL / "config.pbtxt").read_text() + block
    parsed = text_format.Parse(config, model_config_pb2.ModelConfig())

    (accelerator,) = parsed.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert set(accelerator.parameters) <= {
        "max_workspace_size_bytes",
        "precision_mode",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
    }
