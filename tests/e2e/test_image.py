"""The server's image without Docker: the Dockerfile's own pip commands, in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import LoggedProcess

ROOT = Path(__file__).parents[2]
# What runs the model is Triton, what exports it another image.
UNWANTED = {"torch", "transformers", "onnx", "onnxruntime"}

pytestmark = pytest.mark.long


def run(*command: str, cwd: Path, path: Path) -> str:
    environment = {"PATH": f"{path}:{os.defpath}", "HOME": str(cwd), "PIP_COMPILE": "0"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_environment(folder: Path) -> None:
    """Makes an environment that is empty: its `pip` is this one's, which saves copying it there."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=ROOT, path=folder)
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {folder}/bin/python "$@"\n')
    pip.chmod(0o755)


def in_dockerfile(stage: str, name: str) -> list[str]:
    """The values of an instruction in one stage, in their order."""
    parser = DockerfileParser(fileobj=BytesIO((ROOT / "Dockerfile").read_bytes()))
    current, values = "", []
    for entry in parser.structure:
        if entry["instruction"] == "FROM":
            current = entry["value"].partition(" AS ")[2]
        if (current, entry["instruction"]) == (stage, name):
            values.append(entry["value"])
    return values


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds what the image does."""
    folder = tmp_path_factory.mktemp("image")
    source, wheels = folder / "source", folder / "wheels"
    source.mkdir()
    make_environment(folder / "server")
    # What the first stage builds, and it installs nothing, the second has of it and nothing else.
    for stage, path in (
        ("server-wheels", Path(sys.executable).parent),
        ("server", folder / "server" / "bin"),
    ):
        for copy in in_dockerfile(stage, "COPY"):
            name, target = copy.split()
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / name, source / target, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source / target)
        for value in in_dockerfile(stage, "RUN"):
            (command,) = re.findall(r"pip (?:(?!&&).)*", value, re.DOTALL)
            here = command.replace("/wheels", str(wheels))
            run("bash", "-c", here, cwd=source, path=path)
    return folder / "server" / "bin"


@pytest.mark.timeout(300)
def test_the_server_needs_neither_torch_nor_onnxruntime(image: Path, tmp_path: Path) -> None:
    listed = json.loads(run("pip", "list", "--format", "json", cwd=tmp_path, path=image))
    names = {package["name"].lower() for package in listed}
    assert "clipsearch-server" in names
    assert not names & UNWANTED
    assert "--encoder-backend" in run("clipsearch-server", "--help", cwd=tmp_path, path=image)


@pytest.mark.timeout(300)
def test_without_triton_it_says_what_to_install(image: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(image / "clipsearch-server"), "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "install clipsearch-server[cpu]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(300)
def test_it_starts_without_its_neighbours_and_is_unhealthy(image: Path, tmp_path: Path) -> None:
    (entrypoint,) = in_dockerfile("server", "ENTRYPOINT")
    (health_check,) = in_dockerfile("server", "HEALTHCHECK")
    _, *check = json.loads(health_check.partition("CMD ")[2])
    environment = {
        "PATH": f"{image}:{os.defpath}",
        "CLIPSEARCH_ADDRESS": "127.0.0.1:0",
        "CLIPSEARCH_MODEL_DIR": str(DEMO_MODEL_DIR),
        "CLIPSEARCH_ENCODER_BACKEND": "triton",
        "CLIPSEARCH_TRITON_ADDRESS": "127.0.0.1:1",
        "CLIPSEARCH_INDEX_BACKEND": "qdrant",
        "CLIPSEARCH_QDRANT_URL": "http://127.0.0.1:1",
    }
    command = [str(image / json.loads(entrypoint)[0])]
    with LoggedProcess(command, ready=r"serving address=(\S+)", environment=environment) as server:
        python = str(image / "python")
        done = subprocess.run(
            [python, *check, server.address], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "NOT_SERVING" in done.stderr) == (1, True)
        assert server.stop() == 0
