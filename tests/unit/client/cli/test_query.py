from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from typer.testing import Result

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService, make_image, make_status

Run = Callable[..., Result]


def found(_: Any, context: grpc.ServicerContext) -> pb.QueryTextResponse:
    context.set_trailing_metadata((("server-timing", "embed;dur=4.02, total;dur=5.10"),))
    named = make_image(1)
    named.metadata.update({"name": "grinning [bold]cat"})
    hits = [pb.Hit(image=make_image(0), score=0.5), pb.Hit(image=named, score=0.25)]
    return pb.QueryTextResponse(hits=hits, token_count=5)


def test_hits_are_a_table(service: ScriptedService, run: Run) -> None:
    service.answer("QueryText", found)
    result = run("query", "a black cat", "-n", "2", "--min-score", "0.1", "--collection", "pets")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert rows[0] == ["#", "score", "picture", "pixels", "id"]
    assert rows[2][:4] == ["1", "0.500", "cat", "0.png"]
    assert rows[3][:4] == ["2", "0.250", "grinning", "[bold]cat"]
    assert rows[3][4:] == ["640", "x", "480", "00000000-0000-0000-0000-000000000001"]
    assert result.stderr == "embed 4.0 ms, total 5.1 ms\n"
    [request] = service.requests["QueryText"]
    assert (request.text, request.limit, request.collection) == ("a black cat", 2, "pets")
    assert request.score_threshold == pytest.approx(0.1)


def test_json_is_one_object(service: ScriptedService, run: Run) -> None:
    service.answer("QueryText", found)
    result = run("query", "a black cat", "--json")
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    assert [(hit["score"], hit["image"]["width_px"]) for hit in value["hits"]] == [
        (0.5, 640),
        (0.25, 640),
    ]
    assert value["timings_ms"] == {"embed": 4.02, "total": 5.1}
    assert (value["truncated"], value["token_count"], value["next_page_token"]) == (False, 5, "")
    assert value["hits"][0]["image"]["create_time"] == "1970-01-01T00:00:00+00:00"
    assert service.requests["QueryText"] == [pb.QueryTextRequest(text="a black cat")]


def test_a_text_that_was_cut_is_told(service: ScriptedService, run: Run) -> None:
    service.answer("QueryText", pb.QueryTextResponse(text_truncated=True, token_count=77))
    result = run("query", "on and on")
    assert result.exit_code == 0
    assert result.stderr == "the text was cut to the model's limit of 77 tokens\n"
    assert result.stdout == "nothing found\n"


def test_a_sheet_is_drawn(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    hit = pb.Hit(image=make_image(0, uri=picture.as_uri()), score=0.5)
    service.answer("QueryText", pb.QueryTextResponse(hits=[hit]))
    result = run("query", "red", "--sheet", str(tmp_path / "sheet.png"))
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        colours = sheet.getcolors(sheet.width * sheet.height)
    assert colours is not None
    assert (240 * 240, (255, 0, 0)) in colours


@pytest.mark.parametrize("name", ["sheet.txt", "sheet"])
def test_a_sheet_is_a_png(name: str, service: ScriptedService, run: Run) -> None:
    result = run("query", "red", "--sheet", name)
    assert result.exit_code == 2
    assert "must end in .png" in result.stderr
    assert not service.requests["QueryText"]


def test_a_sheet_that_cannot_be_written(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    service.answer("QueryText", pb.QueryTextResponse())
    file = tmp_path / "no-such-folder" / "sheet.png"
    result = run("query", "red", "--sheet", str(file))
    assert result.exit_code == 2
    assert result.stderr == f"clipsearch: {file}: No such file or directory\n"


@pytest.mark.parametrize(
    ("code", "reason", "message", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "text: is empty", 2),
        (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND", "there is no collection 'x'", 1),
        (grpc.StatusCode.UNAVAILABLE, "INDEX_UNAVAILABLE", "the index does not answer", 3),
        (grpc.StatusCode.PERMISSION_DENIED, "", "not for you", 4),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", "too much is in flight", 4),
        (grpc.StatusCode.UNKNOWN, "", "who knows", 4),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    exit_code: int,
    service: ScriptedService,
    run: Run,
) -> None:
    service.answer("QueryText", make_status(code, message, reason))
    result = run("query", "", "--json")
    assert result.exit_code == exit_code
    assert result.stderr == f"clipsearch: {message}\n"
    assert result.stdout == ""


def test_an_internal_error_quotes_its_id(service: ScriptedService, run: Run) -> None:
    service.answer(
        "QueryText",
        make_status(grpc.StatusCode.INTERNAL, "the server failed", "INTERNAL", error_id="f00"),
    )
    result = run("query", "x")
    assert result.exit_code == 4
    assert result.stderr == "clipsearch: the server failed (error id f00)\n"


def test_bytes_that_are_no_text_are_a_usage_error(run: Run) -> None:
    result = run("query", "caf\udce9")
    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr


def test_labels_of_others_do_no_harm(service: ScriptedService, run: Run) -> None:
    images = [
        make_image(1, uri="http://[x"),
        make_image(2, uri="file:///a\x1b]0;owned\x07.png"),
        make_image(3, metadata={"name": "clear\x1b[2J"}),
    ]
    hits = [pb.Hit(image=image, score=0.5) for image in images]
    service.answer("QueryText", pb.QueryTextResponse(hits=hits, token_count=4))
    result = run("query", "a cat")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "http://[x" in result.stdout
    assert r"clear\x1b[2J" in result.stdout


def test_a_limit_beyond_the_contract_is_a_usage_error(run: Run) -> None:
    result = run("query", "a cat", "-n", str(2**31))
    assert result.exit_code == 2
    assert "2147483647" in result.stderr
