"""What the command lets its caller choose from; imports nothing that takes time."""

from __future__ import annotations

from enum import StrEnum

DEMO = "demo"  # the model that ships with the server, by name


class Precision(StrEnum):
    """How weights are stored and in which numbers the towers compute."""

    FP32 = "fp32"
    FP16 = "fp16"  # weights and arithmetic; norms, softmax and L2 norm accumulate in float32
    INT8 = "int8"  # weights of the linear layers only: an embedding is its own image's affair
    INT8_DYNAMIC = "int8-dynamic"  # activations too, with one scale for a whole batch

    @property
    def min_cosine(self) -> float:
        """The lowest cosine between an exported embedding and PyTorch's that passes the gate."""
        return {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98, "int8-dynamic": 0.98}[self.value]


class Backend(StrEnum):
    """Which of Triton's backends runs the ONNX files."""

    ONNXRUNTIME = "onnxruntime"
    PYTHON = "python"
