"""Weights inside ONNX files under the names that they have in the checkpoint.

torch's exporter folds constants, so a linear layer's weight appears transposed and under a name
like ``val_37``. Named canonically, a model folder holds everything that its checkpoint did: an
fp32 export can be read back and exported again, and nothing ships twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

TRANSPOSED = ".transposed"  # suffix of a weight whose two axes are exchanged
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def name_weights(model: onnx.ModelProto, state: Mapping[str, Tensor]) -> None:
    """Names each floating-point initialiser of a model after the parameter of ``state`` that it
    equals, in the parameter's shape or another; one that equals the transpose gets the suffix
    TRANSPOSED. The rest keep their names.
    """
    taken = {initializer.name for initializer in model.graph.initializer}
    names: dict[str, str] = {}
    for name, tensor in state.items():
        if name not in taken:
            values = tensor.detach().numpy()
            names.setdefault(_digest(values), name)
            if values.ndim == 2:
                names.setdefault(_digest(values.T), name + TRANSPOSED)
    renamed: dict[str, str] = {}
    for initializer in model.graph.initializer:
        if initializer.data_type not in _FLOATS or _is_weight(initializer):
            continue
        parameter = names.get(_digest(numpy_helper.to_array(initializer)))
        if parameter is not None and parameter not in taken:
            taken.add(parameter)
            renamed[initializer.name] = parameter
            initializer.name = parameter
    _rename_inputs(model, renamed)


def store_half(model: onnx.ModelProto) -> None:
    """Stores the float32 weights of a model as float16, each followed by a Cast back to float32,
    which a runtime folds when it loads the file. Halves the file; what is computed changes only by
    the rounding of the weights."""
    casts = []
    renamed: dict[str, str] = {}
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or not _is_weight(initializer):
            continue
        half = numpy_helper.to_array(initializer).astype(np.float16)
        initializer.CopyFrom(numpy_helper.from_array(half, initializer.name))
        widened = f"{initializer.name}.float32"
        casts.append(
            helper.make_node("Cast", [initializer.name], [widened], widened, to=TensorProto.FLOAT)
        )
        renamed[initializer.name] = widened
    _rename_inputs(model, renamed)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def read_weights(model: onnx.ModelProto) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights that `name_weights` named, under the checkpoint's names, as float32."""
    for initializer in model.graph.initializer:
        if initializer.data_type not in _FLOATS or not _is_weight(initializer):
            continue
        values = numpy_helper.to_array(initializer).astype(np.float32)
        name = initializer.name.removesuffix(TRANSPOSED)
        if name != initializer.name:
            values = values.T
        yield name, torch.from_numpy(np.ascontiguousarray(values))


def _is_weight(initializer: TensorProto) -> bool:
    # A parameter's name is a path with dots; what the exporter names itself has none.
    return "." in initializer.name


def _digest(values: NDArray[np.generic]) -> str:
    digest = hashlib.sha256(str(values.dtype).encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _rename_inputs(model: onnx.ModelProto, renamed: Mapping[str, str]) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
