"""The sample pictures that ship: Noto's bitmaps, small, named so that a person can find them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image
from rich.progress import Progress

from clipsearch_export.demo.emoji import Emoji

_SIDE = 96  # px; 1.5 times what the demo model sees, sharp enough for a contact sheet
_COLOURS = 128  # of the palette; fewer show bands in Noto's gradients


def write_samples(
    folder: Path, emoji: list[Emoji], bitmaps: dict[str, bytes], progress: Progress
) -> None:
    """Write one PNG an emoji and ``pictures.csv`` (header ``file,name``), in order of name."""
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.add_task("cut samples", total=len(emoji))
    files: dict[str, Emoji] = {}
    for e in sorted(emoji, key=lambda e: (e.slug, e.code)):
        file = f"{e.slug}.png"
        if file in files:  # names that differ only in punctuation
            file = f"{e.slug}-{e.code}.png"
        files[file] = e
        (folder / file).write_bytes(_small(bitmaps[e.code]))
        progress.advance(task)
    with (folder / "pictures.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("file", "name"))
        writer.writerows((file, e.name) for file, e in files.items())


def _small(png: bytes) -> bytes:
    """The bitmap fitted into _SIDE x _SIDE, centred, transparent, with a palette of its own."""
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    drawing.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (_SIDE, _SIDE))
    page.paste(drawing, ((_SIDE - drawing.width) // 2, (_SIDE - drawing.height) // 2))
    small = io.BytesIO()
    page.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE).save(small, "PNG", optimize=True)
    return small.getvalue()
