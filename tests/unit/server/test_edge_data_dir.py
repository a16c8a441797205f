"""The names in a data folder in every state that a crash, or an older server, can leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsearch_server.errors import StartupError
from clipsearch_server.indexes.edge.data_dir import DataDir


def fill(data_dir: Path, *names: str, aliases: dict[str, str] | None = None) -> Path:
    """Makes collections of these names, which the names alone matter of."""
    collections = data_dir / "collections"
    for name in names:
        (collections / name).mkdir(parents=True)
        (collections / name / "collection.json").write_text(name)
    if aliases is not None:
        DataDir(data_dir).write_aliases(aliases)
    return collections


def test_a_new_folder_gets_the_default_alias(tmp_path: Path) -> None:
    assert DataDir(tmp_path).prepare("images") == {"images": "images-1"}
    assert DataDir(tmp_path).prepare("images") == {"images": "images-1"}
    assert DataDir(tmp_path).names() == []


@pytest.mark.parametrize(
    ("name", "aliases"),
    [
        ("images", None),
        ("images", {"album": "images"}),  # it was no default collection before
        ("images-1", None),  # a crash between the renaming and the alias
        ("images-1", {"album": "images"}),
    ],
)
def test_a_collection_of_the_default_name_makes_way_for_its_alias(
    tmp_path: Path, name: str, aliases: dict[str, str] | None
) -> None:
    collections = fill(tmp_path, name, "photos", aliases=aliases)
    expected = {"images": "images-1", **dict.fromkeys(aliases or {}, "images-1")}
    for _ in range(2):
        assert DataDir(tmp_path).prepare("images") == expected
        assert DataDir(tmp_path).names() == ["images-1", "photos"]
        assert (collections / "images-1" / "collection.json").read_text() == name


@pytest.mark.parametrize(
    ("names", "aliases"),
    [
        (["images", "images-1"], None),
        (["images", "images-1"], {"images": "images-1"}),
        (["images", "photos"], {"images": "photos"}),
    ],
)
def test_a_collection_in_the_way_is_named_and_left_alone(
    tmp_path: Path, names: list[str], aliases: dict[str, str] | None
) -> None:
    fill(tmp_path, *names, aliases=aliases)
    with pytest.raises(StartupError, match="collections/images: is named like the alias"):
        DataDir(tmp_path).prepare("images")
    assert DataDir(tmp_path).names() == names


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    collections = fill(tmp_path, "images-1", ".photos.deleted", ".photos.new", aliases={"a": "b"})
    (tmp_path / "aliases.json.new").write_text('{"format_')  # of a switch that was not made
    assert DataDir(tmp_path).prepare("images") == {"a": "b", "images": "images-1"}
    assert [path.name for path in collections.iterdir()] == ["images-1"]


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 2, "aliases": {}}', "{}"])
def test_aliases_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "aliases.json").write_text(text)
    with pytest.raises(StartupError, match=r"aliases\.json"):
        DataDir(tmp_path).prepare("images")
    assert (tmp_path / "aliases.json").read_text() == text


def test_the_aliases_are_a_file_that_people_can_mend(tmp_path: Path) -> None:
    DataDir(tmp_path).write_aliases({"b": "2", "a": "1"})
    values = json.loads((tmp_path / "aliases.json").read_text())
    assert values == {"format_version": 1, "aliases": {"a": "1", "b": "2"}}


@pytest.mark.parametrize("name", ["../images", "a/b", ".hidden", "..", "", "/etc"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a collection"):
        DataDir(tmp_path).folder(name)
