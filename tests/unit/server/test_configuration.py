"""Settings: precedence, names, and errors that say where a value came from."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from typer.main import get_command

from clipsearch.cli.app import app as client_app
from clipsearch_server.configuration import load_settings
from clipsearch_server.configuration.names import RENAMED, settings_of
from clipsearch_server.errors import StartupError
from clipsearch_server.fetch_policy import FetchPolicy
from clipsearch_server.settings import DEMO_MODEL_DIR


def test_defaults_are_local_and_safe() -> None:
    settings = load_settings([], {})
    assert settings.address.startswith("127.0.0.1:")
    assert settings.default_limit == 5
    assert settings.model_dir == DEMO_MODEL_DIR
    assert settings.fetch.policy == FetchPolicy()
    assert settings.data_dir.is_absolute()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "clipsearch.toml"
    file.write_text("default_limit = 7\n[fetch]\ntimeout_s = 7\nmax_redirects = 7\n")
    environ = {"CLIPSEARCH_FETCH_TIMEOUT_S": "8", "CLIPSEARCH_FETCH_MAX_REDIRECTS": "8"}
    settings = load_settings(["--config", str(file), "--fetch-timeout-s", "9"], environ)
    assert settings.fetch.timeout_s == 9
    assert settings.fetch.max_redirects == 8
    assert settings.default_limit == 7


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "clipsearch.toml"
    file.write_text('collection = "cats"\n')
    assert load_settings([], {"CLIPSEARCH_CONFIG": str(file)}).collection == "cats"


@pytest.mark.parametrize("value", ["true", "false", "1", "0"])
def test_booleans_are_words_or_digits(value: str) -> None:
    settings = load_settings(["--fetch-enabled", value], {})
    assert settings.fetch.enabled == (value in {"true", "1"})


def test_a_flag_alone_switches_on() -> None:
    assert load_settings([], {}).insecure is False
    settings = load_settings(["--insecure", "--collection", "cats"], {})
    assert (settings.insecure, settings.collection) == (True, "cats")
    assert load_settings(["--insecure", "false"], {"CLIPSEARCH_INSECURE": "true"}).insecure is False


def test_a_list_has_commas_or_is_one(tmp_path: Path) -> None:
    expected = FetchPolicy(
        hosts=("*.example.com", "minio"),
        networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/64")),
        ports=(range(443, 444), range(8000, 8100)),
    )
    texts = {
        "allow_hosts": "*.Example.com, minio",
        "allow_cidrs": "10.0.0.0/8,fd00::/64",
        "ports": "443,8000-8099",
    }
    flags = [
        part for name, text in texts.items() for part in (f"--fetch-{name.replace('_', '-')}", text)
    ]
    assert load_settings(flags, {}).fetch.policy == expected
    repeated = ["--fetch-ports", "443", "--fetch-ports", "8000-8099"]
    assert load_settings([*flags[:4], *repeated], {}).fetch.policy == expected
    environ = {f"CLIPSEARCH_FETCH_{name.upper()}": text for name, text in texts.items()}
    assert load_settings([], environ).fetch.policy == expected
    file = tmp_path / "clipsearch.toml"
    file.write_text(
        '[fetch]\nallow_hosts = ["*.example.com", "minio"]\nports = [443, "8000-8099"]\n'
        'allow_cidrs = ["10.0.0.0/8", "fd00::/64"]\n'
    )
    assert load_settings(["--config", str(file)], {}).fetch.policy == expected
    assert load_settings([], dict.fromkeys(environ, "") | {"CLIPSEARCH_FETCH_PORTS": "80,443"}) == (
        load_settings([], {})
    )


@pytest.mark.parametrize(
    "url", ["http://user:hush-hush@h", "https://hush:1", "h:1", "http://h:1/hush"]
)
def test_a_proxy_that_is_none_is_refused_and_its_password_not_shown(url: str) -> None:
    assert load_settings(["--fetch-proxy", "http://u:p@h:1"], {}).fetch.proxy == "http://u:p@h:1"
    with pytest.raises(StartupError, match=r"expected http://host:port") as caught:
        load_settings(["--fetch-proxy", url], {})
    assert "hush" not in caught.value.message


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        (["--fetch-ports", "80,http"], {}, "--fetch-ports='http'"),
        (["--fetch-ports", ""], {}, "--fetch-ports=''"),
        (["--fetch-allow-cidrs", "10.0.0.1/8"], {}, "10.0.0.1/8 has host bits set"),
        (["--fetch-allow-cidrs", "169.254.169.254/32"], {}, "nothing is fetched from there"),
        ([], {"CLIPSEARCH_FETCH_ALLOW_HOSTS": ","}, "CLIPSEARCH_FETCH_ALLOW_HOSTS=''"),
        ([], {"CLIPSEARCH_FETCH_ALLOW_HOSTS": "*"}, "CLIPSEARCH_FETCH_ALLOW_HOSTS='*'"),
        (["--fetch-timeout-s", "soon"], {}, "--fetch-timeout-s='soon'"),
        ([], {"CLIPSEARCH_IMAGE_MAX_BYTES": "3"}, "CLIPSEARCH_IMAGE_MAX_BYTES='3'"),
        (["--address", "50051"], {}, "--address='50051': expected host:port"),
        (["--address", "host:99999"], {}, "--address='host:99999'"),
        (["--collection", "../up"], {}, "--collection='../up'"),
        (["--config", "/nowhere.toml"], {}, "/nowhere.toml: No such file"),
        (
            [],
            {"CLIPSEARCH_FETCH_TIMEOUT": "3"},
            "CLIPSEARCH_FETCH_TIMEOUT: there is no such setting; did you mean CLIPSEARCH_FETCH_T",
        ),
        ([], {"CLIPSEARCH_X": ""}, "CLIPSEARCH_X: there is no such setting; clipsearch-server"),
        (
            [],
            {"CLIPSEARCH_IMAGE_DECODE_THREADS": "3"},
            "any more; set CLIPSEARCH_IMAGE_DECODE_WORKERS",
        ),
    ],
)
def test_an_error_names_the_source_and_the_value(
    argv: list[str], environ: dict[str, str], expected: str
) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings(argv, environ)
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[fetch]\ntimeout = 3\n", "fetch.timeout: there is no such setting; did you mean fetch."),
        ("max_in_flight = 3\n", "max_in_flight: there is no such setting any more; set admission."),
        ("fetch = 3\n", "fetch: expected a table, [fetch]"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "clipsearch.toml"
    file.write_text(text)
    with pytest.raises(StartupError) as caught:
        load_settings(["--config", str(file), "--fetch-max-redirects", "2"], {})
    assert expected in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6334",
        "grpc://host:1",
        "http://host:99999",
        "http://",
        "http://[::1",
        "http://me:mine@host",
        "http://host/prefix",
    ],
)
def test_an_address_of_qdrant_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="expected http://host:port or https://host:port"):
        load_settings(["--qdrant-url", url], {})


@pytest.mark.parametrize("url", ["http://collector", "https://[::1]", "http://collector:"])
def test_a_collector_has_a_port_of_its_own(url: str) -> None:
    with pytest.raises(StartupError, match="expected the port too, for example"):
        load_settings(["--tracing-endpoint", url], {})
    load_settings(["--tracing-endpoint", f"{url.rstrip(':')}:4317"], {})


def test_a_secret_is_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "clipsearch.toml"
    file.write_text('[qdrant]\napi_key = ["hush-hush"]\n')
    settings = load_settings([], {"CLIPSEARCH_QDRANT_API_KEY": "hush-hush"})
    assert settings.qdrant.api_key.get_secret_value() == "hush-hush"
    assert "hush" not in repr(settings)
    for argv, environ, source in (
        (["--qdrant-api-key", "hush\n"], {}, "--qdrant-api-key=***"),
        ([], {"CLIPSEARCH_QDRANT_API_KEY": "hush hush"}, "CLIPSEARCH_QDRANT_API_KEY=***"),
        (["--config", str(file)], {}, "qdrant.api_key: expected a value"),
    ):
        with pytest.raises(StartupError) as caught:
            load_settings(argv, environ)
        assert source in caught.value.message
        assert "hush" not in caught.value.message
    with pytest.raises(SystemExit):
        load_settings(["--help"], {"CLIPSEARCH_QDRANT_API_KEY": "hush-hush"})
    shown = capsys.readouterr().out
    assert "--qdrant-api-key KEY" in shown
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[qdrant]]\napi_key = "hush-hush"\n', "qdrant: expected a table, [qdrant]"),
        ('qdrant = "hush-hush"\n', "qdrant: expected a table, [qdrant]"),
        ('[qdrant.url]\napi_key = "hush-hush"\n', "qdrant.url: expected a value"),
        ('[[collection]]\napi_key = "hush-hush"\n', "collection: expected a value"),
        ('fetch.ports = [{ api_key = "hush-hush" }]\n', "fetch.ports: expected a value"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown_either(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "clipsearch.toml"
    file.write_text(text)
    for environ in ({}, {"CLIPSEARCH_QDRANT_API_KEY": "hush-hush"}):
        with pytest.raises(StartupError) as caught:
            load_settings(["--config", str(file)], environ)
        assert expected in caught.value.message
        assert "hush" not in caught.value.message


@pytest.mark.parametrize("flag", ["--qdrant-url", "--tracing-endpoint"])
@pytest.mark.parametrize(
    "url",
    ["http://user:hush-hush@h:6334", "http://h:6334?api_key=hush-hush", "http://h:6334#hush-hush"],
)
def test_a_secret_in_a_url_is_not_shown_either(flag: str, url: str) -> None:
    with pytest.raises(StartupError, match=flag) as caught:
        load_settings([flag, url], {})
    assert "hush" not in caught.value.message


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    assert load_settings([], {}).qdrant.ca_file is None
    file = tmp_path / "ca.pem"
    with pytest.raises(StartupError, match="--qdrant-ca-file"):
        load_settings(["--qdrant-ca-file", str(file)], {})
    file.touch()
    assert load_settings(["--qdrant-ca-file", str(file)], {}).qdrant.ca_file == file


def test_help_names_every_setting_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for expected in (
        "--data-dir",
        "--default-limit N",
        "[5]",
        "[80,443]",
        "--collection",
        "[images]",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--fetch-timeout", "3"], "--fetch-timeout: there is no such setting; did you mean --fet"),
        (["--max-in-flight=3"], "--max-in-flight: there is no such setting any more; set --admiss"),
        (["conifg"], "conifg: there is no such command"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_one_that_was_meant(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(argv, {})
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def test_variables_of_others_are_left_alone() -> None:
    of_the_command = {
        variable
        for option in get_command(client_app).params
        for variable in (option.envvar if isinstance(option.envvar, list) else [option.envvar])
        if variable is not None
    }
    of_kubernetes = {  # of services that are named clipsearch and clipsearch-server
        "CLIPSEARCH_SERVICE_HOST": "10.0.0.7",
        "CLIPSEARCH_SERVICE_PORT_GRPC": "50051",
        "CLIPSEARCH_PORT": "tcp://10.0.0.7:50051",
        "CLIPSEARCH_PORT_50051_TCP_ADDR": "10.0.0.7",
        "CLIPSEARCH_SERVER_SERVICE_PORT": "50051",
        "CLIPSEARCH_SERVER_PORT_50051_TCP": "tcp://10.0.0.8:50051",
    }
    others = {"CLIPSEARCH_SERVER", "CLIPSEARCH_API_KEY", "CLIPSEARCH_TEST_X", "QDRANT_TAG"}
    assert of_the_command
    environ = dict.fromkeys(of_the_command | others, "x") | of_kubernetes
    assert load_settings([], environ) == load_settings([], {})
    with pytest.raises(StartupError, match="CLIPSEARCH_PORT: there is no such setting"):
        load_settings([], {"CLIPSEARCH_PORT": "50051"})  # which somebody means for one


def test_what_replaces_a_setting_that_went_is_one() -> None:
    names = {setting.name for setting in settings_of()}
    assert {new for replacing in RENAMED.values() for new in replacing} <= names
    assert not names & RENAMED.keys()


def test_folders_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = load_settings(["--data-dir", "~/data", "--model-dir", "~/model"], {})
    assert settings.data_dir == Path("/home/me/data")
    assert settings.model_dir == Path("/home/me/model")
    with pytest.raises(StartupError, match="no-such-user"):
        load_settings(["--data-dir", "~no-such-user/data"], {})
