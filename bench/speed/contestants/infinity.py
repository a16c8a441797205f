"""Baseline: infinity_emb, the server that one would pick instead, on the same checkpoint.

It embeds and has no index, so it does less than what it is compared with. Its settings are what was
fastest for it on CPUs: PyTorch, float32, without torch.compile, which recompiles for each length.
It brings packages that do not agree with ours, so it has an environment of its own.
"""

from __future__ import annotations

import base64
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from clipsearch_server.testing import LoggedProcess
from speed.http import post

REQUIREMENTS = (
    "torch==2.13.0",
    "infinity_emb[server]==0.0.78",
    "sentence-transformers>=3,<4",
    "transformers<5",
    "aiohttp",  # without which it takes no images
    "click<8.2",
    "optimum",
    "einops",
    "pillow",
)
_NAME = "model"  # under which it serves the checkpoint
_PATH = "/embeddings"
_READY = "ready"


def install(folder: Path) -> str | None:
    """Makes its environment, unless it is there; returns why not, if that fails. Takes a minute."""
    if (folder / _READY).exists():
        return None
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--quiet", *REQUIREMENTS], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2] or f"pip ended with {done.returncode}"
    (folder / _READY).touch()
    return None


class InfinityProcess(LoggedProcess):
    """infinity_emb on a checkpoint, on a port of its own."""

    def __init__(self, folder: Path, checkpoint: Path, *, port: int, log_file: Path) -> None:
        super().__init__(
            [
                str(folder / "bin" / "infinity_emb"),
                "v2",
                *("--model-id", str(checkpoint), "--served-model-name", _NAME),
                *("--engine", "torch", "--device", "cpu", "--dtype", "float32"),
                *("--no-compile", "--no-bettertransformer", "--no-model-warmup"),
                *("--batch-size", "32"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            ready=r"Uvicorn running on http://(\S+)",
            environment={
                "PATH": "/usr/bin:/bin",
                "HF_HUB_OFFLINE": "1",
                "DO_NOT_TRACK": "1",  # it would report its use
                "INFINITY_ANONYMOUS_USAGE_STATS": "0",
                "HOME": str(folder),
            },
            log_file=log_file,
        )


def text_requests(texts: Sequence[str]) -> list[bytes]:
    return [_post(text, "text") for text in texts]


def image_requests(contents: Sequence[bytes]) -> list[bytes]:
    return [
        _post("data:image/jpeg;base64," + base64.b64encode(content).decode(), "image")
        for content in contents
    ]


def _post(item: str, modality: str) -> bytes:
    body = {"model": _NAME, "modality": modality, "encoding_format": "base64", "input": [item]}
    return post(_PATH, body)
