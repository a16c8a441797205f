"""The emoji set: codes, slugs, and what is read from CLDR."""

import json
from pathlib import Path

import pytest

from clipsearch_export.demo.emoji import code_of, read_emoji, slugify


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("black cat", "black-cat"),
        ("flag: Côte d\u2019Ivoire", "flag-cote-divoire"),
        ("keycap: #", "keycap"),
        ("A button (blood type)", "a-button-blood-type"),
    ],
)
def test_a_slug_is_a_safe_file_name(name: str, slug: str) -> None:
    assert slugify(name) == slug


def test_a_code_ignores_how_the_emoji_is_shown() -> None:
    assert code_of("\u2764\ufe0f") == code_of("\u2764") == "2764"
    assert code_of("\U0001f408\u200d\u2b1b") == "1f408-200d-2b1b"


def _write(folder: Path, part: str, annotations: dict[str, dict[str, list[str]]]) -> Path:
    file = folder / "package" / part / "en" / "annotations.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({part: {"annotations": annotations}}), "utf-8")
    return folder


def test_the_set_is_what_is_named_and_drawn_without_skin_tones(tmp_path: Path) -> None:
    named = {
        "🍕": {"tts": ["pizza"], "default": ["cheese", "slice"]},
        "❤": {"tts": ["red heart"], "default": ["love"]},
        "👋🏽": {"tts": ["waving hand: medium skin tone"], "default": ["wave"]},
        "🦤": {"tts": ["dodo"], "default": ["extinct"]},  # not drawn
        "‾": {"default": ["overline"]},  # no name
    }
    flags = {"🇯🇵": {"tts": ["flag: Japan"], "default": ["flag"]}, "👍": {"tts": ["thumbs up"]}}
    cldr = _write(tmp_path / "a", "annotations", named)
    derived = _write(tmp_path / "b", "annotationsDerived", flags)

    found = read_emoji(cldr, derived, ["1f355", "2764", "1f44b-1f3fd", "1f1ef-1f1f5", "1f44d"])

    assert [(e.name, e.keywords) for e in found] == [
        ("flag: Japan", ("flag",)),
        ("pizza", ("cheese", "slice")),
        ("thumbs up", ()),
        ("red heart", ("love",)),
    ]
