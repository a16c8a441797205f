"""What a caller installs: the client alone, in an environment of its own, or the server too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "tritonclient", "qdrant-client", "qdrant-edge-py"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with `pip install ./client` and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", str(ROOT / "client"))
    return python


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_client_alone_brings_nothing_heavy(python: Path) -> None:
    listed = json.loads(run(str(python), "-m", "pip", "list", "--format", "json"))
    names = {package["name"].lower() for package in listed}
    assert "clipsearch" in names
    assert not names & HEAVY
    run(str(python), "-c", "import clipsearch; clipsearch.SearchClient('localhost:1').close()")


@pytest.mark.timeout(300)
def test_the_command_says_what_it_needs(python: Path) -> None:
    command = python.parent / "clipsearch"
    done = subprocess.run([str(command)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install './client[cli]'" in done.stderr


@pytest.mark.timeout(300)
def test_the_server_alone_resolves_without_our_constraints(python: Path) -> None:
    """Its requirements alone lead pip to versions that go together, and soon: two minutes are
    several times what it takes here, and a search through old versions takes longer."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--dry-run"]
    subprocess.run([*command, str(ROOT / "client"), str(ROOT / "server")], check=True, timeout=120)
