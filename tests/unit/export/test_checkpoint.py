"""Finding and loading checkpoints: what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the exporter needs torch")

import numpy as np
from safetensors.numpy import load_file, save_file

from clipsearch_export.checkpoint import CheckpointError, load_checkpoint

SHARED = Path(__file__).parents[4] / "shared"


@pytest.fixture
def checkpoint(openai_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be spoilt."""
    return Path(shutil.copytree(openai_checkpoint, tmp_path / "spoilt"))


def test_what_a_checkpoint_says_of_itself(laion_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(str(laion_checkpoint))

    assert checkpoint.model_id == "tiny-laion"
    assert checkpoint.max_tokens == 12
    assert checkpoint.preprocessing.resize_px == 28
    assert checkpoint.preprocessing.image_size_px == 24
    assert checkpoint.preprocessing.resample == "bilinear"
    assert checkpoint.preprocessing.image_std == (0.2, 0.3, 0.4)


def test_the_tokenizer_adds_start_and_end_and_neither_pads_nor_truncates(
    openai_checkpoint: Path,
) -> None:
    checkpoint = load_checkpoint(str(openai_checkpoint))

    short, long = checkpoint.tokenizer.encode_batch(["a cat", "a cat " * 50])

    assert len(short.ids) < len(long.ids) > checkpoint.max_tokens
    for encoding in (short, long):
        assert encoding.ids[0] == checkpoint.start_token_id
        assert encoding.ids[-1] == checkpoint.end_token_id


def test_a_tokenizer_with_more_tokens_than_the_model(
    tmp_path: Path, write_checkpoint: Callable[..., None]
) -> None:
    write_checkpoint(tmp_path, legacy_eos=True, text={"vocab_size": 300})

    with pytest.raises(CheckpointError, match="tokenizer knows 553 tokens, its model 300"):
        load_checkpoint(str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the golden token ids are not beside the project")
def test_token_ids_of_an_independent_implementation(
    tmp_path: Path, write_checkpoint: Callable[..., None]
) -> None:
    write_checkpoint(tmp_path, legacy_eos=True, text={"vocab_size": 49408})
    for file in (SHARED / "models" / "clip-vit-base-patch32").glob("*"):
        if file.name.startswith(("tokenizer", "vocab", "merges", "special_tokens")):
            shutil.copy(file, tmp_path)
    tokenizer = load_checkpoint(str(tmp_path)).tokenizer
    tokenizer.encode_special_tokens = True  # as the server does

    for golden in json.loads((SHARED / "golden" / "clip_tokens.json").read_text()):
        ids = tokenizer.encode(golden["text"]).ids
        cut = ids if len(ids) <= 77 else [*ids[:76], ids[-1]]
        assert cut == golden["ids"], golden["text"]


@pytest.mark.parametrize("name", ["/nowhere", "./nowhere", "a/b/c", "nowhere"])
def test_a_folder_that_does_not_exist(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder; give a Hugging Face folder"):
        load_checkpoint(name)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _set(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return change


def _end_token_elsewhere(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(content))


def _drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _truncate_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _replace_weights(content: bytes) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return spoil


def _widen_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] = np.zeros((3, 5), dtype=np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove("config.json"), "no config.json"),
        (_set("config.json", model_type="bert"), "type 'bert'; only type 'clip'"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (_remove("model.safetensors"), "weights cannot be read"),
        (_truncate_weights, "weights cannot be read"),
        (_widen_weight, "weights cannot be read"),
        (_drop_weight, "lacks 1 of the weights of a CLIP model, visual_projection.weight"),
        (_remove("preprocessor_config.json"), "preprocessor_config.json cannot be read"),
        (_set("preprocessor_config.json", do_center_crop=False), "do_center_crop = False"),
        (_set("preprocessor_config.json", size={"height": 32, "width": 32}), "size ="),
        (_set("preprocessor_config.json", crop_size={"height": 8, "width": 8}), "crop_size ="),
        (_set("preprocessor_config.json", resample=0), "resample = 0"),
        (_set("preprocessor_config.json", image_mean=0.5), "image_mean = 0.5"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"a": 1}'), "tokenizer or "),
        (_replace_weights(b""), "weights cannot be read"),
        (
            _replace_weights(b"version https://git-lfs.github.com/spec/v1\n"),
            "weights cannot be read",
        ),
        (_end_token_elsewhere, "looks for end token 7"),
    ],
)
def test_a_folder_that_cannot_be_exported(
    checkpoint: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(checkpoint)

    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(str(checkpoint))

    assert str(checkpoint) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_card.json", b"{}", "no complete model folder: 'precision'"),
        ("model_card.json", b"[]", "no complete model folder: "),
        ("model_card.json", b'{"precision": "fp32"}', "no complete model folder: 'max_tokens'"),
        ("model_card.json", b"not JSON", "no complete model folder: Expecting value"),
        ("model_card.json", b'{"precision": "int8"}', "holds a model in int8"),
        ("clip_text/1/model.onnx", b"not ONNX", "no complete model folder: Error parsing"),
        ("clip_vision/1/model.onnx", None, "no complete model folder: .*No such file"),
    ],
)
def test_a_model_folder_that_cannot_be_exported(
    laion_export: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    folder = Path(shutil.copytree(laion_export, tmp_path / "spoilt"))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))
