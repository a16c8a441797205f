"""`clipsearch-server config`: what is in effect, where it comes from, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsearch_server.__main__ import main
from clipsearch_server.configuration import load_settings, show
from clipsearch_server.configuration.names import settings_of
from clipsearch_server.errors import StartupError


def test_each_value_has_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "clipsearch.toml"
    file.write_text("default_limit = 7\n[fetch]\nmax_redirects = 7\n")
    argv = ["--show", "--json", "--config", str(file), "--fetch-timeout-s", "9"]
    environ = {"CLIPSEARCH_FETCH_MAX_REDIRECTS": "8", "CLIPSEARCH_FETCH_PORTS": "443,8000-8099"}
    assert show(argv, environ) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["default_limit"] == {"value": 7, "origin": f"file {file}"}
    assert shown["fetch.timeout_s"] == {"value": 9.0, "origin": "flag --fetch-timeout-s"}
    assert shown["fetch.max_redirects"] == {
        "value": 8,
        "origin": "env CLIPSEARCH_FETCH_MAX_REDIRECTS",
    }
    assert shown["fetch.ports"]["value"] == ["443", "8000-8099"]
    assert shown["qdrant.shards"] == {"value": 1, "origin": "default"}
    assert shown.keys() == {setting.name for setting in settings_of()}


def test_what_is_printed_is_a_file_that_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca_file = tmp_path / 'the "root".pem'
    ca_file.touch()
    argv = ["--fetch-allow-cidrs", "10.0.0.0/8", "--fetch-enabled", "false"]
    argv += ["--workers", "0", "--index-backend", "qdrant", "--encoder-backend", "triton"]
    argv += ["--qdrant-ca-file", str(ca_file), "--triton-timeout-s", "0.00001"]
    assert show(["--show", *argv], {}) == 0
    shown = capsys.readouterr().out
    assert "[fetch]\nenabled = false " in shown
    file = tmp_path / "shown.toml"
    file.write_text(shown)
    assert load_settings(["--config", str(file)], {}) == load_settings(argv, {})


@pytest.mark.parametrize("format", ["--show", "--json"])
def test_secrets_are_masked(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {
        "CLIPSEARCH_QDRANT_API_KEY": "hush-hush",
        "CLIPSEARCH_FETCH_PROXY": "http://me:hush-hush@proxy:3128",
    }
    show([format], environ)
    shown = capsys.readouterr().out
    assert "hush" not in shown
    assert '"***"' in shown
    assert '"http://***@proxy:3128"' in shown
    assert '"http://127.0.0.1:6334"' in shown  # of Qdrant, which has no password in it
    show([format], {})
    assert "***" not in capsys.readouterr().out  # that there is none is no secret


def test_a_wrong_setting_fails_as_it_would_for_the_server() -> None:
    with pytest.raises(StartupError, match="--fetch-timeout-s='soon'"):
        show(["--show", "--fetch-timeout-s", "soon"], {})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tls.cert_file"], "TLS needs both tls.cert_file and tls.key_file"),
        (["tls.key_file"], "TLS needs both tls.cert_file and tls.key_file"),
        (["tls.client_ca_file"], "TLS needs both tls.cert_file and tls.key_file"),
        (["tls.cert_file", "tls.key_file", "tls.client_ca_file"], "set both (docs/security.md)"),
    ],
)
def test_settings_that_do_not_go_together_fail(
    names: list[str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret.pem"
    file.touch()
    argv = [f"--{name.replace('.', '-').replace('_', '-')}={file}" for name in names]
    with pytest.raises(StartupError) as caught:
        show(["--qdrant-api-key", "hush-hush", *argv], {})
    assert caught.value.message.endswith(message)
    assert "hush" not in caught.value.message


def test_it_is_a_command_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--show", "--default-limit", "9"]) == 0
    assert "default_limit = 9 " in capsys.readouterr().out
    assert main(["config", "--default-limit", "many"]) == 1
    assert capsys.readouterr().err.startswith("clipsearch-server: --default-limit='many'")
