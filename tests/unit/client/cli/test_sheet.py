from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image, ImageChops

import clipsearch
from clipsearch.cli.sheet import Tile, draw_sheet, write_sheet

COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10), (200, 10, 200), (9, 99, 99)]


def make_hit(uri: str) -> clipsearch.Hit:
    image = clipsearch.Image(
        id="00000000-0000-0000-0000-000000000001",
        url="",
        uri=uri,
        metadata={},
        sha256="",
        media_type="image/png",
        width_px=1,
        height_px=1,
        size_bytes=1,
        create_time=datetime(2024, 1, 1, tzinfo=UTC),
        update_time=datetime(2024, 1, 1, tzinfo=UTC),
    )
    return clipsearch.Hit(image=image, score=0.25)


def sheet_of(folder: Path, hits: list[clipsearch.Hit]) -> Image.Image:
    write_sheet(folder / "sheet.png", "query", hits)
    with Image.open(folder / "sheet.png") as sheet:
        return sheet.convert("RGB")


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Where a colour is: left, top, right, bottom."""
    difference = ImageChops.difference(sheet, Image.new("RGB", sheet.size, colour))
    return difference.convert("L").point(lambda value: 255 if value == 0 else 0).getbbox()


def test_each_tile_shows_its_picture_whole_and_in_order() -> None:
    tiles = [Tile(Image.new("RGB", (60, 60), colour), "caption", "detail") for colour in COLOURS]
    sheet = draw_sheet("title", tiles, columns=5)
    boxes = [box_of(sheet, colour) for colour in COLOURS]
    for box in boxes:
        assert box is not None
        assert (box[2] - box[0], box[3] - box[1]) == (240, 240)
    places = [(box[1], box[0]) for box in boxes if box is not None]
    assert places == sorted(places)
    assert len({top for top, _ in places[:5]}) == 1  # five in a row, the sixth below the first
    assert places[5][1] == places[0][1]


@pytest.mark.parametrize(
    ("size", "shown"),
    [((400, 100), (240, 60)), ((100, 400), (60, 240)), ((2000, 2000), (240, 240))],
)
def test_a_picture_keeps_its_shape(size: tuple[int, int], shown: tuple[int, int]) -> None:
    sheet = draw_sheet("title", [Tile(Image.new("RGB", size, COLOURS[0]), "", "")])
    box = box_of(sheet, COLOURS[0])
    assert box is not None
    assert (box[2] - box[0], box[3] - box[1]) == shown


def test_the_sheet_grows_by_rows() -> None:
    tile = Tile("nothing", "caption", "detail")
    one, two = draw_sheet("t", [tile] * 5), draw_sheet("t", [tile] * 6)
    assert one.width == two.width
    assert two.height > one.height
    assert draw_sheet("t", [tile] * 10).height == two.height


def test_text_is_drawn_and_does_not_leave_the_sheet() -> None:
    tile = Tile("nothing", "caption", "detail")
    plain = draw_sheet("", [tile])
    titled = draw_sheet("a very long title " * 20, [tile])
    box = ImageChops.difference(plain, titled).getbbox()
    assert box is not None
    assert box[0] >= 30
    assert box[2] <= plain.width - 30


def test_hits_are_drawn_from_their_uris(tmp_path: Path) -> None:
    picture = tmp_path / "a picture.png"
    Image.new("RGB", (10, 10), COLOURS[2]).save(picture)
    sheet = sheet_of(tmp_path, [make_hit(picture.as_uri()), make_hit(picture.as_uri())])
    box = box_of(sheet, COLOURS[2])
    assert box is not None
    assert box[2] - box[0] == 240 + 240 + 42  # two tiles: the gap, and the padding on its sides


@pytest.mark.parametrize("uri", ["", "file:///no/such/file.png", "shelf:3"])
def test_a_picture_that_cannot_be_had_is_a_placeholder(uri: str, tmp_path: Path) -> None:
    placeholder = sheet_of(tmp_path, [make_hit(uri)])
    assert box_of(placeholder, (0xEC, 0xEE, 0xF1)) is not None


def test_no_hits_is_a_sheet_too(tmp_path: Path) -> None:
    assert sheet_of(tmp_path, []).width > 0
