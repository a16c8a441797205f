"""Small CLIP checkpoints with random weights, as Hugging Face folders, and exports of them.

An export takes seconds, so each is made once for all processes of pytest-xdist, and only if a test
asks for it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

_CORPUS = ["a black cat", "a photo of two dogs", "heavy rain over the city", "slice of pizza"] * 4
START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., None]:
    """Writes a checkpoint to a folder, see below."""
    return _write_checkpoint


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the processes of pytest-xdist share; nobody changes what is in it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "models"
    folder.mkdir(exist_ok=True)
    return folder


def _once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Has the folder made unless it is there; another process that makes it is waited for."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def openai_checkpoint(shared: Path) -> Path:
    """As OpenAI's are: quick_gelu, and an eos_token_id of 2 that means the highest id."""
    write = partial(_write_checkpoint, legacy_eos=True, hidden_act="quick_gelu")
    return _once(shared / "tiny-openai", write)


@pytest.fixture(scope="session")
def laion_checkpoint(shared: Path) -> Path:
    """As LAION's are: gelu, eos_token_id is the end token, pad_token_id is not. Sizes of its own,
    and a resize beyond the crop."""
    write = partial(
        _write_checkpoint,
        text={"pad_token_id": 1, "max_position_embeddings": 12, "hidden_size": 48},
        vision={"image_size": 24, "patch_size": 6, "num_attention_heads": 4},
        projection_dim=40,
        processor={
            "size": {"shortest_edge": 28},
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.3, 0.4],
            "resample": 2,
        },
    )
    return _once(shared / "tiny-laion", write)


@pytest.fixture(scope="session")
def openai_export(openai_checkpoint: Path, shared: Path) -> Path:
    """`openai_checkpoint` in fp32, by the command."""
    return _once(shared / "openai", partial(_export, openai_checkpoint))


@pytest.fixture(scope="session")
def laion_export(laion_checkpoint: Path, shared: Path) -> Path:
    """`laion_checkpoint` in fp32 with half weights, by the command."""
    return _once(shared / "laion", partial(_export, laion_checkpoint, options=("--half-weights",)))


@pytest.fixture
def exported_once(openai_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of `openai_checkpoint` take the towers that torch made of it once, in seconds."""
    import onnx

    from clipsearch_export.to_onnx import OnnxTowers

    def load(_: object) -> OnnxTowers:
        text, vision = (
            onnx.load(openai_export / tower / "1" / "model.onnx")
            for tower in ("clip_text", "clip_vision")
        )
        return OnnxTowers(text=text, vision=vision)

    monkeypatch.setattr("clipsearch_export.precision.export_towers", load)


def _export(checkpoint: Path, out: Path, options: Sequence[str] = ()) -> None:
    from clipsearch_export.__main__ import main

    assert main([str(checkpoint), "--out", str(out), *options]) == 0


def _write_checkpoint(
    folder: Path,
    *,
    legacy_eos: bool = False,
    hidden_act: str = "gelu",
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    projection_dim: int = 24,
    processor: dict[str, Any] | None = None,
) -> None:
    """Writes a CLIPModel of one layer a tower, every parameter random, with a tokenizer of its
    own."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    text = {"max_position_embeddings": 16, **(text or {})}
    tokenizer = _tokenizer(text["max_position_embeddings"])
    end = tokenizer.convert_tokens_to_ids(END)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_act": hidden_act,
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.convert_tokens_to_ids(START),
            "eos_token_id": 2 if legacy_eos else end,
            "pad_token_id": end,
            **text,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8, **(vision or {})},
        projection_dim=projection_dim,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    for parameter in model.parameters():  # biases start at 0, norms at 1: indistinguishable
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = config.vision_config.image_size
    CLIPImageProcessorPil(
        **{
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            **(processor or {}),
        }
    ).save_pretrained(folder)


def _tokenizer(max_tokens: int) -> Any:
    """CLIP's tokenizer with a small vocabulary; as there, every byte is a token, alone and at the
    end of a word, and the end token has the highest id."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, end_of_word_suffix="</w>")
    trained.train_from_iterator(_CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *model["vocab"], START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=[tuple(merge) for merge in model["merges"]],
        model_max_length=max_tokens,
    )
