"""The model folder on disk, and the replacement of what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the exporter needs torch")

import onnx
import onnxruntime as ort

from clipsearch_export.repository import replace_model_folder, staging_folder
from clipsearch_export.to_onnx import save_onnx


@pytest.mark.parametrize("tower", ["clip_text", "clip_vision"])
def test_the_card_travels_in_the_onnx_files(laion_export: Path, tower: str) -> None:
    session = ort.InferenceSession(laion_export / tower / "1" / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    card = json.loads((laion_export / "model_card.json").read_text())
    del card["files"]

    assert json.loads(metadata["clipsearch.model_card"]) == card
    assert metadata["clipsearch.fingerprint"] == card["fingerprint"]


def test_nothing_of_the_exporting_machine_gets_into_the_files(laion_export: Path) -> None:
    for file in laion_export.rglob("*"):
        if file.is_file():
            assert b"site-packages" not in (content := file.read_bytes()), file
            assert bytes(Path(__file__).parents[3]) not in content, file


_FILES = ("clip_text/config.pbtxt", "clip_vision/config.pbtxt", "canary.npz", "model_card.json")


def _model_folder(folder: Path, content: str) -> Path:
    for name in _FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): file.read_text()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_model_is_replaced_whole_and_other_files_stay(tmp_path: Path) -> None:
    out = _model_folder(tmp_path / "models", "old")
    (out / "clip_text" / "left over").write_text("old")
    (out / "README.md").write_text("read me")

    with staging_folder(out) as staged:
        replace_model_folder(_model_folder(staged, "new"), out)

    assert _contents(out) == {
        "README.md": "read me",
        **dict.fromkeys(_FILES, "new"),
    }
    assert list(tmp_path.iterdir()) == [out]


def test_a_model_where_there_was_none(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "models"

    with staging_folder(out) as staged:
        replace_model_folder(_model_folder(staged, "new"), out)

    assert set(_contents(out).values()) == {"new"}


@pytest.mark.parametrize("missing", ["clip_text", "clip_vision", "canary.npz", "model_card.json"])
def test_a_replacement_that_fails_puts_the_old_model_back(tmp_path: Path, missing: str) -> None:
    out = _model_folder(tmp_path / "models", "old")

    with staging_folder(out) as staged:
        _model_folder(staged, "new")
        (staged / missing).rename(staged / "elsewhere")
        with pytest.raises(FileNotFoundError):
            replace_model_folder(staged, out)

    assert _contents(out) == _contents(_model_folder(tmp_path / "expected", "old"))


def test_weights_too_large_for_one_file_go_beside_it(openai_export: Path, tmp_path: Path) -> None:
    model = onnx.load(openai_export / "clip_vision" / "1" / "model.onnx")
    before = model.SerializeToString()

    save_onnx(model, tmp_path / "1" / "model.onnx", max_single_file_bytes=1000)

    assert {file.name for file in (tmp_path / "1").iterdir()} == {"model.onnx", "model.onnx.data"}
    assert len({file.stat().st_mode for file in (tmp_path / "1").iterdir()}) == 1
    ort.InferenceSession(tmp_path / "1" / "model.onnx")
    assert model.SerializeToString() == before  # it may be written once more
