"""The model folder as the server sees it: the contract between `export`, which writes it, and every
runtime, which reads it.

A model folder is a Triton model repository with a card::

    model_card.json             sizes, token limit, fingerprint, and the SHA-256 of each file below
    clip_text/config.pbtxt
    clip_text/tokenizer.json    Hugging Face tokenizers format
    clip_text/1/model.onnx      input_ids (n, t) int64        -> text_embeds (n, d) float32
    clip_vision/config.pbtxt
    clip_vision/1/model.onnx    pixel_values (n, 3, s, s) uint8 -> image_embeds (n, d) float32
    canary.npz                  an input and the output of each, under these four names, n = 1;
                                folders of earlier versions have none
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from clipsearch_server.cores import cores
from clipsearch_server.errors import StartupError

CARD_NAME = "model_card.json"
CANARY_NAME = "canary.npz"
TEXT_MODEL = "clip_text"
VISION_MODEL = "clip_vision"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model is. The numbers decide how text and images are prepared for it."""

    format_version: int  # of the card itself: 1
    model_id: str  # "openai/clip-vit-base-patch32", ...
    fingerprint: str  # 64 hexadecimal digits: hash of everything that decides an embedding
    precision: str  # "fp32", "fp16", "int8", "int8-dynamic"
    embedding_dim: int
    image_size_px: int  # side of the square that the vision tower sees
    resize_px: int  # the shorter side is resized to this before the centre is cropped
    resample: Literal["bicubic", "bilinear", "lanczos"]
    image_mean: tuple[float, float, float]  # applied in the graph; here for the record
    image_std: tuple[float, float, float]
    max_tokens: int  # start and end tokens included
    start_token_id: int
    end_token_id: int  # texts are pooled here, so padding with it changes nothing
    files: dict[str, str]  # path below the folder -> SHA-256 in hexadecimal


_CARD = TypeAdapter(ModelCard)
_FILES = {
    f"{TEXT_MODEL}/tokenizer.json",
    f"{TEXT_MODEL}/1/model.onnx",
    f"{VISION_MODEL}/1/model.onnx",
}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder whose card was read and whose files are what the card says."""

    path: Path
    card: ModelCard

    @property
    def tokenizer_path(self) -> Path:
        return self.path / TEXT_MODEL / "tokenizer.json"

    @property
    def text_path(self) -> Path:
        return self.path / TEXT_MODEL / "1" / "model.onnx"

    @property
    def vision_path(self) -> Path:
        return self.path / VISION_MODEL / "1" / "model.onnx"


def open_model_folder(path: Path) -> ModelFolder:
    """Reads the card of a model folder and checks every file against it.

    Raises StartupError naming the file and the way out: the folder has no card, the card is not one
    that this server reads, or a file is missing or differs from its SHA-256.
    """
    card = _read_card(path / CARD_NAME)
    # Side by side, as hashing lets go of the interpreter: 600 MB of weights take 0.5 s of a core.
    with ThreadPoolExecutor(cores(), thread_name_prefix="hash") as executor:
        for name, actual in zip(
            card.files, executor.map(lambda name: _sha256(path / name), card.files), strict=True
        ):
            expected = card.files[name]
            if actual != expected:
                raise StartupError(
                    f"{path / name}: is not the file that {CARD_NAME} describes (SHA-256 "
                    f"{actual[:12]}..., expected {expected[:12]}...); export the model again (make "
                    "export-models)"
                )
    return ModelFolder(path, card)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StartupError(
            f"{file}: {error.strerror}; export the model again (make export-models)"
        ) from error


def _read_card(file: Path) -> ModelCard:
    try:
        values: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise StartupError(
            f"{file}: {error.strerror}; a model folder is what `make export-models` writes"
        ) from error
    except ValueError as error:
        raise StartupError(f"{file}: is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format_version") != 1:
        raise StartupError(f"{file}: is not a model card of format 1, the one this server reads")
    names = {field.name for field in fields(ModelCard)}
    if missing := sorted(names - values.keys()):
        raise StartupError(f"{file}: lacks {', '.join(missing)}; export the model again")
    try:
        card = _CARD.validate_python(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise StartupError(f"{file}: {where}: {problem['msg']}; export the model again") from error
    if unlisted := sorted(_FILES - card.files.keys()):
        raise StartupError(f"{file}: does not list {', '.join(unlisted)}; export the model again")
    return card
