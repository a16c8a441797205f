from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import grpc
import pytest
from typer.testing import Result

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService, make_status

Run = Callable[..., Result]

OLD = pb.Collection(
    name="images-1",
    image_count=1234,
    is_default=True,
    aliases=["images", "live"],
    model_id="demo",
    model_fingerprint="abc",
    embedding_dim=256,
    model_loaded=True,
    prompt_templates=pb.PromptTemplates(templates=["a {}", "a photo of a {}"]),
    indexed_fields=[pb.IndexedField(field="year", type=pb.FIELD_TYPE_NUMBER)],
)
NEW = pb.Collection(name="images-2", model_id="large", embedding_dim=512)
IN_USE = make_status(
    grpc.StatusCode.FAILED_PRECONDITION, "live stands for images-1", "COLLECTION_IN_USE"
)


def words(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def test_list(service: ScriptedService, run: Run) -> None:
    service.answer("ListCollections", pb.ListCollectionsResponse(collections=[OLD, NEW]))
    rows = words(run("collections", "list"))
    assert ["images-1", "images,", "live", "1,234", "demo", "256", "default"] in rows
    assert ["images-2", "0", "large", "512", "not", "loaded"] in rows


def test_list_json_is_a_line_a_collection(service: ScriptedService, run: Run) -> None:
    service.answer("ListCollections", pb.ListCollectionsResponse(collections=[OLD, NEW]))
    result = run("collections", "list", "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["aliases"] == ["images", "live"]
    assert first["indexed_fields"] == [{"field": "year", "type": "number"}]
    assert second["model_loaded"] is False


def test_show(service: ScriptedService, run: Run) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=OLD))
    result = run("collections", "show", "live")
    assert service.requests["GetCollection"] == [pb.GetCollectionRequest(name="live")]
    for line in (
        ["collection", "images-1", "(default)"],
        ["aliases", "images,", "live"],
        ["templates", "a", "{};", "a", "photo", "of", "a", "{}"],
        ["indexed", "fields", "year", "(number)"],
    ):
        assert line in words(result)


def test_create(service: ScriptedService, run: Run) -> None:
    service.answer("CreateCollection", pb.CreateCollectionResponse(collection=NEW))
    fields = ("--index", "year:number", "--index", "shot:by:keyword")
    result = run(
        "collections", "create", "images-2", "--model", "large", "--template", "{}", *fields
    )
    assert result.exit_code == 0, result.stderr
    assert ["images", "0"] in words(result)
    assert service.requests["CreateCollection"] == [
        pb.CreateCollectionRequest(
            name="images-2",
            model="large",
            prompt_templates=pb.PromptTemplates(templates=["{}"]),
            indexed_fields=[
                pb.IndexedField(field="year", type=pb.FIELD_TYPE_NUMBER),
                pb.IndexedField(field="shot:by", type=pb.FIELD_TYPE_KEYWORD),
            ],
        )
    ]


@pytest.mark.parametrize("argument", ["year", "year:int", ":number", "year:unspecified"])
def test_create_with_no_field(argument: str, run: Run) -> None:
    result = run("collections", "create", "x", "--index", argument)
    assert result.exit_code == 2
    assert "FIELD:TYPE" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (
            ("--template", "a {}"),
            pb.UpdateCollectionRequest(prompt_templates=pb.PromptTemplates(templates=["a {}"])),
        ),
        (
            ("--no-templates",),
            pb.UpdateCollectionRequest(prompt_templates=pb.PromptTemplates()),
        ),
        (
            ("--index", "good:bool"),
            pb.UpdateCollectionRequest(
                add_indexed_fields=[pb.IndexedField(field="good", type=pb.FIELD_TYPE_BOOL)]
            ),
        ),
    ],
)
def test_update(
    arguments: tuple[str, ...],
    request_: pb.UpdateCollectionRequest,
    service: ScriptedService,
    run: Run,
) -> None:
    service.answer("UpdateCollection", pb.UpdateCollectionResponse(collection=OLD))
    result = run("collections", "update", "live", *arguments, "--json")
    assert json.loads(result.stdout)["name"] == "images-1"
    request_.name = "live"
    assert service.requests["UpdateCollection"] == [request_]


@pytest.mark.parametrize("arguments", [(), ("--template", "a {}", "--no-templates")])
def test_update_needs_one_thing_to_change(arguments: tuple[str, ...], run: Run) -> None:
    assert run("collections", "update", "live", *arguments).exit_code == 2


def test_what_holds_images_is_not_deleted_without_a_word(
    service: ScriptedService, run: Run
) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=OLD))
    result = run("collections", "delete", "images-1", stdin="images-1\n")
    assert result.exit_code == 2
    assert result.stderr == (
        "clipsearch: images-1 holds 1,234 images; --yes deletes it without asking\n"
    )
    assert not service.requests["DeleteCollection"]


@pytest.mark.parametrize(
    ("name", "collection", "arguments", "confirmed"),
    [("images-1", OLD, ("--yes",), "images-1"), ("images-2", NEW, (), "")],
)
def test_delete(
    name: str,
    collection: pb.Collection,
    arguments: tuple[str, ...],
    confirmed: str,
    service: ScriptedService,
    run: Run,
) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=collection))
    service.answer("DeleteCollection", pb.DeleteCollectionResponse())
    result = run("collections", "delete", name, *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{name} deleted, {collection.image_count:,} images\n"
    assert service.requests["DeleteCollection"] == [
        pb.DeleteCollectionRequest(name=name, confirm_name=confirmed)
    ]


@pytest.mark.parametrize(("typed", "exit_code"), [("images-1", 0), ("images", 2)])
def test_at_a_terminal_the_name_is_typed(
    typed: str, exit_code: int, service: ScriptedService
) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=OLD))
    service.answer("DeleteCollection", pb.DeleteCollectionResponse())
    master, terminal = pty.openpty()
    os.write(master, f"{typed}\n".encode())
    command = (sys.executable, "-m", "clipsearch", "--server", service.target, "collections")
    done = subprocess.run(
        [*command, "delete", "images-1"],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(terminal)
    os.close(master)
    assert done.returncode == exit_code, done.stderr
    assert "Type the name to delete images-1 and its 1,234 images" in done.stderr
    assert len(service.requests["DeleteCollection"]) == (exit_code == 0)


def test_an_alias_is_not_deleted_as_a_collection(service: ScriptedService, run: Run) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=OLD))
    result = run("collections", "delete", "live", "--yes")
    assert result.exit_code == 2
    assert "live is an alias of images-1" in result.stderr


def test_what_is_in_use_is_the_servers_to_refuse(service: ScriptedService, run: Run) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=OLD))
    service.answer("DeleteCollection", IN_USE)
    result = run("collections", "delete", "images-1", "--yes")
    assert (result.exit_code, result.stderr) == (4, "clipsearch: live stands for images-1\n")


@pytest.mark.parametrize(
    ("previous", "line"),
    [
        ("", "live stands for images-2\n"),
        ("images-2", "live stands for images-2\n"),
        ("images-1", "live stands for images-2, and no longer for images-1\n"),
    ],
)
def test_alias(previous: str, line: str, service: ScriptedService, run: Run) -> None:
    service.answer("SetAlias", pb.SetAliasResponse(previous_collection=previous))
    assert run("collections", "alias", "live", "images-2").stdout == line
    assert service.requests["SetAlias"] == [pb.SetAliasRequest(alias="live", collection="images-2")]
    told = json.loads(run("collections", "alias", "live", "images-2", "--json").stdout)
    assert told["previous_collection"] == previous


def test_unalias(service: ScriptedService, run: Run) -> None:
    service.answer("DeleteAlias", pb.DeleteAliasResponse())
    assert run("collections", "unalias", "live").stdout == "live stands for nothing any more\n"
    assert service.requests["DeleteAlias"] == [pb.DeleteAliasRequest(alias="live")]
