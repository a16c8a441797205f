"""The house keeps its shape: what no linter looks at."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = ("client", "server", "export")


@pytest.mark.parametrize("folder", ["proto", *DISTRIBUTIONS, "tests", "demo", "bench"])
def test_a_top_level_folder_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_distributions_have_one_version() -> None:
    projects = [
        tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]
        for name in DISTRIBUTIONS
    ]
    (version,) = {project["version"] for project in projects}
    assert f"clipsearch=={version}" in projects[1]["dependencies"]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_is_imported_at_run_time_is_locked(name: str) -> None:
    locked = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    project = tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=\[]", need)[0].lower() for need in project["dependencies"]}
    assert wanted - locked <= {"clipsearch", "torch"}  # ours, and the Makefile's own pin


def test_the_architecture_names_every_module_of_the_server() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "server" / "clipsearch_server"
    for module in package.glob("*.py"):
        assert module.name == "__init__.py" or module.name in text, module.name


def test_the_readme_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, document.name


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([\w-]+))?\)", document.read_text()):
            file = document.parent / target if target else document
            assert file.exists(), f"{document.name}: {target}"
            if anchor and file.suffix == ".md":
                assert anchor in anchors_of(file), f"{document.name}: {target}#{anchor}"


def anchors_of(document: Path) -> set[str]:
    """What GitHub names the headings, of which no two here are alike."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6} (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_alert_has_its_page_in_the_runbook() -> None:
    rules = (ROOT / "deploy" / "observability" / "alerts.yml").read_text()
    runbook = (ROOT / "docs" / "operations.md").read_text()
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert alerts == set(re.findall(r"^### (Clipsearch\w+)$", runbook, re.MULTILINE))
