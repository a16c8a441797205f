"""`clipsearch reembed`, against a server in memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from typer.testing import Result

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.cli.reembed.library import NEW, OLD, Library, embedding_of, id_of
from unit.client.scripted_service import ScriptedService, make_status

Run = Callable[..., Result]

REEMBED = ("reembed", "--model", "new")


def by_url(library: Library, number: int, **fields: object) -> str:
    """Adds an image by URL to the collection in use; returns the URL."""
    url = f"https://example.com/{number}.png"
    library.web.setdefault(url, f"picture {number}".encode())
    request = pb.AddImageRequest(id=id_of(number), url=url, **fields)  # type: ignore[arg-type]
    library.put("", request)
    return url


def by_file(library: Library, number: int, path: Path) -> None:
    path.write_bytes(f"picture {number}".encode())
    request = pb.AddImageRequest(id=id_of(number), content=path.read_bytes(), uri=path.as_uri())
    library.put("", request)


def test_urls_and_files_come_into_a_new_collection_and_the_alias_follows(
    library: Library, run: Run, tmp_path: Path
) -> None:
    library.collections["images-1"].prompt_templates.templates.append("a {}")
    library.collections["images-1"].indexed_fields.add(field="year", type=pb.FIELD_TYPE_NUMBER)
    for number in range(3):
        by_url(library, number, uri=f"label {number}")
    library.images["images-1"][id_of(1)].metadata.update({"year": 2020, "is_good": True})
    by_file(library, 7, tmp_path / "a b.png")
    result = run(*REEMBED, "--settle", "0", "--header", "X-Key: 1")
    assert result.exit_code == 0, result.stderr
    assert library.facts("images-2") == library.facts("images-1")
    assert library.aliases == {"images": "images-2"}
    for image in library.images["images-2"].values():
        assert library.embeddings["images-2"][image.id] == embedding_of(image.sha256, NEW)
    made = library.collections["images-2"]
    assert made.model_fingerprint == NEW.fingerprint
    assert made.prompt_templates == library.collections["images-1"].prompt_templates
    assert list(made.indexed_fields) == list(library.collections["images-1"].indexed_fields)
    assert [dict(it.fetch_headers) for it in library.sent] == [{"X-Key": "1"}] * 3 + [{}]
    assert "4 copied" in result.stdout
    assert "clipsearch --server" in result.stdout
    assert "collections delete images-1" in result.stdout


def test_a_second_run_finds_nothing_to_do(library: Library, run: Run) -> None:
    by_url(library, 1)
    run(*REEMBED, "--settle", "0")
    result = run(*REEMBED)
    assert result.exit_code == 0
    assert result.stdout == "images-2 is filled by the model new already: nothing to do\n"


def test_equal_contents_keep_their_ids_whatever_the_policy(library: Library, run: Run) -> None:
    library.duplicates = "allow"
    urls = [by_url(library, number) for number in range(3)]
    for url in urls:
        library.web[url] = b"the same"
    for number in range(3):
        by_url(library, number)
    library.images["images-1"][id_of(0)].duplicate_of = id_of(2)
    for policy in ("refuse", "link", "allow"):
        library.duplicates = policy
        result = run(*REEMBED, "--to", policy, "--keep-alias")
        assert result.exit_code == 0, result.stderr
        assert library.facts(policy) == library.facts("images-1")
        assert {tuple(it) for it in library.embeddings[policy].values()} == {
            tuple(embedding_of(library.images[policy][id_of(0)].sha256, NEW))
        }
    assert library.aliases == {"images": "images-1"}


def test_what_can_no_longer_be_had_holds_back_the_switch(
    library: Library, run: Run, tmp_path: Path
) -> None:
    by_url(library, 1)
    away = by_url(library, 2)
    del library.web[away]
    by_file(library, 3, tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    by_file(library, 4, tmp_path / "changed.png")
    (tmp_path / "changed.png").write_bytes(b"picture X")
    library.put("", pb.AddImageRequest(id=id_of(5), content=b"nameless"))
    result = run(*REEMBED)
    assert result.exit_code == 1
    assert "1 copied, 3 refused, 1 failed" in result.stdout
    assert "images-1 stays in use: 4 of its images are not in images-2" in result.stdout
    assert library.aliases == {"images": "images-1"}
    lines = Path("images-2.clipsearch-failures.jsonl").read_text().splitlines()
    assert {(it["id"], it["reason"]) for it in map(json.loads, lines)} == {
        (id_of(2), "SOURCE_TIMEOUT"),
        (id_of(3), "ORIGINAL_MISSING"),
        (id_of(4), "ORIGINAL_CHANGED"),
        (id_of(5), "ORIGINAL_MISSING"),
    }

    library.web[away] = b"picture 2"
    library.sent.clear()
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "gone.png").write_bytes(b"picture 3")
    result = run(*REEMBED, "--images-dir", "backup", "--allow-missing", "--settle", "0")
    assert result.exit_code == 0, result.stderr
    assert [it.id for it in library.sent] == [id_of(2), id_of(3)]
    assert library.aliases == {"images": "images-2"}
    assert library.images["images-2"].keys() == {id_of(it) for it in (1, 2, 3)}


def test_a_file_stands_in_for_a_dead_url(library: Library, run: Run, tmp_path: Path) -> None:
    url = by_url(library, 1)
    del library.web[url]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "1.png").write_bytes(b"picture 1")
    result = run(*REEMBED, "--images-dir", str(tmp_path), "--settle", "0")
    assert result.exit_code == 0, result.stdout
    assert library.facts("images-2") == library.facts("images-1")


def test_a_url_with_another_picture_is_taken_as_it_is_now(library: Library, run: Run) -> None:
    by_url(library, 1)
    url = by_url(library, 2)
    library.web[url] = b"something else"
    result = run(*REEMBED, "--settle", "0")
    assert result.exit_code == 0, result.stderr
    assert "1 copied, 1 changed at its URL" in result.stdout
    now = library.images["images-2"][id_of(2)]
    assert (now.url, now.size_bytes) == (url, len(b"something else"))
    assert library.embeddings["images-2"][now.id] == embedding_of(now.sha256, NEW)
    assert len(library.sent) == 2


def test_a_url_that_shows_a_picture_stored_under_another_id_keeps_its_own(
    library: Library, run: Run
) -> None:
    by_url(library, 1)
    url = by_url(library, 2)
    library.web[url] = b"picture 1"
    result = run(*REEMBED, "--settle", "0")
    assert result.exit_code == 0, result.stderr
    first, second = (library.images["images-2"][id_of(it)] for it in (1, 2))
    assert (second.url, second.sha256) == (url, first.sha256)


def test_a_run_goes_on_where_the_last_one_ended(library: Library, run: Run) -> None:
    for number in range(6):
        by_url(library, number)
    run(*REEMBED, "--keep-alias")
    library.remove("images-2", id_of(3))
    library.remove("images-1", id_of(4))
    library.images["images-1"][id_of(5)].uri = "another"
    library.sent.clear()
    result = run(*REEMBED, "--settle", "0")
    assert result.exit_code == 0, result.stderr
    assert [it.id for it in library.sent] == [id_of(3)]
    assert library.facts("images-2") == library.facts("images-1")
    assert "2 copied, 1 deleted, 3 there already" in result.stdout


def test_a_stale_picture_does_not_stay(library: Library, run: Run) -> None:
    for number in range(3):
        url = by_url(library, number)
    run(*REEMBED, "--keep-alias")
    library.web[url] = b"new picture"
    by_url(library, 2)
    del library.web[url]
    result = run(*REEMBED, "--allow-missing", "--settle", "0")
    assert result.exit_code == 0, result.stderr
    assert library.images["images-2"].keys() == {id_of(0), id_of(1)}


def test_dry_run_changes_nothing(library: Library, run: Run, tmp_path: Path) -> None:
    for number in range(2):
        by_url(library, number)
    by_file(library, 3, tmp_path / "3.png")
    library.put("", pb.AddImageRequest(id=id_of(5), content=b"nameless"))
    result = run(*REEMBED, "--dry-run", "--json")
    assert result.exit_code == 1
    outcomes = [json.loads(it)["outcome"] for it in result.stdout.splitlines()]
    assert outcomes == ["would be fetched"] * 2 + ["would be read", "refused"]
    assert "2 would be fetched, 1 would be read, 1 refused" in result.stderr
    assert library.collections.keys() == {"images-1"}


def test_json_tells_of_each_image_and_of_the_switch(library: Library, run: Run) -> None:
    by_url(library, 1)
    result = run(*REEMBED, "--json", "--settle", "0")
    image, switch = map(json.loads, result.stdout.splitlines())
    assert (image["source"], image["outcome"]) == (id_of(1), "copied")
    assert switch == {
        "alias": "images",
        "collection": "images-2",
        "previous_collection": "images-1",
    }


def test_only_the_alias_that_was_named_is_switched(library: Library, run: Run) -> None:
    library.aliases |= {"staging": "images-1", "live": "images-1"}
    by_url(library, 1)
    assert run(*REEMBED, "staging", "--settle", "0").exit_code == 0
    assert library.aliases == {"images": "images-1", "live": "images-1", "staging": "images-2"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--model", "newest"), "the server runs no model newest"),
        (("--to", "images"), "images is an alias of images-1"),
        (("--to", "pets"), "pets is filled by old"),
        (("--to", "cars"), "cars holds 2 images that images-1 does not"),
        (("--to", "dogs"), "dogs holds 1 images that images-1 does not"),
        (("pets",), "no alias stands for pets"),
        (("--failures", "notes.txt"), "notes.txt is not a file of failures"),
        (("--failures", "no/where"), "cannot write no/where"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(
    arguments: tuple[str, ...], why: str, library: Library, run: Run
) -> None:
    Path("notes.txt").write_text("dear diary")
    library.make("pets", OLD)
    library.make("cars", NEW)
    by_url(library, 1)
    for number in (8, 9):
        request = pb.AddImageRequest(id=id_of(number), content=b"%d" % number)
        library.put("cars", request)
    library.make("dogs", NEW, alias="best-friends")
    library.put("dogs", pb.AddImageRequest(id=id_of(7), content=b"7"))
    result = run(*REEMBED, *arguments)
    assert result.exit_code == 2
    assert why in result.stderr
    assert library.collections.keys() == {"images-1", "pets", "cars", "dogs"}
    assert len(library.images["dogs"]) == 1
    assert len(library.images["cars"]) == 2


def test_models_of_one_name_are_told_by_their_fingerprints(library: Library, run: Run) -> None:
    library.models.append(pb.Model(id="new", fingerprint="c" * 64, embedding_dim=2))
    by_url(library, 1)
    result = run(*REEMBED)
    assert result.exit_code == 2
    assert "new (bbbbbbbbbbbb), new (cccccccccccc)" in result.stderr
    assert run("reembed", "--model", "c" * 8, "--settle", "0").exit_code == 0
    assert library.collections["images-2"].model_fingerprint == "c" * 64


def test_the_next_number_that_is_free_or_was_begun_is_taken(library: Library, run: Run) -> None:
    library.make("images-2", OLD)
    library.aliases["images-3"] = "images-2"
    library.make("images-4", NEW)
    by_url(library, 1)
    assert run(*REEMBED, "--settle", "0").exit_code == 0
    assert library.aliases["images"] == "images-4"
    assert library.facts("images-4") == library.facts("images-1")


def test_after_a_switch_that_a_crash_followed_the_rest_can_be_had(
    library: Library, run: Run
) -> None:
    by_url(library, 1)
    by_url(library, 2)
    run(*REEMBED, "--keep-alias")
    library.aliases["images"] = "images-2"
    library.images["images-2"][id_of(2)].uri = "changed since"
    by_url(library, 4)
    url = by_url(library, 3)
    library.remove("images-2", id_of(3))
    library.put("images-1", pb.AddImageRequest(id=id_of(3), url=url))
    result = run(*REEMBED, "images-1", "--to", "images-2")
    assert result.exit_code == 0, result.stderr
    assert library.images["images-2"].keys() == {id_of(it) for it in (1, 2, 3, 4)}
    assert library.images["images-2"][id_of(2)].uri == "changed since"


def test_what_others_change_in_the_new_one_at_the_last_moment_stays(
    library: Library, run: Run
) -> None:
    by_url(library, 1)

    def write(method: str) -> None:
        if method == "SetAlias":  # what the command has yet to bring over
            by_url(library, 1, uri="before the switch")
        elif method == "GetImage":
            by_url(library, 1, uri="after the switch")

    library.before = write
    assert run(*REEMBED, "--settle", "0").exit_code == 0
    assert library.images["images-1"][id_of(1)].uri == "before the switch"
    assert library.images["images-2"][id_of(1)].uri == "after the switch"


def test_what_another_run_has_switched_to_is_left_as_it_is(library: Library, run: Run) -> None:
    by_url(library, 1)

    def switch_and_add(method: str) -> None:
        if method == "AddImages" and library.aliases["images"] == "images-1":
            library.aliases["images"] = "images-2"
            by_url(library, 2)

    library.before = switch_and_add
    result = run(*REEMBED, "--settle", "0")
    assert result.exit_code == 2
    assert "images stands for images-2 by now" in result.stderr
    assert library.images["images-2"].keys() == {id_of(1), id_of(2)}


@pytest.mark.parametrize("moved", [True, False])
def test_an_alias_that_others_have_moved_is_not_switched(
    moved: bool, library: Library, run: Run
) -> None:
    library.make("elsewhere", OLD)
    library.aliases["live"] = "images-1"
    by_url(library, 1)

    def move(method: str) -> None:
        if method == "AddImages" and moved:
            library.aliases["live"] = "elsewhere"
        elif method == "AddImages":
            library.aliases.pop("live", None)

    library.before = move
    result = run(*REEMBED, "live", "--settle", "0")
    assert result.exit_code == 2
    assert f"live stands for {'elsewhere' if moved else 'nothing'} by now" in result.stderr
    assert "images-2" not in library.aliases.values()
    assert library.facts("images-2") == library.facts("images-1")


def test_what_is_written_to_the_old_one_is_brought_though_the_new_one_has_grown(
    library: Library, run: Run
) -> None:
    by_url(library, 1)
    run(*REEMBED, "--settle", "0")
    for number in (2, 3, 4):
        by_url(library, number)
    library.web["https://example.com/6.png"] = b"picture 6"
    library.put("images-1", pb.AddImageRequest(id=id_of(6), url="https://example.com/6.png"))
    assert run(*REEMBED, "images-1", "--to", "images-2").exit_code == 0
    assert library.images["images-2"].keys() == {id_of(it) for it in (1, 2, 3, 4, 6)}


def test_ctrl_c_switches_nothing_and_says_how_to_go_on(
    library: Library, service: ScriptedService
) -> None:
    """In a process of its own, since the signal is the point."""
    for number in range(5):
        by_url(library, number)
    process: subprocess.Popen[str]

    def interrupt(method: str) -> None:
        if method == "AddImages" and len(library.sent) == 2:
            process.send_signal(signal.SIGINT)

    library.before = interrupt
    command = ("--server", service.target, *REEMBED, "--max-in-flight", "1")
    with library.lock:  # until the process is known
        process = subprocess.Popen(
            [sys.executable, "-m", "clipsearch", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "copied" in stdout
    assert "stopped before the end; the same command goes on from here" in stdout
    assert library.aliases == {"images": "images-1"}


def test_a_server_that_is_overloaded_is_waited_for(library: Library, run: Run) -> None:
    for number in range(3):
        by_url(library, number)
    busy = make_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much to do", "SERVER_OVERLOADED")
    library.failing = {id_of(1): [busy, busy]}
    result = run(*REEMBED, "--settle", "0")
    assert result.exit_code == 0, result.output
    assert library.facts("images-2") == library.facts("images-1")
    assert "3 copied" in result.stdout
