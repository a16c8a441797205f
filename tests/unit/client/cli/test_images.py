from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import pytest
from typer.testing import Result

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService, make_image, make_status

Run = Callable[..., Result]

NO_IMAGE = make_status(grpc.StatusCode.NOT_FOUND, "no image has the id x", "IMAGE_NOT_FOUND")


def test_get(service: ScriptedService, run: Run) -> None:
    stored = make_image(1)
    stored.metadata.update({"year": 2020})
    service.answer("GetImage", pb.GetImageResponse(image=stored))
    result = run("get", stored.id, "--collection", "pets")
    assert result.exit_code == 0, result.stderr
    facts = [line.split() for line in result.stdout.splitlines()]
    assert ["id", stored.id] in facts
    assert ["pixels", "640", "x", "480"] in facts
    assert ["size", "12.3", "kB"] in facts
    assert ["metadata:", "year", "2020"] in facts
    assert service.requests["GetImage"] == [pb.GetImageRequest(id=stored.id, collection="pets")]


def test_get_shows_what_an_image_is_a_duplicate_of(service: ScriptedService, run: Run) -> None:
    stored = make_image(1)
    service.answer("GetImage", pb.GetImageResponse(image=stored))
    assert "duplicate" not in run("get", stored.id).stdout
    stored.duplicate_of = make_image(2).id
    service.answer("GetImage", pb.GetImageResponse(image=stored))
    facts = [line.split() for line in run("get", stored.id).stdout.splitlines()]
    assert ["duplicate", "of", stored.duplicate_of] in facts


def test_get_json(service: ScriptedService, run: Run) -> None:
    service.answer("GetImage", pb.GetImageResponse(image=make_image(1)))
    result = run("get", "x", "--json")
    assert json.loads(result.stdout)["sha256"] == f"{1:064x}"


def test_get_what_is_not_there(service: ScriptedService, run: Run) -> None:
    service.answer("GetImage", NO_IMAGE)
    result = run("get", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "clipsearch: no image has the id x\n"


@pytest.fixture
def three_pages(service: ScriptedService) -> ScriptedService:
    """Three pages of two images, whatever the page size."""

    def page(request: pb.ListImagesRequest, _: grpc.ServicerContext) -> pb.ListImagesResponse:
        number = int(request.page_token or "0")
        images = [make_image(2 * number), make_image(2 * number + 1)]
        token = str(number + 1) if number < 2 else ""
        return pb.ListImagesResponse(images=images, next_page_token=token, total_size=6)

    service.answer("ListImages", page)
    return service


@pytest.mark.parametrize(("limit", "count"), [("3", 3), ("0", 6), ("50", 6)])
def test_list_json_is_a_line_an_image(
    limit: str, count: int, three_pages: ScriptedService, run: Run
) -> None:
    result = run("list", "--json", "-n", limit)
    assert result.exit_code == 0, result.stderr
    ids = [json.loads(line)["id"][-1] for line in result.stdout.splitlines()]
    assert ids == [str(number) for number in range(count)]


def test_list_is_a_table_that_says_what_it_leaves_out(
    three_pages: ScriptedService, run: Run
) -> None:
    result = run("list", "--limit", "3")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("00000000-0000-0000-0000-") == 3
    assert "cat 2.png" in result.stdout
    assert "3 of 6 images" in result.stderr


def test_list_all_leaves_nothing_out(three_pages: ScriptedService, run: Run) -> None:
    result = run("list")
    assert result.stdout.count("00000000-0000-0000-0000-") == 6
    assert result.stderr == ""


def test_delete_one_does_not_ask(service: ScriptedService, run: Run) -> None:
    service.answer("DeleteImage", pb.DeleteImageResponse())
    result = run("delete", "x")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1 deleted\n", "")


@pytest.mark.parametrize(
    ("answer", "exit_code", "calls"), [("y\n", 0, 2), ("n\n", 1, 0), ("", 1, 0)]
)
def test_delete_two_asks(
    answer: str, exit_code: int, calls: int, service: ScriptedService, run: Run
) -> None:
    service.answer("DeleteImage", pb.DeleteImageResponse())
    result = run("delete", "x", "y", stdin=answer)
    assert result.exit_code == exit_code
    assert len(service.requests["DeleteImage"]) == calls
    assert "Delete 2 images?" in result.stderr


def test_delete_goes_on_after_one_that_is_not_there(service: ScriptedService, run: Run) -> None:
    service.answer("DeleteImage", NO_IMAGE, pb.DeleteImageResponse())
    result = run("delete", "x", "y", "--yes", "--json")
    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"id": "x", "deleted": False},
        {"id": "y", "deleted": True},
    ]
    assert "no image has the id x" in result.stderr


def test_delete_says_how_far_it_came(service: ScriptedService, run: Run) -> None:
    bad = make_status(grpc.StatusCode.INVALID_ARGUMENT, "id: is not a UUID", "INVALID_FIELD")
    service.answer("DeleteImage", pb.DeleteImageResponse(), bad)
    result = run("delete", "-y", "1", "2", "3")
    assert result.exit_code == 2
    assert "1 deleted" in result.stdout
