"""What each precision promises beyond the gate's cosine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the exporter needs torch")

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from clipsearch_export.card import ModelCard
from clipsearch_export.checkpoint import load_checkpoint
from clipsearch_export.choices import Backend, Precision
from clipsearch_export.parity import check_parity
from clipsearch_export.precision import export_in, quantize
from clipsearch_export.repository import write_model_folder
from clipsearch_export.to_onnx import OnnxTowers


def _operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.fixture
def towers(openai_export: Path) -> OnnxTowers:
    return OnnxTowers(
        text=onnx.load(openai_export / "clip_text" / "1" / "model.onnx"),
        vision=onnx.load(openai_export / "clip_vision" / "1" / "model.onnx"),
    )


@pytest.mark.parametrize(
    ("precision", "operator"),
    [(Precision.INT8, "MatMulNBits"), (Precision.INT8_DYNAMIC, "MatMulInteger")],
)
def test_both_kinds_of_int8(
    openai_checkpoint: Path,
    towers: OnnxTowers,
    tmp_path: Path,
    precision: Precision,
    operator: str,
) -> None:
    checkpoint = load_checkpoint(str(openai_checkpoint))

    quantised = quantize(towers, precision)
    write_model_folder(
        tmp_path,
        checkpoint,
        ModelCard.of(checkpoint, precision),
        quantised,
        Backend.ONNXRUNTIME,
    )
    stages = check_parity(tmp_path, checkpoint, min_cosine=precision.min_cosine)

    assert all(stage.passed for stage in stages)
    for model in (quantised.text, quantised.vision):
        assert operator in _operators(model)
        # What an older runtime reads.
        assert model.ir_version <= 10
        assert 17 <= next(o.version for o in model.opset_import if not o.domain) <= 20


def test_the_shape_of_a_weight_is_noted_nowhere_else(towers: OnnxTowers) -> None:
    """ONNX Runtime 1.31 transposes weights when it quantises, and then finds the note wrong."""
    for model in (towers.text, towers.vision):
        weights = {weight.name for weight in model.graph.initializer}
        assert not weights & {value.name for value in model.graph.value_info}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_an_embedding_does_not_depend_on_its_batch(
    openai_checkpoint: Path, towers: OnnxTowers, precision: Precision
) -> None:
    end = load_checkpoint(str(openai_checkpoint)).end_token_id
    quantised = quantize(towers, precision)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    texts = [_text(length, end, generator) for length in (4, 2, 7, 3, 16)]

    vision, text = _session(quantised.vision), _session(quantised.text)
    (images,) = vision.run(None, {"pixel_values": pixels})
    (sentences,) = text.run(None, {"input_ids": np.stack([_pad(ids, 16, end) for ids in texts])})

    for image, expected in zip(pixels, images, strict=True):
        ((alone,),) = vision.run(None, {"pixel_values": image[None]})
        np.testing.assert_array_equal(alone, expected)
    for ids, expected in zip(texts, sentences, strict=True):
        ((alone,),) = text.run(None, {"input_ids": ids[None]})
        np.testing.assert_array_equal(alone, expected)


def test_the_padding_of_a_text_is_not_computed(openai_checkpoint: Path, towers: OnnxTowers) -> None:
    """What int8-dynamic computes depends on all the rows that it sees: they share a scale."""
    end = load_checkpoint(str(openai_checkpoint)).end_token_id
    text = _session(quantize(towers, Precision.INT8_DYNAMIC).text)
    generator = np.random.default_rng(0)
    short, long = _text(4, end, generator), _text(9, end, generator)

    ((alone,),) = text.run(None, {"input_ids": short[None]})
    ((padded,),) = text.run(None, {"input_ids": _pad(short, 16, end)[None]})
    ((beside, _),) = text.run(None, {"input_ids": np.stack([_pad(short, 9, end), long])})

    np.testing.assert_array_equal(padded, alone)
    assert np.abs(beside - alone).max() > 0


def _session(model: onnx.ModelProto) -> Any:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _text(length: int, end: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(length,): random tokens, and the end token."""
    return np.append(generator.integers(0, end, length - 1), end)


def _pad(ids: NDArray[np.int64], length: int, end: int) -> NDArray[np.int64]:
    return np.pad(ids, (0, length - len(ids)), constant_values=end)


def test_fp16_of_another_architecture(
    tmp_path: Path, write_checkpoint: Callable[..., None]
) -> None:
    # As ViT-L/14@336: towers of unlike widths, patches that no power of two divides.
    write_checkpoint(
        tmp_path / "checkpoint",
        hidden_act="quick_gelu",
        text={"hidden_size": 24},
        vision={"image_size": 42, "patch_size": 14, "hidden_size": 64, "num_attention_heads": 4},
        projection_dim=24,
    )
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint"))

    towers = export_in(Precision.FP16, checkpoint)
    write_model_folder(
        tmp_path / "out",
        checkpoint,
        ModelCard.of(checkpoint, Precision.FP16),
        towers,
        Backend.ONNXRUNTIME,
    )
    stages = check_parity(tmp_path / "out", checkpoint, min_cosine=Precision.FP16.min_cosine)

    assert all(stage.passed for stage in stages)
    for model in (towers.text, towers.vision):
        weights = [w for w in model.graph.initializer if "." in w.name and len(w.dims) > 1]
        floats = [w for w in weights if w.data_type != onnx.TensorProto.INT64]
        assert floats
        assert {w.data_type for w in floats} == {onnx.TensorProto.FLOAT16}
        (output,) = model.graph.output
        assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
