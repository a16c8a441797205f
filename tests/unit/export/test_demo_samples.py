"""The sample pictures: how they are cut, and the ones that ship."""

import csv
import io
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image")
progress = pytest.importorskip("rich.progress")

from clipsearch_export.demo.emoji import Emoji  # noqa: E402
from clipsearch_export.demo.samples import write_samples  # noqa: E402

SHIPPED = Path(__file__).parents[3] / "demo" / "pictures"


def _png(size: tuple[int, int]) -> bytes:
    drawn = io.BytesIO()
    Image.new("RGBA", size, (200, 30, 30, 255)).save(drawn, "PNG")
    return drawn.getvalue()


def test_samples_are_square_transparent_and_never_overwrite_each_other(tmp_path: Path) -> None:
    emoji = [
        Emoji(code="23", name="keycap: #", keywords=()),
        Emoji(code="2a", name="keycap: *", keywords=()),
        Emoji(code="1f408", name="cat", keywords=()),
    ]
    with progress.Progress(disable=True) as bars:
        write_samples(tmp_path, emoji, {e.code: _png((136, 128)) for e in emoji}, bars)

    with (tmp_path / "pictures.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.reader(table))
    assert rows == [
        ["file", "name"],
        ["cat.png", "cat"],
        ["keycap.png", "keycap: #"],
        ["keycap-2a.png", "keycap: *"],
    ]
    with Image.open(tmp_path / "cat.png") as picture:
        assert picture.size == (96, 96)
        assert picture.convert("RGBA").getpixel((0, 0))[3] == 0  # wider than high: empty above


def test_the_shipped_pictures_are_all_there_and_small() -> None:
    with (SHIPPED / "pictures.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    files = [row["file"] for row in rows]
    assert len(files) >= 1500
    assert all(row["name"] for row in rows)
    assert sorted(files) == sorted(file.name for file in SHIPPED.glob("*.png"))
    assert sum((SHIPPED / file).stat().st_size for file in files) <= 6_000_000
