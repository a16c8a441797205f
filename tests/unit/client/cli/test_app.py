"""The global options, the help, and the ways a command ends before it asks anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import grpc
import pytest
from typer.testing import CliRunner, Result

from clipsearch.cli.app import app
from clipsearch.cli.session import ExitCode
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService

Run = Callable[..., Result]


def run_alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipsearch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_info(run: Run) -> None:
    result = run("info")
    assert result.exit_code == 0, result.stderr
    assert "demo (fp16, 256 dimensions" in result.stdout
    assert "50 megapixels" in result.stdout
    assert re.search(r"images \(default\) +1,234", result.stdout)


def test_info_names_every_model(service: ScriptedService, run: Run) -> None:
    models = [pb.Model(id=it, fingerprint=it * 16) for it in ("demo", "next")]
    service.answer("GetServerInfo", pb.GetServerInfoResponse(model=models[0], models=models))
    assert re.search(r"^other models +next \(nextnextnext\) *$", run("info").stdout, re.MULTILINE)


def test_info_json(run: Run) -> None:
    info = json.loads(run("info", "--json").stdout)
    assert info["model"]["id"] == "demo"
    [collection] = info["collections"]
    assert (collection["name"], collection["image_count"]) == ("images", 1234)
    assert collection["is_default"]


def test_the_server_option_wins_over_the_environment(service: ScriptedService, run: Run) -> None:
    result = CliRunner().invoke(
        app, ["--server", service.target, "info"], env={"CLIPSEARCH_SERVER": "localhost:1"}
    )
    assert result.exit_code == 0, result.stderr


def test_nothing_answers(unused_tcp_port: int) -> None:
    done = run_alone("--server", f"localhost:{unused_tcp_port}", "info")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        f"clipsearch: nothing answers at localhost:{unused_tcp_port}; "
        "start a server with `clipsearch-server`, or name one with --server\n"
    )


def test_no_answer_in_time(service: ScriptedService, run: Run) -> None:
    def hang(_: object, context: grpc.ServicerContext) -> None:
        while context.is_active():
            context.time_remaining()

    service.answer("GetServerInfo", hang)
    result = run("--timeout", "0.2", "info")
    assert result.exit_code == 3
    assert "did not answer in time; --timeout allows it more" in result.stderr


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"clipsearch {version('clipsearch')}\n"


def test_the_help_explains_every_exit_code() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    told = {int(code) for code in re.findall(r"^\W*(\d+)  \w", text, re.MULTILINE)}
    assert told == {code.value for code in ExitCode} | {130}


@pytest.mark.parametrize("command", ["add", "index", "query", "get", "list", "delete", "info"])
def test_each_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_a_ca_file_must_be_there() -> None:
    result = CliRunner().invoke(app, ["--ca", "no-such-file.pem", "info"])
    assert result.exit_code == 2
