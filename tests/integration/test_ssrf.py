"""Nothing that a stranger writes has the server connect to where only it can reach.

What counts is not that an error came back, but that nothing was connected to: all of it runs in a
network of its own (see `ssrf_driver`), where every address answers and every packet is seen. There
the default policy is what is tested: even the hosts it may fetch from have public addresses.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).parents[1] / "ssrf_driver.py"
UNSHARE = ["unshare", "--net", "--mount", *(["--map-root-user"] if os.geteuid() else [])]


def why_not() -> str:
    """Why this machine cannot run the driver; empty if it can."""
    for command in ("unshare", "ip"):
        if not shutil.which(command):
            return f"there is no command `{command}`"
    tried = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True)
    return tried.stderr.decode().strip() if tried.returncode else ""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if reason := why_not():
        pytest.skip(f"network namespaces are not to be had: {reason}")
    folder = tmp_path_factory.mktemp("ssrf")
    ran = subprocess.run([*UNSHARE, sys.executable, DRIVER, folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_no_hostile_url_has_anything_connected_to(report: Any) -> None:
    assert {row["name"]: row["canary"] for row in report["rows"] if row["canary"]} == {}


def test_every_hostile_url_is_refused(report: Any) -> None:
    rows = {row["name"]: row for row in report["rows"]}
    for way in ("direct: addresses", "dns: alone", "redirect: 302", "rebinding: then"):
        assert rows[way]["urls"] >= 400
    for name, row in rows.items():
        assert sum(row["outcomes"].values()) == row["urls"]
        if name == "rebinding: first":
            assert row["outcomes"] == {"OK": row["urls"]}
        elif name in {"direct: urls", "redirect: to urls"}:
            assert not row["outcomes"].keys() & {"OK", "OTHER"}  # why depends on the spelling
        else:
            assert row["outcomes"] == {"SOURCE_NOT_ALLOWED": row["urls"]}, name


def test_a_name_is_resolved_once_for_each_request(report: Any) -> None:
    assert report["control"]["questions_in_two_fetches"] == [2]


def test_public_hosts_are_fetched(report: Any) -> None:
    assert report["control"]["public"].keys() == {"OK"}


def test_what_an_operator_allows_is_fetched_but_for_metadata(report: Any) -> None:
    control = report["control"]
    assert control["allowed"] == {"OK": control["seen_of_allowed"]}
    assert control["metadata"].keys() == {"SOURCE_NOT_ALLOWED"}
    assert control["seen_of_metadata"] == 0


def test_the_canary_sees_whatever_is_connected_to(report: Any) -> None:
    control = report["control"]
    assert control["naive"]["connected"] > 250  # the rest has no route: multicast and the like
    assert control["seen_of_naive"] >= control["naive"]["connected"]


def test_the_server_refuses_all_and_tells_nothing(report: Any) -> None:
    server = report["server"]
    assert report["seen_of_server"] == []
    codes = {result.split()[0] for result in server["results"]}
    assert codes == {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}
    assert sum(server["results"].values()) == server["calls"]
    # The one that it fetched is no image.
    assert server["results"]["INVALID_ARGUMENT IMAGE_FORMAT_UNSUPPORTED"] == 1
    assert server["told"] == ["url: this server does not fetch from the URL's address"]
    for secret in ("http://", "169.254", "meta-data", "93.184"):
        assert secret not in server["log"]
