"""What a caller installs: the client alone, in an environment of its own."""

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
    python = environment(tmp_path_factory.mktemp("environment"))
    run(str(python), "-m", "pip", "install", "--quiet", str(ROOT / "client"))
    return python


def environment(folder: Path) -> Path:
    """Makes a virtual environment; returns its interpreter."""
    run(sys.executable, "-m", "venv", str(folder))
    return folder / "bin" / "python"


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
    assert "pip install 'clipsearch[cli]'" in done.stderr


@pytest.mark.timeout(300)
def test_the_server_alone_installs_without_our_constraints(tmp_path: Path) -> None:
    """Its requirements alone lead pip to versions that go together, and soon: two minutes are
    several times what it takes here, and a search through old versions takes longer."""
    python = environment(tmp_path / "environment")
    command = [str(python), "-m", "pip", "install", "--quiet", str(ROOT / "client")]
    subprocess.run([*command, str(ROOT / "server")], check=True, timeout=120)
    server = subprocess.run(
        [str(python.parent / "clipsearch-server"), "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert server.returncode == 1
    assert "install clipsearch-server[cpu]" in server.stderr
    assert "Traceback" not in server.stderr
