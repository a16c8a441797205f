"""A contact sheet: pictures in a grid, each with a caption, under a title."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipsearch import Hit
from clipsearch.cli.output import display_name
from clipsearch.cli.pictures import PictureError, load_picture

_PICTURE_PX = 240
_PADDING_PX = 12  # between a card's edge and its picture
_CARD_WIDTH_PX = _PICTURE_PX + 2 * _PADDING_PX
_CARD_HEIGHT_PX = _CARD_WIDTH_PX + 50
_GAP_PX = 18
_MARGIN_PX = 32
_HEADER_PX = 84
_RADIUS_PX = 14

_MAX_TITLE_CHARS = 300  # more than fit at any size; fitting a text takes time by its square

_BACKGROUND = "#f3f4f6"
_CARD = "#ffffff"
_BORDER = "#dfe2e6"
_EMPTY = "#eceef1"
_INK = "#17191c"
_FAINT = "#6b7280"

# Pillow's own font is sharp at every size but has ASCII only; these are found on most machines.
_FALLBACK_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a sheet: RGB of any size, or in its place a few words that say why not."""

    picture: Image.Image | str
    caption: str
    detail: str


def write_sheet(file: Path, text: str, hits: Sequence[Hit], *, subtitle: str = "") -> None:
    """Draws the hits of a query, with their ranks and scores, into a PNG file.

    Their pictures are read or fetched from their uris; in the place of one that cannot be had, the
    sheet says why. Raises OSError if the file cannot be written.
    """
    with ThreadPoolExecutor(max_workers=8) as threads:
        tiles = list(threads.map(_hit_tile, count(1), hits))
    sheet = draw_sheet(text, tiles, subtitle=subtitle or ("" if hits else "nothing found"))
    sheet.save(file, format="PNG")


def _hit_tile(rank: int, hit: Hit) -> Tile:
    uri = hit.image.uri or hit.image.url
    picture: Image.Image | str
    try:
        picture = load_picture(uri)
        # Now, and not when it is drawn: a thousand hits in full size would not fit into memory.
        picture.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.LANCZOS)
    except PictureError as error:
        picture = f"{error}\n{uri}"
    alike = f"   +{hit.near_duplicate_count} alike" if hit.near_duplicate_count else ""
    detail = f"score {hit.score:.3f}{alike}"
    return Tile(picture, f"{rank}   {display_name(hit.image)}", detail)


def draw_sheet(
    title: str, tiles: Sequence[Tile], *, subtitle: str = "", columns: int = 5
) -> Image.Image:
    """Returns a sheet (RGB) of the tiles, ``columns`` in a row, left to right and top to bottom.

    Pictures are scaled to their tile and never cropped; text that does not fit ends in an ellipsis.
    """
    columns = min(columns, max(len(tiles), 3))  # room for a title over a single tile
    rows = -(-len(tiles) // columns)
    width = 2 * _MARGIN_PX + columns * (_CARD_WIDTH_PX + _GAP_PX) - _GAP_PX
    height = _MARGIN_PX + _HEADER_PX + rows * (_CARD_HEIGHT_PX + _GAP_PX) - _GAP_PX + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    inner_width = width - 2 * _MARGIN_PX
    _write(draw, (_MARGIN_PX, _MARGIN_PX + 33), title, 34, _INK, inner_width)
    _write(draw, (_MARGIN_PX, _MARGIN_PX + 63), subtitle, 18, _FAINT, inner_width)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = _MARGIN_PX + column * (_CARD_WIDTH_PX + _GAP_PX)
        top = _MARGIN_PX + _HEADER_PX + row * (_CARD_HEIGHT_PX + _GAP_PX)
        _draw_card(sheet, draw, tile, left, top)
    return sheet


def _draw_card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int
) -> None:
    _fill_rounded(sheet, (left, top, _CARD_WIDTH_PX, _CARD_HEIGHT_PX), _BORDER)
    _fill_rounded(sheet, (left + 1, top + 1, _CARD_WIDTH_PX - 2, _CARD_HEIGHT_PX - 2), _CARD)
    x, y = left + _PADDING_PX, top + _PADDING_PX
    if isinstance(tile.picture, str):
        draw.rectangle((x, y, x + _PICTURE_PX - 1, y + _PICTURE_PX - 1), fill=_EMPTY)
        lines = "\n".join(
            line for part in tile.picture.splitlines() for line in wrap(part, 28, max_lines=6)
        )
        centre = (x + _PICTURE_PX / 2, y + _PICTURE_PX / 2)
        font = _font(lines, 15)
        draw.multiline_text(centre, lines, _FAINT, font, "mm", spacing=6, align="center")
    else:
        size = (_PICTURE_PX, _PICTURE_PX)
        fitted = ImageOps.contain(tile.picture, size, Image.Resampling.LANCZOS)
        offset_x, offset_y = (_PICTURE_PX - fitted.width) // 2, (_PICTURE_PX - fitted.height) // 2
        sheet.paste(fitted, (x + offset_x, y + offset_y))
    _write(draw, (x, y + _PICTURE_PX + 27), tile.caption, 19, _INK, _PICTURE_PX)
    _write(draw, (x, y + _PICTURE_PX + 47), tile.detail, 15, _FAINT, _PICTURE_PX)


def _fill_rounded(sheet: Image.Image, box: tuple[int, int, int, int], colour: str) -> None:
    """Fills a rectangle (left, top, width, height) with round corners; Pillow's own are jagged."""
    left, top, width, height = box
    mask = Image.new("L", (4 * width, 4 * height))
    corners = (0, 0, 4 * width - 1, 4 * height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corners, 4 * _RADIUS_PX, fill=255)
    mask = mask.resize((width, height), Image.Resampling.BOX)
    sheet.paste(colour, (left, top, left + width, top + height), mask)


def _write(
    draw: ImageDraw.ImageDraw,
    baseline: tuple[int, int],
    text: str,
    size_px: int,
    colour: str,
    max_width_px: int,
) -> None:
    font = _font(text, size_px)
    fitting = text = text[:_MAX_TITLE_CHARS]
    while fitting and font.getlength(fitting) > max_width_px:
        text = text[:-1]
        fitting = text.rstrip() + "\u2026"
    draw.text(baseline, fitting, colour, font, anchor="ls")


def _font(text: str, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not text.isascii():
        for name in _FALLBACK_FONTS:
            try:
                return ImageFont.truetype(name, size_px)
            except OSError:
                continue
    return ImageFont.load_default(size_px)
