"""docs/reliability.md tells the truth about its rows: each has tests, which are there."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "reliability.md").read_text()
ROWS = {int(row[1]): row[0] for row in re.finditer(r"^\| (\d+) \|.*$", TABLE, re.MULTILINE)}
NAMED = re.compile(r"`(?:([\w/]+\.py)::)?(test_\w+\*?)`")


def collected() -> list[tuple[str, str]]:
    """The file, as the table writes it, and the name of each function that pytest collects."""
    return [
        (file.relative_to(TESTS).as_posix(), node.name)
        for file in TESTS.rglob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


COLLECTED = collected()


def test_no_row_is_missing() -> None:
    assert list(ROWS) == [*range(25, 49), *range(1, 25)]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_tests_that_there_are(row: int) -> None:
    named = NAMED.findall(ROWS[row])
    assert named
    for file, name in named:
        assert any(
            file in {"", other_file} and fnmatchcase(other_name, name)
            for other_file, other_name in COLLECTED
        ), f"there is no {file} {name}"


@pytest.mark.parametrize("row", range(25, 49))
def test_a_row_names_those_that_bear_its_number_and_no_others(row: int) -> None:
    named = NAMED.findall(ROWS[row])
    assert all(name.startswith(f"test_row_{row}_") for _, name in named)
    for file, name in COLLECTED:
        if name.startswith(f"test_row_{row}_"):
            assert any(
                other_file in {"", file} and fnmatchcase(name, other_name)
                for other_file, other_name in named
            ), f"the table does not name {file}::{name}"
    assert f"`make test-row ROW={row}`" in ROWS[row]
