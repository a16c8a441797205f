"""The gate shuts, and at the right stage."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the exporter needs torch")

import numpy as np
import onnx
from onnx import numpy_helper

from clipsearch_export.checkpoint import Checkpoint, load_checkpoint
from clipsearch_export.parity import check_parity


@pytest.fixture
def folder(laion_export: Path, tmp_path: Path) -> Path:
    """A copy of an export, to be spoilt."""
    return Path(shutil.copytree(laion_export, tmp_path / "spoilt"))


@pytest.fixture(scope="module")
def checkpoint(laion_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(laion_checkpoint))


def _failed(folder: Path, checkpoint: Checkpoint) -> set[str]:
    stages = check_parity(folder, checkpoint, min_cosine=0.9999)
    return {stage.name for stage in stages if not stage.passed}


def _scale(model: Path, initializer: str, factor: float) -> None:
    proto = onnx.load(model)
    (tensor,) = (t for t in proto.graph.initializer if t.name == initializer)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), initializer))
    onnx.save(proto, model)


def test_an_export_passes(folder: Path, checkpoint: Checkpoint) -> None:
    assert _failed(folder, checkpoint) == set()


def test_another_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    file = folder / "clip_text" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = None  # no lower case
    file.write_text(json.dumps(content))

    assert "token ids" in _failed(folder, checkpoint)


def test_another_resampling(folder: Path, checkpoint: Checkpoint) -> None:
    wrong = dataclasses.replace(checkpoint.preprocessing, resample="bicubic")

    failed = _failed(folder, dataclasses.replace(checkpoint, preprocessing=wrong))

    assert "pixels" in failed
    assert "token ids" not in failed


@pytest.mark.parametrize(
    ("tower", "initializer", "failed"),
    [
        ("clip_vision", "mean", {"image embeddings"}),
        ("clip_vision", "vision_model.post_layernorm.weight", {"image embeddings"}),
        ("clip_text", "text_model.final_layer_norm.weight", {"text embeddings"}),
    ],
)
def test_another_weight(
    folder: Path, checkpoint: Checkpoint, tower: str, initializer: str, failed: set[str]
) -> None:
    _scale(folder / tower / "1" / "model.onnx", initializer, np.linspace(0.5, 2, 1)[0])

    assert _failed(folder, checkpoint) == failed


def test_embeddings_that_are_no_numbers(folder: Path, checkpoint: Checkpoint) -> None:
    _scale(
        folder / "clip_text" / "1" / "model.onnx",
        "text_model.final_layer_norm.bias",
        float("nan"),
    )

    assert "text embeddings" in _failed(folder, checkpoint)
