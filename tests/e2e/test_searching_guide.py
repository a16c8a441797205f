"""docs/searching.md: its examples, run in their order against a real server."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipsearch.cli.app import app
from clipsearch_server.testing import ServerProcess

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "demo" / "pictures"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "localhost:50051"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with ServerProcess("--data-dir", str(tmp_path / "data")) as process:
        yield process.address


def test_the_examples_of_the_guide_work(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    said = ""
    kinds = []
    for kind, block in BLOCK.findall((ROOT / "docs" / "searching.md").read_text()):
        kinds.append(kind)
        match kind:
            case "jsonl":
                write_pictures(block)
            case "python":
                assert ADDRESS in block or "client" in namespace
                exec(compile(block.replace(ADDRESS, server), "searching.md", "exec"), namespace)
            case "sh":
                for command in block.splitlines():
                    said = run(command, server)
            case "text":  # what the command before says
                assert [line for line in block.splitlines() if line not in said] == []
            case _:
                pytest.fail(f"an example in {kind} is not run")
    namespace["client"].close()
    assert (kinds.count("python"), kinds.count("sh")) >= (8, 8)
    assert (tmp_path / "cats.png").exists()


def write_pictures(table: str) -> None:
    Path("pictures.jsonl").write_text(table)
    for name in re.findall(r'"file": "(.*?)"', table):
        shutil.copy(PICTURES / name, name)


def run(command: str, server: str) -> str:
    """Runs a line of the guide in this process, and returns what it shows without its frame."""
    name, *arguments = shlex.split(command)
    assert name == "clipsearch"
    environment = {"CLIPSEARCH_SERVER": server, "COLUMNS": "100", "NO_COLOR": "1"}
    done = CliRunner().invoke(app, arguments, env=environment)
    is_wrong = "=>" in command
    assert done.exit_code == (2 if is_wrong else 0), f"{command}\n{done.output}"
    if arguments[0] == "query" and not is_wrong:
        has_hits = re.search(r"^ *1 +-?[01]\.\d{3} ", done.stdout, re.MULTILINE)
        assert has_hits, f"{command}\n{done.output}"
    return re.sub(r"^\u2502 (.*?) *\u2502$", r"\1", done.output, flags=re.MULTILINE)
