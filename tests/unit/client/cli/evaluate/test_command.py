"""What the commands refuse before they ask a server anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipsearch.cli.app import app


def test_a_file_without_captions_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("image,label\na.png,one\n")
    done = CliRunner().invoke(app, ["evaluate", str(file)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"clipsearch: {file}: has no captions")
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "none.csv")])
    assert done.exit_code == 2
    assert "none.csv: No such file or directory" in done.stderr


@pytest.mark.parametrize("more", [["--keep"], ["--model", "demo"]])
def test_options_of_a_collection_of_its_own_go_with_no_other(
    tmp_path: Path, more: list[str]
) -> None:
    done = CliRunner().invoke(app, ["evaluate", "x.csv", "--collection", "images", *more])
    assert done.exit_code == 2
    assert "of its own" in done.stderr


@pytest.mark.parametrize("command", ["evaluate", "linear-probe"])
def test_a_template_without_a_place_is_refused(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, [command, str(tmp_path), "--template", "a photo"])
    assert done.exit_code == 2
    assert "must have {} in one place" in done.stderr


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    command = "import sys; sys.modules['numpy'] = None; from clipsearch import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "linear-probe", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install './client[cli,evaluate]'" in done.stderr
    assert done.stderr.count("\n") == 1
