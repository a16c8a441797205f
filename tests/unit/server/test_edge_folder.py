"""A collection's folder in every state that a crash can leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clipsearch_server.errors import StartupError
from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.indexes.edge.folder import CollectionFolder
from clipsearch_server.ports import CollectionSpec, FieldType, IndexedField

SPEC = CollectionSpec(model_id="model", fingerprint="f" * 64, embedding_dim=512)
CARD = CollectionCard(spec=SPEC, created_by="clipsearch-server 1")


@pytest.fixture
def folder(tmp_path: Path) -> CollectionFolder:
    folder = CollectionFolder(tmp_path / "collections" / "images")
    folder.stage(CARD).mkdir()
    folder.commit()
    return folder


def test_a_new_collection_is_complete_or_absent(tmp_path: Path) -> None:
    folder = CollectionFolder(tmp_path / "collections" / "images")
    shard = folder.stage(CARD)
    shard.mkdir()
    assert not folder.exists()
    again = folder.stage(CARD)  # the first server died here
    assert not again.exists()
    again.mkdir()
    folder.commit()
    assert folder.read_card() == CARD
    assert folder.current().is_dir()


def test_a_switch_is_done_or_not_done(folder: CollectionFolder) -> None:
    old, new = folder.current(), folder.unused()
    new.mkdir()
    (folder.path / "CURRENT.new").write_text(new.name)  # a crash before the rename
    assert folder.current() == old
    folder.switch_to(new)
    assert folder.current() == new
    assert old.is_dir()


def test_garbage_is_whatever_is_not_current(folder: CollectionFolder) -> None:
    old, new = folder.current(), folder.unused()
    new.mkdir()
    folder.remove(old)
    assert old.is_dir()
    folder.switch_to(new)
    assert folder.unused() not in (old, new)
    folder.remove_garbage()
    assert not old.exists()
    assert folder.current() == new


@pytest.mark.parametrize("text", ["", "..", "shard-000009", "../images/shard-000001", "/etc"])
def test_current_must_name_a_shard_beside_it(folder: CollectionFolder, text: str) -> None:
    (folder.path / "CURRENT").write_text(text)
    with pytest.raises(StartupError, match="CURRENT"):
        folder.current()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 3}', '{"format_version": 1}'])
def test_a_card_that_is_none_is_named(folder: CollectionFolder, text: str) -> None:
    (folder.path / "collection.json").write_text(text)
    with pytest.raises(StartupError, match=r"collection\.json"):
        folder.read_card()


def test_a_card_keeps_what_older_servers_do_not_know(folder: CollectionFolder) -> None:
    assert json.loads((folder.path / "collection.json").read_text())["format_version"] == 1
    fields = (IndexedField("metadata.colour", FieldType.KEYWORD),)
    spec = replace(SPEC, prompt_templates=("a photo of a {}", "{}"), indexed_fields=fields)
    folder.write_card(replace(CARD, spec=spec))
    assert json.loads((folder.path / "collection.json").read_text())["format_version"] == 2
    assert folder.read_card() == CollectionCard(spec=spec, created_by="clipsearch-server 1")


def test_a_collection_is_there_or_gone(folder: CollectionFolder) -> None:
    leftover = folder.path.with_name(".images.deleted")
    leftover.mkdir()
    (leftover / "collection.json").write_text("of one that was deleted before")
    folder.remove_all()
    assert not list(folder.path.parent.iterdir())
    with pytest.raises(FileNotFoundError):
        folder.remove_all()
