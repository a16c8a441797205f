"""Finds a CLIP checkpoint, loads it, and learns from it how text and images are prepared.

A checkpoint is a Hugging Face hub id, a local Hugging Face folder, or a model folder that this
package wrote in fp32 (`demo` names the one that the server ships).
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from clipsearch_export.choices import DEMO
from clipsearch_export.weights import read_weights

CARD_NAME = "model_card.json"
CONFIG_KEY = "clipsearch.config"  # ONNX metadata: the checkpoint's config.json

# Pillow's filters (PIL.Image.Resampling) by the names that the model card gives them.
_RESAMPLE_NAMES = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
# What transformers, torch, safetensors and onnx raise on files that are broken or other than they
# expect: a pointer of Git LFS in the place of the weights, for one.
_BROKEN = (
    AttributeError,
    DecodeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
# Parameters that no embedding depends on, and so no export holds.
_NOT_EXPORTED = {"logit_scale"}


class CheckpointError(Exception):
    """The checkpoint cannot be found or is not one that can be exported. The message is one line:
    what, where, and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes pixels: the shorter side resized, the centre cropped, normalised."""

    resize_px: int
    image_size_px: int
    resample: str  # "bicubic", "bilinear" or "lanczos"
    image_mean: tuple[float, float, float]  # of channels in the range 0 to 1
    image_std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory: what is exported, and transformers' own parts to compare with."""

    model_id: str
    model: CLIPModel  # float32, eager attention, in evaluation mode
    tokenizer: Tokenizer  # neither pads nor truncates; adds start and end token
    preprocessing: Preprocessing
    max_tokens: int  # start and end tokens included
    start_token_id: int
    end_token_id: int
    reference_tokenizer: PreTrainedTokenizerBase
    reference_processor: CLIPImageProcessorPil


def load_checkpoint(name: str) -> Checkpoint:
    """Loads a checkpoint by hub id, by folder, or the demo model by the name ``demo``.

    Raises CheckpointError.
    """
    # The hub's own bars show a download; those for reading a file from disk only flicker.
    transformers_logging.disable_progress_bar()
    if name == DEMO:
        return _from_model_folder(_demo_folder())
    folder = Path(name).expanduser()
    if (folder / CARD_NAME).is_file():
        return _from_model_folder(folder)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder}: holds no config.json, so it is not a Hugging Face checkpoint"
            )
        return _from_hugging_face(str(folder), folder.resolve().name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"{name}: no such folder; give a Hugging Face folder, a hub id such as "
            f"openai/clip-vit-base-patch32, or '{DEMO}'"
        )
    try:
        # Asks once: transformers asks six times, each time waiting longer, before it gives up.
        snapshot_download(name, allow_patterns=["config.json"])
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: not to be had from the Hugging Face hub ({_first_line(error)}) nor from its "
            f"cache here; give a local Hugging Face folder, or '{DEMO}' for the model that ships "
            "with clipsearch"
        ) from error
    return _from_hugging_face(name, name)


def _from_hugging_face(source: str, model_id: str) -> Checkpoint:
    try:
        config = AutoConfig.from_pretrained(source)
    except _BROKEN as error:
        raise CheckpointError(
            f"{source}: its config.json cannot be read: {_first_line(error)}"
        ) from error
    if not isinstance(config, CLIPConfig):
        raise CheckpointError(
            f"{source}: is a model of type '{config.model_type}'; only type 'clip' can be exported"
        )
    try:
        loaded: Any = CLIPModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except _BROKEN as error:
        raise CheckpointError(
            f"{source}: its weights cannot be read: {_first_line(error)}"
        ) from error
    model, loading = loaded
    # transformers fills what is missing with random numbers and only warns.
    _check_complete(source, set(loading["missing_keys"]))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        processor = CLIPImageProcessorPil.from_pretrained(source)
    except _BROKEN as error:
        raise CheckpointError(
            f"{source}: its tokenizer or preprocessor_config.json cannot be read: "
            f"{_first_line(error)}"
        ) from error
    return _checkpoint(source, model_id, model, tokenizer, processor)


def _demo_folder() -> Path:
    """The demo model ships with the server: beside this package in a checkout of the repository, or
    wherever clipsearch-server is installed."""
    folders = [Path(__file__).parents[2] / "server" / "clipsearch_server" / "demo_model"]
    spec = importlib.util.find_spec("clipsearch_server")
    if spec is not None and spec.submodule_search_locations:
        folders.append(Path(spec.submodule_search_locations[0]) / "demo_model")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise CheckpointError(
        "the demo model ships with clipsearch-server, which is not installed here; install it or "
        "run this in a checkout of the repository"
    )


def _from_model_folder(folder: Path) -> Checkpoint:
    try:
        card = json.loads((folder / CARD_NAME).read_bytes())
        if card["precision"] != "fp32":
            raise CheckpointError(
                f"{folder}: holds a model in {card['precision']}, from which the original weights "
                "cannot be had back; give the checkpoint that it was exported from"
            )
        text = onnx.load(folder / "clip_text" / "1" / "model.onnx")
        vision = onnx.load(folder / "clip_vision" / "1" / "model.onnx")
        metadata = {entry.key: entry.value for entry in text.metadata_props}
        config = CLIPConfig(**json.loads(metadata[CONFIG_KEY]))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "clip_text" / "tokenizer.json"),
            model_max_length=card["max_tokens"],
        )
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": card["resize_px"]},
            crop_size={"height": card["image_size_px"], "width": card["image_size_px"]},
            resample={name: filter for filter, name in _RESAMPLE_NAMES.items()}[card["resample"]],
            image_mean=card["image_mean"],
            image_std=card["image_std"],
        )
        model_id: str = card["model_id"]
    except _BROKEN as error:
        raise CheckpointError(
            f"{folder}: is no complete model folder: {_first_line(error)}"
        ) from error
    model = CLIPModel._from_config(config, attn_implementation="eager").eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights = {
        name: tensor.reshape(shapes[name])
        for name, tensor in (*read_weights(text), *read_weights(vision))
    }
    _check_complete(str(folder), shapes.keys() - weights.keys())
    model.load_state_dict(weights, strict=False)
    return _checkpoint(str(folder), model_id, model, tokenizer, processor)


def _checkpoint(
    source: str,
    model_id: str,
    model: CLIPModel,
    reference_tokenizer: PreTrainedTokenizerBase,
    processor: CLIPImageProcessorPil,
) -> Checkpoint:
    if not isinstance(reference_tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{source}: its tokenizer has no Hugging Face tokenizers form")
    tokenizer = Tokenizer.from_str(reference_tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    affixes = tokenizer.encode("").ids
    if len(affixes) != 2:
        raise CheckpointError(
            f"{source}: its tokenizer does not put a text between one start and one end token"
        )
    start_token_id, end_token_id = affixes
    text_config: Any = model.config.text_config  # typed as if it could be missing
    known = tokenizer.get_vocab_size()
    if known > text_config.vocab_size:
        raise CheckpointError(
            f"{source}: its tokenizer knows {known} tokens, its model {text_config.vocab_size}"
        )
    # 2 stands in the configurations of OpenAI's checkpoints and means: pool at the highest id.
    if text_config.eos_token_id not in (2, end_token_id):
        raise CheckpointError(
            f"{source}: its model looks for end token {text_config.eos_token_id} (eos_token_id), "
            f"its tokenizer writes {end_token_id}"
        )
    return Checkpoint(
        model_id=model_id,
        model=model,
        tokenizer=tokenizer,
        preprocessing=_preprocessing(source, model.config.vision_config, processor),
        max_tokens=text_config.max_position_embeddings,
        start_token_id=start_token_id,
        end_token_id=end_token_id,
        reference_tokenizer=reference_tokenizer,
        reference_processor=processor,
    )


def _preprocessing(
    source: str, vision_config: Any, processor: CLIPImageProcessorPil
) -> Preprocessing:
    """Reads the processor's settings, and refuses those that a model card cannot express."""
    size: int = vision_config.image_size
    expected: dict[str, Any] = {
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "crop_size": {"height": size, "width": size},
    }
    for name, value in expected.items():
        actual = getattr(processor, name)
        if name == "crop_size":
            actual = {"height": actual["height"], "width": actual["width"]}
        if actual != value:
            raise CheckpointError(
                f"{source}: preprocessor_config.json has {name} = {actual}; only {value} can be "
                "exported"
            )
    for name in ("image_mean", "image_std"):
        channels = getattr(processor, name)
        if not isinstance(channels, list | tuple) or len(channels) != 3:
            raise CheckpointError(
                f"{source}: preprocessor_config.json has {name} = {channels}; it must be three "
                "numbers, for red, green and blue"
            )
    resize_px = processor.size["shortest_edge"]
    if resize_px is None or resize_px < size or processor.resample not in _RESAMPLE_NAMES:
        raise CheckpointError(
            f"{source}: preprocessor_config.json has size = {processor.size} and resample = "
            f"{processor.resample}; only a shortest_edge of at least {size} with one of "
            f"{_RESAMPLE_NAMES} can be exported"
        )
    red, green, blue = processor.image_mean
    red_std, green_std, blue_std = processor.image_std
    return Preprocessing(
        resize_px=resize_px,
        image_size_px=size,
        resample=_RESAMPLE_NAMES[processor.resample],
        image_mean=(red, green, blue),
        image_std=(red_std, green_std, blue_std),
    )


def _check_complete(source: str, missing: set[str]) -> None:
    if lacking := sorted(missing - _NOT_EXPORTED):
        raise CheckpointError(
            f"{source}: lacks {len(lacking)} of the weights of a CLIP model, {lacking[0]} for one"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
