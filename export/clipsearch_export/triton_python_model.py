"""Runs the ONNX file beside it in Triton's python backend: the whole batch in one call.

`clipsearch-export --backend python` copies this file into the model repository. Triton runs it with
the first python3 on its PATH, which must have numpy and onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton  # exists in Triton's process alone


class TritonPythonModel:
    """What the backend looks for in this file."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]
        options = ort.SessionOptions()
        # Spinning threads would take the cores from the other tower and from Triton.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            providers.insert(0, "CUDAExecutionProvider")
        self._session = ort.InferenceSession(
            Path(args["model_repository"], args["model_version"], "model.onnx"),
            options,
            providers=providers,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        # By DLPack both ways: Triton's own conversion was built for numpy 1, and with numpy 2 it
        # answers with empty tensors (tried: Triton 24.10, numpy 2.4).
        inputs = [np.from_dlpack(triton.get_input_tensor_by_name(r, self._input)) for r in requests]
        responses: list[Any] = []
        # Triton batches equal shapes, so this is one group but for a batch that was put together
        # otherwise.
        for _, group in groupby(inputs, key=lambda rows: rows.shape[1:]):
            batch = list(group)
            (outputs,) = self._session.run([self._output], {self._input: np.concatenate(batch)})
            ends = np.cumsum([len(rows) for rows in batch])
            responses += [
                triton.InferenceResponse([triton.Tensor.from_dlpack(self._output, rows)])
                for rows in np.split(outputs, ends[:-1])
            ]
        return responses
