"""docs/settings.md is what `make docs` writes."""

from __future__ import annotations

from pathlib import Path

from clipsearch_server.configuration.reference import reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_reference_is_fresh() -> None:
    assert DOCUMENT.read_text() == reference(), "run `make docs`"


def test_it_says_what_a_setting_takes() -> None:
    text = reference()
    assert (
        "| `fetch.timeout_s` | `--fetch-timeout-s` `CLIPSEARCH_FETCH_TIMEOUT_S` "
        "| number, more than 0, at most 300 | `10.0` |"
    ) in text
    assert "| `none`, `turbo4`, `int8` | `none` |" in text
