"""Both towers as one Hugging Face folder, weights in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from clipsearch_export.demo import vocabulary
from clipsearch_export.demo.architecture import IMAGE_SIZE, MEAN, STD, clip_config

_LOGIT_SCALE = 4.6052  # ln 100, where OpenAI's models ended; ranking does not depend on it
_BICUBIC = 3  # PIL's number


def save(
    folder: Path,
    text: CLIPTextModelWithProjection,
    vision: CLIPVisionModelWithProjection,
    tokenizer: Tokenizer,
) -> None:
    """Write ``folder``, complete or not at all: what was there before is replaced last.

    The weights are float16 numbers. config.json asks for float32, so that whoever loads them
    computes in float32 with exactly those numbers.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = clip_config()
    config.architectures = ["CLIPModel"]
    config.dtype = "float32"
    config.save_pretrained(partial)
    model = CLIPModel(config)
    model.logit_scale.data.fill_(_LOGIT_SCALE)
    weights = model.state_dict() | text.state_dict() | vision.state_dict()
    model.load_state_dict(weights)  # raises if the towers are not the model's own
    half = {name: value.to(torch.float16).contiguous() for name, value in weights.items()}
    weights_file = partial / "model.safetensors"
    save_file(half, weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors leaves it to its owner alone
    tokenizer.save(str(partial / "tokenizer.json"))
    _write(partial / "tokenizer_config.json", _TOKENIZER)
    _write(partial / "preprocessor_config.json", _PREPROCESSOR)

    previous = folder.with_name(f".{folder.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": vocabulary.START,
    "eos_token": vocabulary.END,
    "pad_token": vocabulary.END,
    "unk_token": vocabulary.END,
    "model_max_length": vocabulary.MAX_TOKENS,
    "clean_up_tokenization_spaces": False,
}
_PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": IMAGE_SIZE},
    "resample": _BICUBIC,
    "do_center_crop": True,
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
}


def _write(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
