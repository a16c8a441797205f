"""The files in deploy/observability, as Prometheus reads them; and the queries of the dashboard, as
a real one answers them that scrapes a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import REGISTRY

from clipsearch import AddItem, SearchClient, SearchError
from clipsearch_server import metrics
from clipsearch_server.testing import LoggedProcess, ServerProcess

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "observability"
TESTS = ROOT / "tests"
PICTURES = sorted((ROOT / "demo" / "pictures").glob("*.png"))
ALERTS = {
    *("ClipsearchDown", "ClipsearchNotServing", "ClipsearchEncoderWrong"),
    *("ClipsearchIndexUnavailable", "ClipsearchErrorBudgetBurn", "ClipsearchOverloaded"),
    *("ClipsearchQueriesSlow", "ClipsearchStorageFull", "ClipsearchWorkersCrashing"),
    *("ClipsearchEventLoopLag", "ClipsearchCertificateExpiring", "ClipsearchModelOutputInvalid"),
}
# What Prometheus itself has, and prometheus_client where it finds a process.
OTHERS = {
    *("up", "process_cpu_seconds_total", "process_resident_memory_bytes"),
    *("process_open_fds", "process_max_fds"),
}
# What is empty with one process; test_workers.py asks several for the metrics.
OF_WORKERS = {"Processes that ended C", "Workers A"}
FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "min", "max", "time", "by", "absent"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool, so nothing reads the rules and proves when alerts fire: "
    "apt-get install prometheus",
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="no prometheus, so nothing answers the queries of the dashboard: "
    "apt-get install prometheus",
)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((FILES / "grafana" / "dashboards" / "clipsearch.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """What the dashboard asks for, by the panel's title and the line."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }


def named_in(expression: str) -> set[str]:
    """The metrics that an expression names."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|(by|without) \([^)]*\)", "", expression)
    return set(re.findall(r"[a-z][a-z_:]*[a-z](?:\d+[mhd])?", bare)) - FUNCTIONS - {"and", "or"}


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == ALERTS
    document = (ROOT / "docs" / "observability.md").read_text()
    for rule in alerts:
        name, notes = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert notes["summary"], name
        assert notes["description"], name
        assert notes["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert f"[{name}](operations.md#{name.lower()})" in document


def test_rules_and_dashboard_name_only_metrics_that_exist() -> None:
    names = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    for metric in vars(metrics).values():
        if name := getattr(metric, "_name", None):
            ends = {"counter": ("_total",), "gauge": ("",)}
            names |= {name + end for end in ends.get(metric._type, ("_bucket", "_sum", "_count"))}
    names |= {metrics.COLLECTION_IMAGES, *OTHERS}
    names |= {rule["record"] for rule in rules() if "record" in rule}
    asked = {rule.get("alert", rule.get("record")): rule["expr"] for rule in rules()}
    for title, expression in (asked | expressions()).items():
        found = named_in(expression)
        assert found, title
        assert found <= names, title


def test_rules_and_dashboard_leave_calls_of_other_programs_out() -> None:
    asked = [*(rule["expr"] for rule in rules()), *expressions().values()]
    selectors = [it for text in asked for it in re.findall(r"grpc_server_\w+(?:\{[^}]*\})?", text)]
    assert selectors
    for selector in selectors:
        assert 'grpc_service="clipsearch.v1.ImageSearchService"' in selector


def test_every_panel_is_in_its_own_place_and_says_what_it_shows() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"], panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@needs_promtool
def test_each_alert_fires_when_it_should_and_is_silent_otherwise() -> None:
    files = ("alerts_test.yml", "alerts_of_days_test.yml")
    tested = "".join((TESTS / name).read_text() for name in files)
    assert [name for name in ALERTS if name not in tested] == []
    done = subprocess.run(
        ["promtool", "test", "rules", *files], cwd=TESTS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def configuration(folder: Path, target: str) -> Path:
    """The committed configuration, in a hurry, with this target and the files where they are."""
    text = (FILES / "prometheus.yml").read_text()
    for ours, here in {
        "15s": "250ms",
        "/etc/prometheus/alerts.yml": str(FILES / "alerts.yml"),
        "server:9464": target,
    }.items():
        assert ours in text
        text = text.replace(ours, here)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    path = configuration(tmp_path, "server:9464")
    done = subprocess.run(["promtool", "check", "config", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout  # it has read the alerts too


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    options = ("--data-dir", str(tmp_path / "data"), "--metrics-address", "127.0.0.1:0")
    with ServerProcess(*options) as server:
        yield server


@pytest.fixture
def prometheus(server: ServerProcess, tmp_path: Path) -> Iterator[str]:
    """The address of one that scrapes the server."""
    found = re.search(r"metrics address=(\S+)", server.log)
    assert found
    command = [
        "prometheus",
        f"--config.file={configuration(tmp_path, found[1])}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with LoggedProcess(command, ready=r'msg="(Server is ready)') as prometheus:
        listening = re.search(r'msg="Listening on" address=(\S+)', prometheus.log)
        assert listening
        yield listening[1]


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    url = f"http://{prometheus}/api/v1/{path}?{urlencode(parameters)}"
    with urlopen(url, timeout=10) as response:
        return json.load(response)["data"]


def has_data(prometheus: str, expression: str) -> bool:
    query = expression.replace("$__rate_interval", "4s").replace("$instance", ".*")
    samples = ask(prometheus, "query", query=query)["result"]
    return any(sample["value"][1] != "NaN" for sample in samples)


def make_work(client: SearchClient, number: int) -> None:
    """Something of everything that the dashboard shows."""
    name, content = str(number), PICTURES[number % len(PICTURES)].read_bytes()
    client.add_image(content=content, uri=name)
    items = [AddItem(item_id="good", content=content), AddItem(item_id="bad", content=b"?")]
    failed = {result.item_id for result in client.add_images(items) if result.error}
    assert failed == {"bad"}
    for text in (name, "a cat"):
        client.query_text(text)
    client.query_image(content=content)
    with pytest.raises(SearchError):
        client.query_text("")


@needs_prometheus
def test_every_query_of_the_dashboard_is_answered_about_a_server_at_work(
    server: ServerProcess, prometheus: str
) -> None:
    missing = {title: it for title, it in expressions().items() if title not in OF_WORKERS}
    ends_at = time.monotonic() + 60  # seconds; it takes three
    numbers = count()
    with SearchClient(server.address) as client:
        while missing and time.monotonic() < ends_at:
            make_work(client, next(numbers))
            missing = {
                title: expression
                for title, expression in missing.items()
                if not has_data(prometheus, expression)
            }
    assert missing == {}
    groups = ask(prometheus, "rules")["groups"]
    rules_read = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules_read if rule["type"] == "alerting"} == ALERTS
    for rule in rules_read:
        assert rule["health"] == "ok", rule
        assert rule.get("state") != "firing", rule
