from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from typer.testing import Result

from clipsearch.v1 import filter_pb2
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


ID = "00000000-0000-0000-0000-000000000001"
HIT = pb.Hit(image=make_image(0), score=0.5)


def test_like_a_stored_picture(service: ScriptedService, run: Run) -> None:
    service.answer("QueryImage", pb.QueryImageResponse(hits=[HIT]))
    result = run("query", "--image", ID, "-n", "3")
    assert result.exit_code == 0, result.stderr
    assert "0.500" in result.stdout
    assert service.requests["QueryImage"] == [pb.QueryImageRequest(id=ID, limit=3)]


def test_like_a_picture_at_a_url(service: ScriptedService, run: Run) -> None:
    service.answer("QueryImage", pb.QueryImageResponse(hits=[HIT]))
    url = "https://example.com/cat.jpg"
    assert run("query", "--image", url, "--header", "Authorization: x").exit_code == 0
    expected = pb.QueryImageRequest(url=url, fetch_headers={"Authorization": "x"})
    assert service.requests["QueryImage"] == [expected]


def test_like_a_file(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    service.answer("QueryImage", pb.QueryImageResponse(hits=[HIT]))
    (tmp_path / "cat.png").write_bytes(b"a picture")
    assert run("query", "--image", str(tmp_path / "cat.png")).exit_code == 0
    assert service.requests["QueryImage"] == [pb.QueryImageRequest(content=b"a picture")]


@pytest.mark.parametrize(
    ("size", "message"), [(None, "no such file"), (20_000, "has 20.0 kB; the server takes 10.0 kB")]
)
def test_a_file_that_cannot_be_sent(
    size: int | None, message: str, run: Run, tmp_path: Path
) -> None:
    if size is not None:
        (tmp_path / "cat.png").write_bytes(bytes(size))
    result = run("query", "--image", str(tmp_path / "cat.png"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_mix_with_weights(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "a::2.png"
    picture.write_bytes(b"a picture")
    service.answer("Query", pb.QueryResponse(hits=[HIT], truncated_terms=[1]))
    result = run(
        *(
            "query",
            "at night",
            "--and",
            "in the rain ::0.5",
            "--not",
            "people",
            "--not",
            "cars::.5",
        ),
        *("--image", str(picture), "--image", "https://example.com/a.jpg::2", "--not-image", ID),
        *("--template", "a {}", "--template", "{}"),
    )
    assert result.exit_code == 0, result.stderr
    [request] = service.requests["Query"]
    assert list(request.terms) == [
        pb.QueryTerm(text="at night", weight=1),
        pb.QueryTerm(text="in the rain", weight=0.5),
        pb.QueryTerm(image_content=b"a picture", weight=1),
        pb.QueryTerm(image_url="https://example.com/a.jpg", weight=2),
        pb.QueryTerm(text="people", weight=-1),
        pb.QueryTerm(text="cars", weight=-0.5),
        pb.QueryTerm(image_id=ID, weight=-1),
    ]
    assert list(request.prompt_templates.templates) == ["a {}", "{}"]
    assert result.stderr == 'cut to the model\'s limit: "in the rain"\n'


@pytest.mark.parametrize("text", ["C::B", "std::", "::x", "10:30", "::1::"])
def test_a_text_is_what_it_is(text: str, service: ScriptedService, run: Run) -> None:
    service.answer("QueryText", pb.QueryTextResponse())
    assert run("query", text).exit_code == 0
    assert service.requests["QueryText"] == [pb.QueryTextRequest(text=text)]


def test_one_term_alone_may_be_unlike(service: ScriptedService, run: Run) -> None:
    service.answer("Query", pb.QueryResponse())
    assert run("query", "--not", "a cat").exit_code == 0
    expected = pb.QueryRequest(terms=[pb.QueryTerm(text="a cat", weight=-1)])
    assert service.requests["Query"] == [expected]


def test_filters_and_ranking(service: ScriptedService, run: Run) -> None:
    service.answer("QueryText", pb.QueryTextResponse())
    result = run(
        *("query", "a cat", "--where", "width >= 640 and colour = red", "--auto-cut", "--exact"),
        *("--duplicate-similarity", "0.5", "--diversity", "0.25"),
    )
    assert result.exit_code == 0, result.stderr
    [request] = service.requests["QueryText"]
    assert [condition.field for condition in request.filter.must] == ["width_px", "colour"]
    assert request.filter.must[0].number_range == filter_pb2.NumberRange(gte=640)
    assert request.ranking == pb.Ranking(
        auto_cut=True, collapse=True, collapse_similarity=0.5, diversity=0.25, exact=True
    )


def test_a_wrong_filter_is_shown_with_its_place(service: ScriptedService, run: Run) -> None:
    result = run("query", "a cat", "--where", "colour => red")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    at = next(number for number, line in enumerate(lines) if "colour => red" in line)
    assert lines[at + 1][lines[at].index("=> red")] == "^"
    assert not service.requests


def test_near_duplicates_are_counted(service: ScriptedService, run: Run) -> None:
    hits = [pb.Hit(image=make_image(0), score=0.5, near_duplicate_count=3), HIT]
    service.answer("QueryText", pb.QueryTextResponse(hits=hits))
    result = run("query", "a cat", "--no-duplicates")
    assert result.exit_code == 0, result.stderr
    head, _, first, second = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert head == ["#", "score", "picture", "alike", "pixels", "id"]
    assert (first[4], second[4]) == ("+3", "640")
    [request] = service.requests["QueryText"]
    assert request.ranking == pb.Ranking(collapse=True)


def test_that_nothing_really_matches_is_told(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("QueryText", pb.QueryTextResponse(cut_off=pb.CutOff(score=0.25)))
    result = run("query", "a cat", "--auto-cut", "--sheet", str(tmp_path / "sheet.png"))
    assert result.exit_code == 0
    assert result.stdout == "nothing really matches (the best score was below 0.250)\n"


def test_what_was_cut_off_is_told(service: ScriptedService, run: Run) -> None:
    service.answer("QueryText", pb.QueryTextResponse(hits=[HIT], cut_off=pb.CutOff(score=0.25)))
    result = run("query", "a cat", "--auto-cut")
    assert result.stderr == "left out what scored below 0.250\n"


def test_that_there_was_too_little_to_judge_by_is_told(service: ScriptedService, run: Run) -> None:
    uncut = pb.CutOff(score=-1)
    service.answer(
        "QueryText",
        pb.QueryTextResponse(hits=[HIT], cut_off=uncut),
        pb.QueryTextResponse(cut_off=uncut),
    )
    some = run("query", "a cat", "--auto-cut")
    assert some.stderr == "too few images for --auto-cut to judge by: nothing was left out\n"
    assert run("query", "a cat", "--auto-cut").stdout == "nothing found\n"


def test_pages(service: ScriptedService, run: Run) -> None:
    service.answer(
        "QueryText",
        pb.QueryTextResponse(hits=[HIT], next_page_token="second-page"),
        pb.QueryTextResponse(cut_off=pb.CutOff(score=0.25)),
    )
    assert run("query", "a cat").stderr == "more hits: --page-token second-page\n"
    last = run("query", "a cat", "--page-token", "second-page")
    assert (last.exit_code, last.stdout) == (0, "no more hits\n")
    assert [request.page_token for request in service.requests["QueryText"]] == ["", "second-page"]


def test_all_pages(service: ScriptedService, run: Run) -> None:
    service.answer(
        "QueryImage",
        pb.QueryImageResponse(hits=[HIT], next_page_token="second"),
        pb.QueryImageResponse(hits=[], next_page_token="third"),
        pb.QueryImageResponse(hits=[HIT]),
    )
    result = run("query", "--image", ID, "--all", "--json")
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    assert (len(value["hits"]), value["next_page_token"]) == (2, "")
    asked = [(request.page_token, request.limit) for request in service.requests["QueryImage"]]
    assert asked == [("", 1000), ("second", 1000), ("third", 1000)]


def answer_texts(request: pb.QueryTextsRequest, _: grpc.ServicerContext) -> pb.QueryTextsResponse:
    empty = make_status(grpc.StatusCode.INVALID_ARGUMENT, "text: is bad", "INVALID_FIELD")
    answers = {
        "bad": pb.QueryTextsResult(error=empty),
        "nothing": pb.QueryTextsResult(response=pb.QueryTextResponse()),
    }
    two = pb.QueryTextResponse(hits=[HIT, pb.Hit(image=make_image(1), score=0.25)])
    results = [answers.get(text, pb.QueryTextsResult(response=two)) for text in request.texts]
    return pb.QueryTextsResponse(results=results)


def test_a_file_of_texts_is_a_table(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    service.answer("QueryTexts", answer_texts)
    file = tmp_path / "queries.txt"
    file.write_text("\ufeffa cat::2\r\n\n  nothing \n", encoding="utf-8")
    result = run("query", "--file", str(file), "-n", "2", "--auto-cut", "--template", "a {}")
    assert result.exit_code == 0, result.stderr
    _, _, first, second = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert first.split("  ")[0] == "a cat::2"
    assert first.endswith("0.500   cat 0.png, cat 1.png")
    assert second.endswith("nothing found")
    assert service.requests["QueryTexts"] == [
        pb.QueryTextsRequest(
            texts=["a cat::2", "nothing"],
            limit=2,
            ranking=pb.Ranking(auto_cut=True),
            prompt_templates=pb.PromptTemplates(templates=["a {}"]),
        )
    ]


def test_a_long_text_of_a_file_is_shortened(service: ScriptedService, run: Run) -> None:
    service.answer("QueryTexts", answer_texts)
    result = run("query", "--file", "-", stdin="a cat " * 1000)
    assert "..." in result.stdout
    assert len(result.stdout.splitlines()) < 20
    [request] = service.requests["QueryTexts"]
    assert len(request.texts[0]) == 5999


def test_a_file_without_texts(run: Run) -> None:
    result = run("query", "--file", "-", stdin="\n  \n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "there are no texts in it\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_text_of_a_file_does_not_disturb_the_others(
    as_json: bool, service: ScriptedService, run: Run
) -> None:
    service.answer("QueryTexts", answer_texts)
    options = ["--json"] if as_json else []
    result = run("query", "--file", "-", *options, stdin="a cat\nbad\na dog\n")
    assert result.exit_code == 1
    if not as_json:
        assert "refused: text: is bad" in result.stdout
        assert "a dog" in result.stdout
        return
    first, second, third = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(found["result"]["hits"]) for found in (first, third)] == [2, 2]
    error = {"message": "text: is bad", "code": "INVALID_ARGUMENT", "reason": "INVALID_FIELD"}
    assert second == {"text": "bad", "result": None, "error": error}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file or folder"), (b"a cat\ncaf\xe9\n", "line 2 is not UTF-8")],
)
def test_a_file_of_texts_that_cannot_be_read(
    content: bytes | None, message: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "queries.txt"
    if content is not None:
        file.write_bytes(content)
    result = run("query", "--file", str(file))
    assert result.exit_code == 2
    assert result.stderr == f"clipsearch: {file}: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to find"),
        (["a cat", "--file", "x.txt"], "is for texts alone"),
        (["--file", "x.txt", "--all"], "is for texts alone"),
        (["--file", "x.txt", "--sheet", "x.png"], "is for texts alone"),
        (["a cat", "--header", "A: b"], "is for the URL of a single --image"),
        (["--image", ID, "--header", "A: b"], "is for the URL of a single --image"),
        (["a cat", "--all", "-n", "3"], "either this or --limit"),
        (["a cat", "--diversity", "2"], "--diversity"),
        (["a cat", "--where", ""], "the filter is empty"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], message: str, run: Run) -> None:
    result = run("query", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
