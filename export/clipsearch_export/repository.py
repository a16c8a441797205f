"""Writes the model folder: a Triton model repository that in-process runtimes read as well.

::

    model_card.json             the card, and the SHA-256 of what is not for Triton alone
    clip_text/config.pbtxt      for Triton (see `triton`)
    clip_text/tokenizer.json    Hugging Face tokenizers format, start and end token included
    clip_text/1/model.onnx      (and model.onnx.data, the weights, if they take over 32 MiB)
    clip_vision/config.pbtxt
    clip_vision/1/model.onnx
    canary.npz                  an input and the output of each (see `canary`)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from clipsearch_export.canary import CANARY_NAME, write_canary
from clipsearch_export.card import ModelCard
from clipsearch_export.checkpoint import CARD_NAME, CONFIG_KEY, Checkpoint
from clipsearch_export.choices import Backend
from clipsearch_export.to_onnx import OnnxTowers, save_onnx
from clipsearch_export.triton import TEXT_MODEL, VISION_MODEL, write_triton_files

CARD_KEY = "clipsearch.model_card"  # ONNX metadata: the card as JSON, without `files`
FINGERPRINT_KEY = "clipsearch.fingerprint"  # ONNX metadata: its fingerprint again, for a quick look


def write_model_folder(
    folder: Path, checkpoint: Checkpoint, card: ModelCard, towers: OnnxTowers, backend: Backend
) -> None:
    """Writes a complete model folder into an empty one."""
    config = json.dumps(_configuration(checkpoint))
    for name, model in ((TEXT_MODEL, towers.text), (VISION_MODEL, towers.vision)):
        onnx.helper.set_model_props(
            model,
            {CARD_KEY: card.to_json(), FINGERPRINT_KEY: card.fingerprint, CONFIG_KEY: config},
        )
        save_onnx(model, folder / name / "1" / "model.onnx")
    (folder / TEXT_MODEL / "tokenizer.json").write_text(
        checkpoint.tokenizer.to_str(), encoding="utf-8"
    )
    write_canary(folder, checkpoint, card)
    # What follows may be tuned by hand: no runtime compares it with the card.
    files = {
        str(file.relative_to(folder).as_posix()): _sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_triton_files(folder, card, checkpoint.model, backend)
    (folder / CARD_NAME).write_text(
        json.dumps(dataclasses.asdict(card) | {"files": files}, indent=2) + "\n", encoding="ascii"
    )


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """An empty folder on the file system of ``out``, removed at the end."""
    # Beside `out`, so that Triton never takes it for a model; unless `out` is a mount of its own.
    beside = out if out.is_mount() else out.parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.export-", dir=beside, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def replace_model_folder(staged: Path, out: Path) -> None:
    """Moves a staged model folder to ``out``, in place of the model there; other files stay.

    The card goes first and comes last: in the few renames between, and after a crash in one of
    them, ``out`` has no card and no runtime opens it. A failure puts the old model back.
    Raises OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    replaced = staged / "replaced"
    replaced.mkdir()
    names = (TEXT_MODEL, VISION_MODEL, CANARY_NAME, CARD_NAME)
    done: list[tuple[Path, Path]] = []
    moves = [(out / name, replaced / name) for name in reversed(names) if (out / name).exists()]
    moves += [(staged / name, out / name) for name in names]
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            target.rename(source)
        raise
    shutil.rmtree(replaced)


def _configuration(checkpoint: Checkpoint) -> dict[str, object]:
    """The checkpoint's config.json, without the version of the library that wrote it: an export is
    the same whichever did."""
    config: dict[str, object] = checkpoint.model.config.to_dict()
    del config["transformers_version"]
    return config


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
