"""The global options, the help, and the ways a command ends before it asks anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from clipsearch.cli.app import app
from clipsearch.cli.session import ExitCode, Server
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


def needs_key(key: str) -> Callable[[object, grpc.ServicerContext], pb.GetServerInfoResponse]:
    """A server that knows one key."""

    def answer(request: object, context: grpc.ServicerContext) -> pb.GetServerInfoResponse:
        if ("authorization", f"Bearer {key}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key, no answer")
        return pb.GetServerInfoResponse(version="1.2.3")

    return answer


def test_the_key_is_from_a_file_or_the_environment(
    service: ScriptedService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answer("GetServerInfo", needs_key("cs_good"))
    result = run("info")
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr == (
        "clipsearch: no key, no answer; --api-key-file or CLIPSEARCH_API_KEY brings one\n"
    )
    file = tmp_path / "key"
    file.write_text("cs_good\n")
    assert run("--api-key-file", str(file), "info").exit_code == 0
    monkeypatch.setenv("CLIPSEARCH_API_KEY", "cs_good")
    assert run("info").exit_code == 0
    file.write_text("cs_bad")
    assert run("--api-key-file", str(file), "info").exit_code == ExitCode.FAILED


def test_a_key_that_may_not_be_sent_is_not_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSEARCH_API_KEY", "hush-hush")
    result = run("--server", "search.example.com:443", "info")
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith(
        "clipsearch: the API key would be sent to search.example.com:443 unencrypted; use TLS; "
    )
    file = tmp_path / "key"
    for content in (b"hush\nhush", b"hush\xff", b""):
        file.write_bytes(content)
        result = run("--api-key-file", str(file), "info")
        assert result.exit_code == ExitCode.USAGE
        assert "hush" not in result.output + result.stderr


def test_the_words_of_the_next_command_hold_no_key(tmp_path: Path) -> None:
    server = Server(
        target="search.example.com:443",
        timeout_s=1,
        tls=True,
        ca_file=None,
        api_key="hush-hush",
        api_key_file=tmp_path,
        cert_file=tmp_path,
        key_file=tmp_path,
    )
    assert server.command == [
        *("clipsearch", "--server", "search.example.com:443", "--tls", "--cert", str(tmp_path)),
        *("--key", str(tmp_path), "--api-key-file", str(tmp_path)),
    ]
    assert "hush" not in repr(server)
