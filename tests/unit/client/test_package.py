"""What importing the package gives, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import clipsearch

REPOSITORY = Path(__file__).parents[3]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_all_is_sorted_and_complete() -> None:
    assert clipsearch.__all__ == sorted(clipsearch.__all__)
    defined = {
        name
        for name, value in vars(clipsearch).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("clipsearch")
    }
    assert defined | {"Condition", "JsonValue", "Metadata"} == set(clipsearch.__all__)


def test_the_library_loads_nothing_heavy() -> None:
    done = run_python(
        "import sys, clipsearch\n"
        "heavy = {'PIL', 'click', 'numpy', 'onnxruntime', 'rich', 'torch', 'typer'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    assert done.returncode == 0, done.stderr


def test_the_command_says_what_to_install() -> None:
    done = run_python(
        "import sys; sys.modules['typer'] = None; import clipsearch; clipsearch.main()"
    )
    assert done.returncode == 1
    assert "pip install './client[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_extras_are_what_some_of_it_needs() -> None:
    project = tomllib.loads((REPOSITORY / "client/pyproject.toml").read_text())["project"]
    extras = {
        extra: {requirement.split(">=")[0] for requirement in requirements}
        for extra, requirements in project["optional-dependencies"].items()
    }
    assert extras == {
        "cli": {"typer", "rich", "pillow"},
        "evaluate": {"numpy", "scikit-learn"},
        "otel": {"opentelemetry-api"},
        "parquet": {"pyarrow"},
    }


def test_the_command_starts_without_what_few_of_its_commands_need() -> None:
    done = run_python(
        "import sys; import clipsearch.cli.app\n"
        "sys.exit(', '.join({'numpy', 'pyarrow', 'sklearn'} & sys.modules.keys()) or 0)"
    )
    assert done.returncode == 0, done.stderr
