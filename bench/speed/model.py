"""The checkpoint that is measured, in the forms that the contestants take.

    build/bench/model/checkpoint     Hugging Face: for transformers and for infinity_emb
    build/bench/model/fp32           exported: for the server and for the bare encoder
    build/bench/model/int8-dynamic

Speed does not depend on the values of weights, so unless a checkpoint is given, one of the size of
openai/clip-vit-base-patch32 is made of random ones, with the demo model's tokenizer.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, rmtree
from typing import Any

from clipsearch_server.settings import DEMO_MODEL_DIR

PRECISIONS = ("fp32", "int8-dynamic")
_COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Model:
    """Where the forms of a model are."""

    checkpoint: Path
    exported: dict[str, Path]  # by precision

    @property
    def name(self) -> str:
        return "ViT-B/32 of random weights" if _is_ours(self.checkpoint) else self.checkpoint.name


def model_in(folder: Path, given: Path | None) -> Model:
    """Where the model's forms are, or will be: below ``folder``, but for a checkpoint ``given``."""
    home = folder / (f"model-{given.resolve().name}" if given else "model")
    checkpoint = given or home / "checkpoint"
    return Model(checkpoint, {precision: home / precision for precision in PRECISIONS})


def is_made(model: Model) -> bool:
    return (model.exported["fp32"].parent / _COMPLETE).exists()


def make(model: Model) -> None:
    """Makes the forms of a model that are not there. Takes a minute, and torch: call it in a
    process that ends."""
    home = model.exported["fp32"].parent
    if _is_ours(model.checkpoint):
        rmtree(home, ignore_errors=True)
        _make_checkpoint(model.checkpoint)
    _export(model)
    (home / _COMPLETE).touch()


def size_bytes(exported: Path) -> int:
    return sum(file.stat().st_size for file in exported.rglob("*") if file.is_file())


def _is_ours(checkpoint: Path) -> bool:
    return checkpoint.name == "checkpoint" and checkpoint.parent.name == "model"


def _make_checkpoint(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder.mkdir(parents=True)
    tokenizer = DEMO_MODEL_DIR / "clip_text" / "tokenizer.json"
    ids = json.loads(tokenizer.read_text())["model"]["vocab"]
    start, end = "<|startoftext|>", "<|endoftext|>"
    config = CLIPConfig(architectures=["CLIPModel"])  # the defaults are ViT-B/32's
    text: Any = config.text_config  # typed as if they could be missing
    vision: Any = config.vision_config
    text.bos_token_id = ids[start]
    text.eos_token_id = text.pad_token_id = ids[end]
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    copy(tokenizer, folder)
    _write(
        folder / "tokenizer_config.json",
        tokenizer_class="CLIPTokenizer",
        processor_class="CLIPProcessor",
        model_max_length=text.max_position_embeddings,
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )
    card = json.loads((DEMO_MODEL_DIR / "model_card.json").read_text())
    size = vision.image_size
    _write(
        folder / "preprocessor_config.json",
        image_processor_type="CLIPImageProcessor",
        processor_class="CLIPProcessor",
        do_resize=True,
        size={"shortest_edge": size},
        resample=3,  # bicubic
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=card["image_mean"],
        image_std=card["image_std"],
        do_convert_rgb=True,
    )


def _write(file: Path, **values: object) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n")


def _export(model: Model) -> None:
    """As `clipsearch-export` does, but once for both precisions and without its comparison with
    PyTorch: half the time."""
    from clipsearch_export.card import ModelCard
    from clipsearch_export.checkpoint import load_checkpoint
    from clipsearch_export.precision import Precision, quantize
    from clipsearch_export.repository import (
        replace_model_folder,
        staging_folder,
        write_model_folder,
    )
    from clipsearch_export.to_onnx import export_towers
    from clipsearch_export.triton import Backend

    # ONNX Runtime's quantiser has set it to INFO at import, and says much there.
    logging.getLogger().setLevel(logging.ERROR)
    checkpoint = load_checkpoint(str(model.checkpoint))
    towers = export_towers(checkpoint)
    for name, out in model.exported.items():
        precision = Precision(name)
        with staging_folder(out) as staged:
            write_model_folder(
                staged,
                checkpoint,
                ModelCard.of(checkpoint, precision),
                quantize(towers, precision),
                Backend.ONNXRUNTIME,
            )
            replace_model_folder(staged, out)
