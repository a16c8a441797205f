from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService, added, make_status

Run = Callable[..., Result]

NOT_AN_IMAGE = make_status(
    grpc.StatusCode.INVALID_ARGUMENT, "content: is not an image", "IMAGE_UNDECODABLE"
)


def add_what_starts_with_a_p(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
    for request in requests:
        if request.request.url or request.request.content.startswith(b"p"):
            yield added(request)
        else:
            yield pb.AddImagesResponse(item_id=request.item_id, error=NOT_AN_IMAGE)


def requests_of(service: ScriptedService) -> list[Any]:
    """Has the service keep each item it is sent, and accept it."""
    seen: list[Any] = []

    def keep(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            seen.append(request.request)
            yield added(request)

    service.answer("AddImages", keep)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("b.png", "a.JPG", "deep/er/c.webp", "deep/d.gif", "also/e.png", "a.txt", "deep/f.json")
    for name in names:
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"p" + name.encode())
    return tmp_path / "pictures"


def test_a_folder_is_searched_to_the_bottom(
    service: ScriptedService, run: Run, folder: Path
) -> None:
    seen = requests_of(service)
    result = run("add", str(folder))
    assert result.exit_code == 0, result.stderr
    names = ["a.JPG", "b.png", "also/e.png", "deep/d.gif", "deep/er/c.webp"]
    assert [request.uri for request in seen] == [(folder / name).as_uri() for name in names]
    assert [request.content for request in seen] == [f"p{name}".encode() for name in names]
    assert result.stdout.startswith("5 added in ")
    assert "2 other files passed over" in result.stdout


def test_headers_go_with_urls_only(service: ScriptedService, run: Run, folder: Path) -> None:
    seen = requests_of(service)
    file = folder / "headers.txt"
    file.write_text("X-Key: a:b\n\nX-Empty:\n")
    result = run(
        *("add", "https://example.com/cat.jpg", str(folder / "a.JPG")),
        *("--header", "Authorization: Bearer hush", "--header", f"@{file}"),
    )
    assert result.exit_code == 0, result.stderr
    expected = {"Authorization": "Bearer hush", "X-Key": "a:b", "X-Empty": ""}
    assert [dict(request.fetch_headers) for request in seen] == [expected, {}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hush"], "expected 'NAME: VALUE' or @FILE"),
        ([": hush"], "expected 'NAME: VALUE' or @FILE"),
        (["a: hush", "A: hush"], "one header is given twice"),
        (["@/nowhere"], "/nowhere: No such file or directory"),
    ],
)
def test_what_is_no_header_is_refused_and_not_shown(
    run: Run, arguments: list[str], message: str
) -> None:
    options = [part for argument in arguments for part in ("--header", argument)]
    result = run("add", "https://example.com/cat.jpg", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "hush" not in result.stderr


def test_urls_files_metadata_and_collection(
    service: ScriptedService, run: Run, folder: Path
) -> None:
    seen = requests_of(service)
    result = run(
        *("add", "https://example.com/cat.jpg", str(folder / "a.txt")),
        *("--metadata", "album=2024", "--metadata", "note=a=b", "--collection", "pets"),
    )
    assert result.exit_code == 0, result.stderr
    assert [(request.url, request.content) for request in seen] == [
        ("https://example.com/cat.jpg", b""),
        ("", b"pa.txt"),
    ]
    for request in seen:
        assert dict(request.metadata) == {"album": "2024", "note": "a=b"}
        assert request.collection == "pets"


def test_a_dash_reads_sources_from_stdin(service: ScriptedService, run: Run, folder: Path) -> None:
    seen = requests_of(service)
    result = run("add", "-", stdin=f"{folder / 'b.png'}\n\nhttps://example.com/cat.jpg\r\n")
    assert result.exit_code == 0, result.stderr
    assert [request.url or request.uri for request in seen] == [
        (folder / "b.png").as_uri(),
        "https://example.com/cat.jpg",
    ]


def test_what_is_refused_is_named_with_its_reason(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("AddImages", add_what_starts_with_a_p)
    (tmp_path / "good.png").write_bytes(b"png")
    (tmp_path / "bad.png").write_bytes(b"text")
    (tmp_path / "huge.png").write_bytes(b"p" * 10_001)
    result = run("add", str(tmp_path), str(tmp_path / "gone.png"))
    assert result.exit_code == 1
    lines = {
        Path(line.split()[0]).name: line for line in result.stdout.splitlines() if line.strip()
    }
    assert "content: is not an image" in lines["bad.png"]
    assert "has 10.0 kB; the server takes 10.0 kB" in lines["huge.png"]
    assert "no such file or folder" in lines["gone.png"]
    assert "good.png" not in lines
    assert "1 added, 3 refused in" in result.stdout


def test_a_part_of_the_server_that_is_away_is_not_the_images_fault(
    service: ScriptedService, run: Run, folder: Path
) -> None:
    def away(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            status = make_status(grpc.StatusCode.UNAVAILABLE, "Triton is away")
            yield pb.AddImagesResponse(item_id=request.item_id, error=status)

    service.answer("AddImages", away)
    result = run("add", str(folder / "a.JPG"))
    assert result.exit_code == 3
    assert "Triton is away" in result.stdout


def test_a_long_list_of_refusals_is_cut(service: ScriptedService, run: Run) -> None:
    service.answer("AddImages", add_what_starts_with_a_p)
    result = run("add", *(f"gone-{number}.png" for number in range(25)))
    assert result.exit_code == 1
    assert result.stdout.count("no such file or folder") == 20
    assert "and 5 more" in result.stdout


def test_json_is_a_line_an_image(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    service.answer("AddImages", add_what_starts_with_a_p)
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(b"png")
    bad.write_bytes(b"text")
    result = run("add", "--json", str(good), str(bad), "gone.png")
    assert result.exit_code == 1
    lines = {line["source"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert lines.keys() == {str(good), str(bad), "gone.png"}
    assert lines[str(good)]["outcome"] == "added"
    assert lines[str(good)]["image"]["uri"] == good.as_uri()
    assert lines[str(bad)] == {
        "source": str(bad),
        "outcome": "refused",
        "error": {
            "message": "content: is not an image",
            "code": "INVALID_ARGUMENT",
            "reason": "IMAGE_UNDECODABLE",
        },
    }
    assert lines["gone.png"]["error"] == {"message": "no such file or folder"}
    assert "1 added, 2 refused" in result.stderr


def test_json_goes_to_stdout_even_when_the_bar_is_on_a_terminal(
    service: ScriptedService, run: Run
) -> None:
    requests_of(service)
    terminal, slave = pty.openpty()
    command = ["add", "--json", "https://example.com/1.png", "https://example.com/2.png"]
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "--server", service.target, *command],
        stdout=subprocess.PIPE,
        stderr=slave,
        timeout=60,
        check=True,
    )
    os.close(slave)
    assert b"adding" in os.read(terminal, 100_000)
    os.close(terminal)
    assert [json.loads(line)["outcome"] for line in done.stdout.splitlines()] == ["added"] * 2


def test_every_outcome_is_counted(service: ScriptedService, run: Run) -> None:
    outcomes = [
        *(pb.ADD_OUTCOME_ADDED, pb.ADD_OUTCOME_UNCHANGED, pb.ADD_OUTCOME_UNCHANGED),
        *(pb.ADD_OUTCOME_REPLACED, pb.ADD_OUTCOME_DUPLICATE),
    ]

    def answer(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request, outcome in zip(requests, outcomes, strict=True):
            yield added(request, outcome)

    service.answer("AddImages", answer)
    result = run("add", *(f"https://example.com/{number}.png" for number in range(5)))
    assert result.exit_code == 0
    assert result.stdout.startswith("1 added, 2 unchanged, 1 replaced, 1 duplicate in ")


def test_a_server_that_goes_leaves_a_summary(service: ScriptedService, run: Run) -> None:
    def answer_two(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        yield added(next(requests))
        yield added(next(requests))

    service.answer("AddImages", answer_two)
    result = run("add", *(f"https://example.com/{number}.png" for number in range(5)))
    assert result.exit_code == 3
    assert result.stdout.startswith("2 added in ")
    assert "ended the stream before every image had a result" in result.stderr


def test_metadata_must_be_pairs(run: Run) -> None:
    result = run("add", "x.png", "--metadata", "album")
    assert result.exit_code == 2
    assert "'album' is not KEY=VALUE" in result.stderr


def test_a_name_that_is_no_text_is_shown_all_the_same(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("AddImages", add_what_starts_with_a_p)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"text")
    result = run("add", str(tmp_path))
    assert result.exit_code == 1
    assert r"caf\xe9.png" in result.stdout


def test_ctrl_c_leaves_a_summary(service: ScriptedService, run: Run) -> None:
    """In a process of its own, since the signal is the point."""
    process: subprocess.Popen[str]

    def interrupt_after_two(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield added(next(requests))
        yield added(next(requests))
        process.send_signal(signal.SIGINT)
        while context.is_active():
            next(requests, None)

    service.answer("AddImages", interrupt_after_two)
    urls = [f"https://example.com/{number}.png" for number in range(40)]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipsearch", "--server", service.target, "add", *urls],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert " added in " in stdout
    assert "Traceback" not in stderr


def test_ctrl_c_is_not_for_a_command_in_the_background(service: ScriptedService, run: Run) -> None:
    """A shell's script starts it with SIGINT ignored, as is done here for it to inherit."""
    process: subprocess.Popen[str]

    def interrupt(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        yield added(next(requests))
        process.send_signal(signal.SIGINT)
        yield from map(added, requests)

    service.answer("AddImages", interrupt)
    urls = [f"https://example.com/{number}.png" for number in range(40)]
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "clipsearch", "--server", service.target, "add", *urls],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, former)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert stdout.startswith("40 added in ")


@pytest.mark.parametrize("argument", ["", "x" * 300, "nul\0byte"])
def test_a_name_that_cannot_be_looked_up_is_refused_by_itself(
    argument: str,
    service: ScriptedService,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = requests_of(service)
    (tmp_path / "private.png").write_bytes(b"png")
    monkeypatch.chdir(tmp_path)
    result = run("add", argument, "https://example.com/1.png")
    assert result.exit_code == 1
    assert [request.url for request in seen] == ["https://example.com/1.png"]
    assert "1 added, 1 refused" in result.stdout


def test_a_pipe_is_no_file_and_a_linked_folder_is_told(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    seen = requests_of(service)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "linked").symlink_to(tmp_path)
    result = run("add", str(folder))
    assert result.exit_code == 1
    assert seen == []
    assert "is not a file" in result.stdout
    assert "1 other files passed over" in result.stdout


def test_control_characters_do_not_reach_the_terminal(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("AddImages", add_what_starts_with_a_p)
    (tmp_path / "clear\x1b[2J.png").write_bytes(b"text")
    result = run("add", str(tmp_path))
    assert "\x1b" not in result.stdout
    assert r"clear\x1b[2J.png" in result.stdout


def test_a_name_on_stdin_need_not_be_text(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    seen = requests_of(service)
    file = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(file)).write_bytes(b"png")
    result = run("add", "-", stdin=file + b"\n")
    assert result.exit_code == 0, result.stderr
    assert [request.content for request in seen] == [b"png"]
