"""The command, from a checkpoint to a model folder that the server opens."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the exporter needs torch")

import numpy as np
import onnx
import onnxruntime as ort

from clipsearch_export.__main__ import main
from clipsearch_export.card import ModelCard
from clipsearch_export.checkpoint import load_checkpoint
from clipsearch_export.choices import Precision
from clipsearch_export.command import REFUSED, UNUSABLE


def _fingerprint(folder: Path) -> str:
    return str(json.loads((folder / "model_card.json").read_text())["fingerprint"])


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("name", ["openai_export", "laion_export"])
def test_the_server_opens_the_folder(name: str, request: pytest.FixtureRequest) -> None:
    model = pytest.importorskip("clipsearch_server.model", reason="needs clipsearch-server")

    folder = model.open_model_folder(request.getfixturevalue(name))

    assert folder.card.precision == "fp32"
    may_be_tuned = {"clip_text/config.pbtxt", "clip_vision/config.pbtxt"}
    assert set(folder.card.files) == set(_content(folder.path)) - {"model_card.json", *may_be_tuned}
    for path in (folder.tokenizer_path, folder.text_path, folder.vision_path):
        assert path.relative_to(folder.path).as_posix() in folder.card.files


def test_the_card_describes_the_checkpoint(laion_export: Path) -> None:
    card = json.loads((laion_export / "model_card.json").read_text())

    assert card.pop("files")
    assert len(card.pop("fingerprint")) == 64
    assert card == {
        "format_version": 1,
        "model_id": "tiny-laion",
        "precision": "fp32",
        "embedding_dim": 40,
        "image_size_px": 24,
        "resize_px": 28,
        "resample": "bilinear",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "max_tokens": 12,
        "start_token_id": 551,
        "end_token_id": 552,
    }


@pytest.mark.parametrize(
    ("tower", "input_type", "input_shape", "output"),
    [
        ("clip_text", "tensor(int64)", ["n", "t"], "text_embeds"),
        ("clip_vision", "tensor(uint8)", ["n", 3, 24, 24], "image_embeds"),
    ],
)
def test_inputs_and_outputs_of_the_towers(
    laion_export: Path, tower: str, input_type: str, input_shape: list[object], output: str
) -> None:
    session = ort.InferenceSession(laion_export / tower / "1" / "model.onnx")

    (inputs,), (outputs,) = session.get_inputs(), session.get_outputs()

    assert (inputs.type, inputs.shape) == (input_type, input_shape)
    assert (outputs.name, outputs.type, outputs.shape) == (output, "tensor(float)", ["n", 40])


def test_an_older_runtime_reads_the_format(openai_export: Path) -> None:
    for tower in ("clip_text", "clip_vision"):
        model = onnx.load(openai_export / tower / "1" / "model.onnx")
        assert model.ir_version <= 10
        assert 17 <= model.opset_import[0].version <= 20


@pytest.mark.parametrize("name", ["openai_export", "laion_export"])
def test_padding_with_the_end_token_changes_nothing(
    name: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    card = json.loads((folder / "model_card.json").read_text())
    end = card["end_token_id"]
    text = ort.InferenceSession(folder / "clip_text" / "1" / "model.onnx")
    own = np.array([[card["start_token_id"], 320, 352, end]])
    padded = np.pad(own, ((0, 0), (0, card["max_tokens"] - 4)), constant_values=end)

    (expected,) = text.run(None, {"input_ids": own})
    (actual,) = text.run(None, {"input_ids": padded})

    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)


def test_half_weights_halve_the_file(openai_export: Path, laion_export: Path) -> None:
    def bytes_per_weight(folder: Path) -> float:
        model = onnx.load(folder / "clip_vision" / "1" / "model.onnx")
        weights = [w for w in model.graph.initializer if "." in w.name]
        return sum(len(w.raw_data) for w in weights) / sum(np.prod(w.dims) for w in weights)

    assert bytes_per_weight(openai_export) == 4
    assert bytes_per_weight(laion_export) == 2


def test_the_fingerprint_follows_what_decides_an_embedding(openai_checkpoint: Path) -> None:
    def fingerprint(precision: Precision = Precision.FP32) -> str:
        return ModelCard.of(load_checkpoint(str(openai_checkpoint)), precision).fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(precision) for precision in Precision}) == len(Precision)


def test_a_model_folder_is_a_checkpoint_too(
    laion_export: Path,
) -> None:
    again = ModelCard.of(load_checkpoint(str(laion_export)), Precision.FP32)

    assert again.fingerprint == _fingerprint(laion_export)


@pytest.mark.usefixtures("exported_once")
def test_a_failed_gate_leaves_the_previous_export(
    openai_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(openai_export, tmp_path / "out"))

    status = main(
        [str(out), "--precision", "int8", "--min-cosine", "0.99999999", "--out", str(out)]
    )

    assert status == REFUSED
    assert "refused" in (printed := capsys.readouterr().out)
    assert "is as it was" in printed
    assert _content(out) == _content(openai_export)
    assert list(tmp_path.iterdir()) == [out]


def test_half_weights_go_with_fp32_alone(
    openai_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(openai_checkpoint), "--half-weights", "--precision", "fp16"])

    assert "--half-weights goes with --precision fp32 alone" in capsys.readouterr().err


def test_the_help_does_not_wait_for_torch() -> None:
    ask = "import sys; from clipsearch_export.__main__ import main; main(['--help'])"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ask], capture_output=True, text=True, check=True
    )

    assert "--half-weights" in result.stdout
    assert "argparse" in result.stderr
    assert "torch" not in result.stderr


def test_without_hub_and_cache_one_line_says_what_to_do(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "clipsearch_export", "openai/clip-vit-base-patch32"],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == UNUSABLE
    (line,) = result.stderr.splitlines()
    assert "give a local Hugging Face folder, or 'demo'" in line
    assert list(tmp_path.iterdir()) == []
