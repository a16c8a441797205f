"""What a caller installs: the client alone, in an environment of its own, or the server too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "tritonclient", "qdrant-client", "qdrant-edge-py"}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def resolving(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Future[subprocess.CompletedProcess[bytes]]]:
    """What pip finds for the server alone, in four minutes: it waits for the index most of the
    time, so the other tests, which install, run meanwhile."""
    folder = tmp_path_factory.mktemp("resolving")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    command = [*pip_of(folder / "bin" / "python"), "install", "--quiet", "--dry-run"]
    command += [str(ROOT / "client"), str(ROOT / "server")]
    with ThreadPoolExecutor() as pool:
        yield pool.submit(subprocess.run, command, check=True, timeout=240)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with `pip install ./client` and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    run(*pip_of(python), "install", "--quiet", str(ROOT / "client"))
    return python


def pip_of(python: Path) -> tuple[str, ...]:
    """This environment's pip, at work on another, which saves copying it there."""
    return sys.executable, "-m", "pip", "--python", str(python)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_client_alone_brings_nothing_heavy(python: Path) -> None:
    listed = json.loads(run(*pip_of(python), "list", "--format", "json"))
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
def test_the_server_alone_resolves_without_our_constraints(
    resolving: Future[subprocess.CompletedProcess[bytes]],
) -> None:
    """Its requirements alone lead pip to versions that go together, and soon: four minutes are
    many times what it takes here, and a search through old versions takes longer."""
    resolving.result()
