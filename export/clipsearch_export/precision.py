"""How an ONNX model gets into the precision in which it is exported."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch import nn

from clipsearch_export.checkpoint import Checkpoint
from clipsearch_export.choices import Precision
from clipsearch_export.to_onnx import (
    MAX_SINGLE_FILE_BYTES,
    OnnxTowers,
    export_towers,
    weight_bytes,
)
from clipsearch_export.weights import store_half

_MATMUL_BITS = 8
# Every 32 weights of a column share a scale. With 128, ONNX Runtime's kernel is a little faster,
# but an embedding then depends (by 5e-8) on what else is in its batch.
_MATMUL_BLOCK = 32


def export_in(
    precision: Precision, checkpoint: Checkpoint, *, half_weights: bool = False
) -> OnnxTowers:
    """Exports both towers of a float32 checkpoint in a precision.

    With ``half_weights`` (for FP32 alone), the weights are stored as float16 and widened when the
    file is loaded: half the file, the same arithmetic. Without loss if the checkpoint's weights are
    float16 numbers, which `round_weights` makes of any.
    """
    if precision is Precision.FP16:
        return export_towers(_cast(checkpoint, torch.float16))
    towers = export_towers(checkpoint)
    if half_weights:
        store_half(towers.text)
        store_half(towers.vision)
    return quantize(towers, precision)


def quantize(towers: OnnxTowers, precision: Precision) -> OnnxTowers:
    """Quantises float32 towers, if the precision is one of the two kinds of int8."""
    if precision is Precision.INT8:
        return OnnxTowers(_quantize_weights(towers.text), _quantize_weights(towers.vision))
    if precision is Precision.INT8_DYNAMIC:
        return OnnxTowers(_quantize_dynamic(towers.text), _quantize_dynamic(towers.vision))
    return towers


def round_weights(checkpoint: Checkpoint) -> Checkpoint:
    """Rounds the weights of a checkpoint to float16 numbers, still held as float32."""
    return _cast(_cast(checkpoint, torch.float16), torch.float32)


def _cast(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    model = copy.deepcopy(checkpoint.model)
    module: nn.Module = model  # transformers' own `to` hides torch's signature
    module.to(dtype)
    return dataclasses.replace(checkpoint, model=model)


def _quantize_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """8-bit weights for each MatMul with a constant, as ONNX Runtime's operator MatMulNBits.

    Activations stay float32 (accuracy_level unset), so no row of a batch depends on another.
    """
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=_MATMUL_BITS,
        block_size=_MATMUL_BLOCK,
        is_symmetric=True,
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights per output channel, and 8-bit activations with a scale found as they come.

    Weights keep 7 of 8 bits (reduce_range): CPUs without VNNI add two products in 16 bits, which
    two full-range ones overflow. The same file would mean another embedding there (cosine to
    PyTorch 0.86 at worst on a small tower, 0.999 with 7 bits).
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=weight_bytes(model) > MAX_SINGLE_FILE_BYTES,
        )
        return onnx.load(file)
