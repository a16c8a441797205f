"""The command: what is sent and what is not, what it survives, what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from typer.testing import CliRunner, Result

from clipsearch.cli.app import app
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.cli.index.conftest import DOWN, REFUSED, Shelf
from unit.client.scripted_service import ScriptedService, make_image, make_status

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_text(f"picture {number}")
    return folder


def beside(source: Path, what: str) -> Path:
    return source.with_name(f"{source.name}.clipsearch-{what}")


def failures(source: Path) -> list[dict[str, Any]]:
    lines = beside(source, "failures.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def only_line(result: Result) -> str:
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("clipsearch: "))
    assert "Traceback" not in result.stderr
    return line


def first_line(result: Result) -> str:
    """The counts of the summary."""
    return next(line for line in result.stdout.splitlines() if " in " in line and " s" in line)


def test_a_folder_is_sent_once(run: Run, shelf: Shelf, folder: Path) -> None:
    result = run("index", str(folder))
    assert result.exit_code == 0, result.stderr
    assert first_line(result).startswith("5 added in ")
    assert [it.uri for it in shelf.sent] == [
        (folder / f"{number}.png").as_uri() for number in range(5)
    ]
    shelf.sent.clear()
    result = run("index", str(folder))
    assert result.exit_code == 0
    assert first_line(result).startswith("5 stored already in ")
    assert shelf.names == []
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "pictures",
        "pictures.clipsearch-journal",
    ]


def test_what_is_new_or_changed_is_sent(run: Run, shelf: Shelf, folder: Path) -> None:
    run("index", str(folder))
    shelf.sent.clear()
    (folder / "new.png").write_text("new")
    (folder / "2.png").write_text("another picture")
    os.utime(folder / "3.png", (1, 1))
    (folder / "4.png").unlink()
    result = run("index", str(folder))
    assert shelf.names == ["2.png", "3.png", "new.png"]
    assert first_line(result).startswith("2 added, 1 unchanged, 2 stored already in ")


@pytest.fixture
def pets(service: ScriptedService, run: Run) -> str:
    """The name of another collection, which the server has as well."""
    names = {"": "images-1", "images": "images-1", "pets": "pets"}

    def get(request: pb.GetCollectionRequest, context: grpc.ServicerContext) -> Any:
        if request.name not in names:
            status = make_status(
                grpc.StatusCode.NOT_FOUND, "no such collection", "COLLECTION_NOT_FOUND"
            )
            context.abort_with_status(rpc_status.to_status(status))
        found = pb.Collection(name=names[request.name], model_fingerprint="abc")
        return pb.GetCollectionResponse(collection=found)

    service.answer("GetCollection", get)
    return "pets"


def test_a_table_with_metadata_ids_and_headers(
    run: Run, shelf: Shelf, pets: str, tmp_path: Path
) -> None:
    image_id = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    (tmp_path / "1.png").write_text("picture")
    table = tmp_path / "table.csv"
    table.write_text(
        f"id,url,title\n{image_id},https://a.example/1,a cat\n,1.png,a dog\n"
        ",https://a.example/1,again\n"
    )
    result = run(
        *("index", str(table), "--header", "Authorization: Bearer s3cret", "--header", "X-A:1"),
        *("--collection", pets),
    )
    assert result.exit_code == 0, result.stderr
    assert first_line(result).startswith("2 added, 1 duplicate in ")
    one, two = shelf.sent
    assert (one.id, one.url, dict(one.metadata)) == (
        image_id,
        "https://a.example/1",
        {"title": "a cat"},
    )
    assert dict(one.fetch_headers) == {"Authorization": "Bearer s3cret", "X-A": "1"}
    assert (two.content, dict(two.metadata)) == (b"picture", {"title": "a dog"})
    assert dict(two.fetch_headers) == {}
    assert {it.collection for it in shelf.sent} == {"pets"}
    for file in tmp_path.iterdir():
        assert b"s3cret" not in file.read_bytes()


def test_spaces_around_a_url_or_path_are_none_of_it(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("picture")
    table = tmp_path / "table.csv"
    table.write_text("title,url\na, https://a.example/1 \nb, 1.png\n")
    assert run("index", str(table)).exit_code == 0
    assert shelf.names == ["https://a.example/1", "1.png"]


def test_coco_without_its_images_names_the_option(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png"}]}))
    assert run("index", str(file)).exit_code == 1
    (line,) = failures(file)
    assert line["reason"] == "UNREADABLE"
    assert "--images-dir names the folder of the images" in line["message"]


def test_rows_with_new_metadata_are_sent_again(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("url,title\nhttps://a.example/1,a\nhttps://a.example/2,b\n")
    run("index", str(table))
    shelf.sent.clear()
    table.write_text(
        "url,title\nhttps://a.example/0,z\nhttps://a.example/1,a\nhttps://a.example/2,c\n"
    )
    result = run("index", str(table))
    assert shelf.names == ["https://a.example/0", "https://a.example/2"]
    assert first_line(result).startswith("1 added, 1 replaced, 1 stored already in ")


def test_copies_are_sent_once(run: Run, shelf: Shelf, folder: Path) -> None:
    for name in ("a.png", "b.png", "z.png"):
        (folder / name).write_text("picture 3")
    result = run("index", str(folder))
    assert result.exit_code == 0
    assert first_line(result).startswith("5 added, 3 duplicate in ")
    assert len(shelf.names) == 5
    assert first_line(run("index", str(folder))).startswith("8 stored already in ")


def test_copies_of_what_is_refused_are_refused(run: Run, shelf: Shelf, folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_text("bad picture")
    result = run("index", str(folder))
    assert result.exit_code == 1
    assert "5 added, 2 refused" in result.stdout
    assert [it["key"] for it in failures(folder)] == ["a.png", "b.png"]


@pytest.mark.parametrize("in_flight", ["1", "32"])
def test_what_is_named_again_fares_like_the_first(
    in_flight: str, run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("bad.png\nbad.png\ngone.png\nok.png\ngone.png\nok.png\nbad.png\n")
    (tmp_path / "bad.png").write_text("bad")
    (tmp_path / "ok.png").write_text("ok")
    result = run("index", str(file), "--max-in-flight", in_flight)
    assert first_line(result).startswith("1 added, 1 duplicate, 5 refused in ")
    result = run("index", str(file))
    assert first_line(result).startswith("1 duplicate, 1 stored already, 5 refused in ")
    assert "5 refused" in run("index", str(file), "--dry-run").stdout


def test_an_id_stands_for_one_image(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    image_id = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    table = tmp_path / "table.csv"
    table.write_text(
        f"id,url\n{image_id},https://a.example/1\n{image_id.upper()},https://a.example/2\n"
    )
    for _ in range(2):  # while the first is under way, and when it is stored
        result = run("index", str(table))
        assert result.exit_code == 1
        assert [(it["key"], it["reason"]) for it in failures(table)] == [
            ("https://a.example/2", "ID_REPEATED")
        ]
        assert "is that of another image of the source" in result.stdout


def test_failures_are_told_and_not_sent_again_if_that_cannot_help(
    run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("https://away.example/1\nbad.png\ngone.png\nhuge.png\ngood.png\n")
    (tmp_path / "bad.png").write_text("bad")
    (tmp_path / "good.png").write_text("good")
    (tmp_path / "huge.png").write_bytes(bytes(10_001))
    result = run("index", str(file))
    assert result.exit_code == 1
    assert first_line(result).startswith("1 added, 3 refused, 1 failed in ")
    lines = {it["key"]: it for it in failures(file)}
    assert lines["https://away.example/1"] == {
        "key": "https://away.example/1",
        "source": "list.txt",
        "url": "https://away.example/1",
        "code": "FAILED_PRECONDITION",
        "reason": "SOURCE_TIMEOUT",
        "message": "the host is away",
        "retryable": True,
    }
    assert lines["bad.png"]["path"] == str(tmp_path / "bad.png")
    assert lines["bad.png"]["retryable"] is False
    assert (lines["gone.png"]["code"], lines["gone.png"]["reason"]) == ("CLIENT", "UNREADABLE")
    assert lines["huge.png"]["reason"] == "IMAGE_TOO_LARGE"
    assert "good.png" not in lines
    assert f"--retry {beside(file, 'failures.jsonl')}" in result.stdout

    shelf.sent.clear()
    shelf.errors.clear()
    result = run("index", str(file))
    assert result.exit_code == 1
    assert shelf.names == ["https://away.example/1"]
    assert first_line(result).startswith("1 added, 1 stored already, 3 refused in ")
    assert [it["key"] for it in failures(file)] == ["bad.png", "gone.png", "huge.png"]

    for name in ("bad", "gone", "huge"):
        (tmp_path / f"{name}.png").write_text(f"mended {name}")
    result = run("index", str(file))
    assert result.exit_code == 0
    assert shelf.names == ["bad.png", "gone.png", "huge.png"]
    assert not beside(file, "failures.jsonl").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("INVALID_ARGUMENT", "SOURCE_NOT_ALLOWED"),
        ("INVALID_ARGUMENT", "URL_PORT_NOT_ALLOWED"),
        ("INVALID_ARGUMENT", "FETCH_DISABLED"),
        ("INVALID_ARGUMENT", "IMAGE_TOO_LARGE"),
        ("FAILED_PRECONDITION", "SOURCE_HTTP_STATUS"),
        ("FAILED_PRECONDITION", "SOURCE_TOO_MANY_REDIRECTS"),
    ],
)
def test_what_can_be_mended_outside_of_the_source_is_sent_again(
    code: str, reason: str, run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("https://a.example/1\n")
    status = make_status(grpc.StatusCode[code], "no", reason, retryable="false")
    shelf.errors["https://a"] = status
    assert run("index", str(file)).exit_code == 1
    assert failures(file)[0]["retryable"] is True
    shelf.errors.clear()
    result = run("index", str(file))
    assert first_line(result).startswith("1 added in ")
    assert not beside(file, "failures.jsonl").exists()


@pytest.mark.parametrize(
    ("reason", "field", "is_final"),
    [
        ("IMAGE_FORMAT_UNSUPPORTED", "content", True),
        ("IMAGE_UNDECODABLE", "content", True),
        ("IMAGE_TOO_COMPLEX", "content", True),
        ("IMAGE_DECODE_FAILED", "content", True),
        ("URL_MALFORMED", "url", True),
        ("URL_SCHEME_NOT_ALLOWED", "url", True),
        ("URL_USERINFO", "url", True),
        ("INVALID_FIELD", "metadata", True),
        ("INVALID_FIELD", "fetch_headers", False),
    ],
)
def test_what_lies_in_the_source_is_not_sent_again(
    reason: str, field: str, is_final: bool, run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("https://a.example/1\n")
    violations = error_details_pb2.BadRequest()
    violations.field_violations.add(field=field, description="no")
    shelf.errors["https://a"] = make_status(
        grpc.StatusCode.INVALID_ARGUMENT, "no", reason, violations
    )
    assert run("index", str(file)).exit_code == 1
    shelf.sent.clear()
    shelf.errors.clear()
    assert run("index", str(file)).exit_code == is_final
    assert shelf.names == ([] if is_final else ["https://a.example/1"])


def test_a_file_that_has_more_than_it_says_does_not_end_the_stream(
    run: Run, shelf: Shelf, folder: Path
) -> None:
    (folder / "grown.png").symlink_to("/proc/self/maps")  # which says that it has 0 bytes
    result = run("index", str(folder))
    assert result.exit_code == 1
    assert "5 added, 1 refused" in result.stdout
    (line,) = failures(folder)
    assert (line["key"], line["reason"]) == ("grown.png", "IMAGE_TOO_LARGE")


def test_what_the_source_no_longer_has_is_no_failure(run: Run, shelf: Shelf, folder: Path) -> None:
    (folder / "bad.png").write_text("bad")
    assert run("index", str(folder)).exit_code == 1
    (folder / "bad.png").unlink()
    assert run("index", str(folder)).exit_code == 0
    assert not beside(folder, "failures.jsonl").exists()


def test_the_reasons_are_counted(run: Run, shelf: Shelf, folder: Path) -> None:
    for number in range(50):
        (folder / f"bad {number}.png").write_text(f"bad {number}")
    result = run("index", str(folder))
    assert result.stdout.count("content: is not an image") == 1
    (line,) = (line for line in result.stdout.splitlines() if "IMAGE_UNDECODABLE" in line)
    assert "50" in line.split()


def test_retry_sends_what_failed_and_nothing_else(
    run: Run, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        "url,title\nhttps://away.example/1,a\nbad.png,b\nbad too.png,c\nok.png,d\n,e\n"
    )
    (tmp_path / "bad.png").write_text("bad")
    (tmp_path / "bad too.png").write_text("bad, too")
    (tmp_path / "ok.png").write_text("ok")
    run("index", str(table))
    shelf.sent.clear()
    shelf.errors = {"bad, too": REFUSED}
    monkeypatch.chdir("/")
    file = beside(table, "failures.jsonl")
    result = run("index", "--retry", str(file))
    assert result.exit_code == 1
    assert shelf.names == ["https://away.example/1", "bad.png", "bad%20too.png"]
    assert first_line(result).startswith("2 added, 2 refused in ")
    lines = {it["key"]: it for it in failures(table)}
    assert lines.keys() == {"bad too.png", "line 6"}
    assert lines["bad too.png"]["metadata"] == {"title": "c"}
    assert lines["bad too.png"]["source"] == "table.csv"
    assert {it.metadata["title"] for it in shelf.stored.values()} == {"a", "b", "d"}

    # And the journal of the source knows.
    result = run("index", str(table))
    assert first_line(result).startswith("3 stored already, 2 refused in ")
    assert shelf.names == []


def test_retry_keeps_the_reason_of_a_broken_row(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        "id,url\n7d444840-9dc0-11d1-b245-5ffdce74fad2,https://a.example/1\n5,https://a.example/2\n"
    )
    run("index", str(table))
    (line,) = told = failures(table)
    assert line["message"] == "the id '5' is not a UUID"
    assert line["retryable"] is False
    result = run("index", "--retry", str(beside(table, "failures.jsonl")))
    assert "the id '5' is not a UUID" in result.stdout
    assert failures(table) == told


def test_retry_of_a_file_from_elsewhere(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    line = {"key": "a", "url": "https://a.example", "code": "X", "reason": "Y", "message": "Z"}
    file.write_text(json.dumps(line) + "\n")
    assert run("index", "--retry", str(file)).exit_code == 0
    assert shelf.names == ["https://a.example"]
    assert not file.exists()


def test_a_retry_that_is_cut_short_forgets_nothing(
    service: ScriptedService, run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    facts = {"code": "X", "reason": "Y", "message": "Z", "retryable": False}
    lines = [{"key": key, "url": f"https://a.example/{key}"} | facts for key in "ab"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    service.answer("AddImages", DOWN)
    assert run("index", "--retry", str(file), "--wait", "0").exit_code == 3
    left = [json.loads(line) for line in file.read_text().splitlines()]
    assert [it.items() - {("source", "")} for it in left] == [line.items() for line in lines]
    service.answer("AddImages", shelf.add)
    assert run("index", "--retry", str(file)).exit_code == 0
    assert shelf.names == ["https://a.example/a", "https://a.example/b"]


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"key": "a"}', "\0"])
def test_a_file_of_something_else_is_not_retried(
    line: str, run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "precious.jsonl"
    file.write_text(f"{line}\n")
    result = run("index", "--retry", str(file))
    assert result.exit_code == 2
    assert only_line(result).endswith("line 1 is not of a failures file")
    assert file.read_text() == f"{line}\n"


def make_tar(path: Path, members: dict[str, str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))


def test_members_of_a_tar_are_found_again(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    for shard in "xy":
        members = {}
        for number in range(6):
            kind = "bad" if number % 2 else "good"
            members[f"{number}.png"] = f"{kind} {shard}{number}"
            members[f"{number}.txt"] = f"number {number}"
        make_tar(tmp_path / f"{shard}.tar", members)
    result = run("index", str(tmp_path))
    assert first_line(result).startswith("6 added, 6 refused in ")
    assert shelf.sent[0].uri == (tmp_path / "x.tar" / "0.png").as_uri()
    assert shelf.sent[0].metadata["caption"] == "number 0"
    lines = failures(tmp_path)
    assert [it["key"] for it in lines] == [f"{s}.tar/{n}.png" for s in "xy" for n in (1, 3, 5)]
    assert lines[0]["tar"] == str(tmp_path / "x.tar")
    assert lines[0]["member"] == "1.png"

    shelf.errors.clear()
    shelf.sent.clear()
    make_tar(tmp_path / "y.tar", {"1.png": "mended"})
    result = run("index", "--retry", str(beside(tmp_path, "failures.jsonl")))
    assert first_line(result).startswith("4 added, 2 refused in ")
    assert [it.content.decode() for it in shelf.sent] == ["bad x1", "bad x3", "bad x5", "mended"]
    assert shelf.sent[0].metadata["caption"] == "number 1"
    assert "the tar has no file 3.png any more" in failures(tmp_path)[0]["message"]


def test_a_dry_run_needs_no_server_and_leaves_nothing(
    run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    good = "\x89PNG\r\n\x1a\n"
    file.write_text("a.png\nb.png\na.png\nc.png\nhttps://a.example/1\ns3://bucket/1\nhttp://[\n")
    (tmp_path / "a.png").write_bytes(good.encode("latin1"))
    (tmp_path / "b.png").write_text("text")
    there = {path.name for path in tmp_path.iterdir()}
    result = run("--server", "localhost:1", "index", str(file), "--dry-run")
    assert result.exit_code == 1
    assert first_line(result).startswith("2 would be sent, 1 duplicate, 4 refused in ")
    for reason in ("IMAGE_FORMAT_UNSUPPORTED", "UNREADABLE", "URL_MALFORMED"):
        assert reason in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == there
    run("index", str(file))
    journal = beside(file, "journal").read_bytes()
    shelf.sent.clear()
    result = run("index", str(file), "--dry-run", "--json")
    lines = {it["source"]: it["outcome"] for it in map(json.loads, result.stdout.splitlines())}
    assert lines["a.png"] == "duplicate"  # its second line
    assert lines["https://a.example/1"] == "stored already"
    assert beside(file, "journal").read_bytes() == journal
    assert shelf.names == []


def test_images_that_the_server_lost_are_sent_again(run: Run, shelf: Shelf, folder: Path) -> None:
    run("index", str(folder))
    shelf.sent.clear()
    shelf.stored.popitem()
    result = run("index", str(folder))
    assert result.exit_code == 0
    assert "the server no longer has what the journal says; starting anew" in result.stderr
    assert first_line(result).startswith("1 added, 4 unchanged in ")


def test_a_retry_does_not_forget_what_the_server_lost(run: Run, shelf: Shelf, folder: Path) -> None:
    (folder / "bad.png").write_text("bad")
    assert run("index", str(folder)).exit_code == 1
    shelf.stored.clear()
    journal = beside(folder, "journal").read_bytes()
    result = run("index", "--retry", str(beside(folder, "failures.jsonl")))
    assert first_line(result).startswith("1 refused in ")
    assert beside(folder, "journal").read_bytes().startswith(journal)
    assert "5 added, 1 refused" in run("index", str(folder)).stdout


def test_restart_forgets_the_journal(run: Run, shelf: Shelf, folder: Path) -> None:
    run("index", str(folder))
    result = run("index", str(folder), "--restart")
    assert first_line(result).startswith("5 unchanged in ")
    result = run("index", str(folder))
    assert first_line(result).startswith("5 stored already in ")


def test_another_collection_wants_another_journal(
    run: Run, shelf: Shelf, pets: str, folder: Path
) -> None:
    run("index", str(folder))
    result = run("index", str(folder), "--collection", pets)
    assert result.exit_code == 2
    assert "is about the collection images-1, and not pets; --journal names another" in only_line(
        result
    )
    other = folder.parent / "other"
    result = run("index", str(folder), "--collection", pets, "--journal", str(other))
    assert result.exit_code == 0
    assert other.exists()


def test_an_alias_is_the_collection_that_it_stands_for(
    run: Run, shelf: Shelf, pets: str, folder: Path
) -> None:
    run("index", str(folder))
    again = run("index", str(folder), "--collection", "images")
    assert again.exit_code == 0
    assert "stored already" in first_line(again)


def test_a_mistyped_collection_leaves_nothing_behind(
    run: Run, shelf: Shelf, pets: str, folder: Path
) -> None:
    result = run("index", str(folder), "--collection", "pest")
    assert result.exit_code == 1
    assert only_line(result) == "clipsearch: no such collection"
    assert "the same command" not in result.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["pictures"]
    assert run("index", str(folder), "--collection", pets).exit_code == 0


def test_a_run_that_stores_nothing_leaves_nothing_behind(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    service.answer("AddImages", DOWN)
    result = run("index", str(folder), "--wait", "0")
    assert result.exit_code == 3
    assert "the same command" not in result.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["pictures"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_sent(
    run: Run, shelf: Shelf, folder: Path
) -> None:
    nowhere = folder.parent / "no" / "journal"
    result = run("index", str(folder), "--journal", str(nowhere))
    assert result.exit_code == 2
    assert only_line(result) == f"clipsearch: cannot write {nowhere}; --journal names another place"
    assert shelf.names == []


@pytest.mark.parametrize("content", [b"precious", b'{"url": "http://a.example/1.jpg"}\n'])
def test_no_other_file_is_replaced_by_the_failures(
    content: bytes, run: Run, shelf: Shelf, folder: Path
) -> None:
    other = folder.parent / "other"
    other.write_bytes(content)
    result = run("index", str(folder), "--failures", str(other))
    assert result.exit_code == 2
    assert only_line(result) == (
        f"clipsearch: {other} is not a file of failures; --failures names another place"
    )
    assert other.read_bytes() == content
    assert shelf.names == []


def test_neither_a_device_nor_the_journal_is_replaced_by_the_failures(
    run: Run, shelf: Shelf, folder: Path
) -> None:
    queue = folder.parent / "queue"
    os.mkfifo(queue)
    assert run("index", str(folder), "--failures", str(queue)).exit_code == 2
    assert queue.exists()
    both = str(folder.parent / "both")
    assert run("index", str(folder), "--failures", both, "--journal", both).exit_code == 2
    assert shelf.names == []


def test_an_empty_file_and_one_of_failures_may_be_replaced(
    run: Run, shelf: Shelf, folder: Path
) -> None:
    (folder / "bad.png").write_text("bad")
    file = folder.parent / "failures"
    file.touch()
    for _ in range(2):
        assert run("index", str(folder), "--failures", str(file)).exit_code == 1
        assert json.loads(file.read_bytes())["key"] == "bad.png"
    (folder / "bad.png").unlink()
    assert run("index", str(folder), "--failures", str(file)).exit_code == 0
    assert not file.exists()


def test_who_reads_the_output_may_leave(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    command = [sys.executable, "-m", "clipsearch", "--server", service.target]
    with subprocess.Popen(
        [*command, "index", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Broken pipe" not in stderr
    assert "the same command goes on from here" in stderr


def test_retry_names_the_journal_and_the_server_that_it_needs(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    (folder / "bad.png").write_text("bad")
    result = run(
        *("--server", service.target, "index", str(folder), "--journal", str(folder.parent / "j")),
        *("--failures", str(folder.parent / "my failures"), "--header", "A: s3cret"),
    )
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("try it again"))
    assert line == (
        f"try it again: clipsearch --server {service.target} index --retry "
        f"'{folder.parent}/my failures' --journal {folder.parent}/j --header ..."
    )


def test_a_server_that_goes_for_good_ends_the_run(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    def answer_two(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        yield shelf.answer(next(requests))
        yield shelf.answer(next(requests))

    service.answer("AddImages", answer_two, DOWN)
    (folder / "0.png").write_text("bad")
    result = run("index", str(folder), "--wait", "0.5", "--max-in-flight", "2")
    assert result.exit_code == 3
    assert first_line(result).startswith("1 added, 1 refused in ")
    assert "stopped before the end; the same command goes on from here" in result.stdout
    assert "the index is down" in only_line(result)
    assert "trying again" in result.stderr
    assert [it["key"] for it in failures(folder)] == ["0.png"]

    shelf.sent.clear()
    service.answer("AddImages", shelf.add)
    result = run("index", str(folder))
    assert shelf.names == ["2.png", "3.png", "4.png"]
    assert first_line(result).startswith("3 added, 1 stored already, 1 refused in ")


def test_a_failure_of_an_earlier_run_stays_in_the_file_of_one_that_is_cut_short(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    (folder / "z.png").write_text("bad")
    run("index", str(folder))
    for number in range(300):  # so many that it is not reached
        (folder / f"new {number}.png").write_text(f"new {number}")
    service.answer("AddImages", DOWN)
    result = run("index", str(folder), "--wait", "0")
    assert result.exit_code == 3
    assert [it["key"] for it in failures(folder)] == ["z.png"]


def test_the_server_comes_back(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    def answer_one(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield shelf.answer(next(requests))
        context.abort_with_status(rpc_status.to_status(DOWN))

    service.answer("AddImages", answer_one, DOWN, answer_one, shelf.add)
    result = run("index", str(folder), "--max-in-flight", "2")
    assert result.exit_code == 0, result.stderr
    assert first_line(result).startswith("5 added in ")
    assert "the index is down; trying again" in result.stderr
    assert "the server is back" in result.stderr
    assert len(shelf.stored) == 5


def test_a_server_that_comes_back_as_another_is_not_trusted(
    service: ScriptedService, run: Run, shelf: Shelf, folder: Path
) -> None:
    def answer_one_and_lose_it(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield shelf.answer(next(requests))
        shelf.stored.clear()
        context.abort_with_status(rpc_status.to_status(DOWN))

    service.answer("AddImages", answer_one_and_lose_it, shelf.add)
    result = run("index", str(folder), "--max-in-flight", "1")
    assert result.exit_code == 4
    assert "without the images that were stored; run the same command again" in only_line(result)
    assert run("index", str(folder)).exit_code == 0
    assert len(shelf.stored) == 5


@pytest.mark.parametrize("in_flight", ["1", "3"])
def test_an_item_that_only_gets_server_errors_is_given_up(
    in_flight: str, run: Run, shelf: Shelf, folder: Path
) -> None:
    shelf.errors["culprit"] = DOWN
    (folder / "1.png").write_text("culprit")
    for number in range(5, 30):
        (folder / f"{number}.png").write_text(f"picture {number}")
    result = run("index", str(folder), "--max-in-flight", in_flight)
    assert result.exit_code == 1, result.stderr
    assert first_line(result).startswith("29 added, 1 failed in ")
    assert [it["reason"] for it in failures(folder)] == ["INDEX_UNAVAILABLE"]
    assert failures(folder)[0]["retryable"] is True


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (make_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "the disk is full", "STORAGE_FULL"), 4),
        (make_status(grpc.StatusCode.PERMISSION_DENIED, "no", "NO"), 4),
        (make_status(grpc.StatusCode.NOT_FOUND, "no collection", "COLLECTION_NOT_FOUND"), 1),
    ],
)
def test_what_would_befall_every_image_ends_the_run(
    status: Any, exit_code: int, run: Run, shelf: Shelf, folder: Path
) -> None:
    shelf.errors["picture 2"] = status
    result = run("index", str(folder), "--max-in-flight", "1")
    assert result.exit_code == exit_code
    assert first_line(result).startswith("2 added in ")
    assert not beside(folder, "failures.jsonl").exists()
    shelf.errors.clear()
    assert first_line(run("index", str(folder))).startswith("3 added, 2 stored already in ")


def test_json_is_a_line_an_image(run: Run, shelf: Shelf, folder: Path) -> None:
    (folder / "3.png").write_text("bad")
    result = run("index", str(folder), "--json")
    assert result.exit_code == 1
    lines = {it["source"]: it for it in map(json.loads, result.stdout.splitlines())}
    assert len(lines) == 5
    assert lines["0.png"]["outcome"] == "added"
    assert lines["0.png"]["image"]["media_type"] == "image/png"
    assert lines["3.png"] == {
        "source": "3.png",
        "outcome": "refused",
        "error": {
            "message": "content: is not an image",
            "code": "INVALID_ARGUMENT",
            "reason": "IMAGE_UNDECODABLE",
        },
    }
    assert "4 added, 1 refused" in result.stderr


def test_ctrl_c_and_a_second_command(
    service: ScriptedService, shelf: Shelf, folder: Path, run: Run
) -> None:
    """In processes of their own, since the signal and the lock are the point."""
    process: subprocess.Popen[str]
    command = [sys.executable, "-m", "clipsearch", "--server", service.target, "index", str(folder)]
    seconds: list[subprocess.CompletedProcess[str]] = []

    def interrupt_after_two(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield shelf.answer(next(requests))
        yield shelf.answer(next(requests))
        while beside(folder, "journal").read_bytes().count(b"\n") < 3:
            assert context.is_active()
        seconds.append(subprocess.run(command, capture_output=True, text=True, check=False))
        process.send_signal(signal.SIGINT)
        while context.is_active():
            next(requests, None)

    service.answer("AddImages", interrupt_after_two)
    process = subprocess.Popen(
        [*command, "--max-in-flight", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "2 added in " in stdout
    assert "stopped before the end; the same command goes on from here" in stdout
    assert "Traceback" not in stderr
    assert seconds[0].returncode == 2
    assert "another `clipsearch index` is at work" in seconds[0].stderr
    shelf.sent.clear()
    service.answer("AddImages", shelf.add)
    assert first_line(run("index", str(folder))).startswith("3 added, 2 stored already in ")


def test_a_name_that_is_no_text(run: Run, shelf: Shelf, folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"bad")
    (folder / "clear\x1b[2J.png").write_bytes(b"picture")
    result = run("index", str(folder))
    assert result.exit_code == 1
    assert r"caf\udce9.png" in result.stdout
    assert "\x1b" not in result.stdout
    assert [it["key"] for it in failures(folder)] == ["caf\udce9.png"]
    shelf.errors.clear()
    assert run("index", "--retry", str(beside(folder, "failures.jsonl"))).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "give either a SOURCE or --retry FILE"),
        (["a", "--retry", "b"], "give either a SOURCE or --retry FILE"),
        (["--retry", "b", "--failures", "c"], "--retry rewrites its own file"),
        (["no-such-folder"], "No such file or directory"),
        (["list.txt", "--header", "s3cret"], "expected 'NAME: VALUE' or @FILE"),
    ],
)
def test_a_command_line_that_is_wrong(arguments: list[str], why: str, run: Run) -> None:
    result = run("index", *arguments)
    assert result.exit_code == 2
    assert why in result.stderr
    assert "s3cret" not in result.stderr


def test_nothing_is_left_by_a_server_that_is_not_there(
    run: Run, folder: Path, unused_tcp_port: int
) -> None:
    result = run("--server", f"localhost:{unused_tcp_port}", "index", str(folder))
    assert result.exit_code == 3
    assert [path.name for path in folder.parent.iterdir()] == ["pictures"]


def test_a_source_without_images(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    result = run("index", str(tmp_path))
    assert result.exit_code == 0
    assert first_line(result).startswith("nothing found in ")


def test_the_example_of_the_documentation(run: Run, shelf: Shelf, tmp_path: Path) -> None:
    text = (Path(__file__).parents[5] / "docs" / "indexing.md").read_text()
    table = tmp_path / "cats.csv"
    (rows,) = re.findall(r"^```\n(file_name,.*?)```", text, re.MULTILINE | re.DOTALL)
    table.write_text(rows)
    (tmp_path / "cats").mkdir()
    for number in (1, 2):
        (tmp_path / "cats" / f"{number}.png").write_text(f"picture {number}")
    assert run("index", str(table)).exit_code == 0
    assert [dict(it.metadata) for it in shelf.sent] == [
        {"title": "a black cat", "year": "2020"},
        {"title": "a white cat"},
        {"title": "somebody's cat", "year": "2021"},
    ]
    assert shelf.sent[2].url == "https://example.com/cat.jpg"


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[5] / "docs" / "indexing.md").read_text()
    help_text = CliRunner().invoke(app, ["index", "--help"]).stdout
    options = set(re.findall(r"^\W*(--[a-z-]+)", help_text, re.MULTILINE)) - {"--help"}
    assert len(options) > 12
    assert {option for option in options if option not in text} <= {"--collection"}


def test_a_duplicate_that_the_server_finds(
    service: ScriptedService, run: Run, shelf: Shelf, tmp_path: Path
) -> None:
    """Content that is there under another id than the one given."""
    image_id = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    (tmp_path / "1.png").write_text("picture")
    table = tmp_path / "table.csv"
    table.write_text(f"id,path\n{image_id},1.png\n")

    def answer(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            response = pb.AddImageResponse(
                image=make_image(5),
                outcome=pb.ADD_OUTCOME_DUPLICATE,
                duplicate_of=make_image(5).id,
            )
            yield pb.AddImagesResponse(item_id=request.item_id, response=response)

    service.answer("AddImages", answer)
    shelf.stored[make_image(5).id] = pb.AddImageRequest()
    result = run("index", str(table))
    assert result.exit_code == 0
    assert first_line(result).startswith("1 duplicate in ")
    assert first_line(run("index", str(table))).startswith("1 stored already in ")


@pytest.mark.usefixtures("run")
def test_the_bar_is_on_the_terminal(service: ScriptedService, shelf: Shelf, folder: Path) -> None:
    terminal, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "--server", service.target, "index", str(folder)],
        stdout=subprocess.PIPE,
        stderr=slave,
        timeout=60,
        check=True,
    )
    os.close(slave)
    shown = os.read(terminal, 100_000)
    os.close(terminal)
    assert b"indexing" in shown
    assert b"5 of 5" in shown
    assert b"5 added" in shown
    assert done.stdout.startswith(b"5 added in ")
