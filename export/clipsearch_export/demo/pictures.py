"""The drawings: every style rendered once to RGBA, kept as memory-mapped arrays.

A style is one way of drawing the emoji set. Styles differ in how their package names a drawing:
by code points, or by a name that has to be matched. A style may lack some emoji, or have several
drawings of one.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from fontTools.ttLib import TTFont
from PIL import Image
from rich.progress import Progress

from clipsearch_export.demo.emoji import Emoji, slugify

SIZE = 96  # px: 1.5 times what the model sees, room for crops and rotations
Pixels = npt.NDArray[np.uint8]

# Styles of the Iconify packages that carry SVG drawings.
ICONIFY_STYLES = (
    "noto-v1",
    "twemoji",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fxemoji",
    "emojione",
    "streamline-emojis",
    "fluent-emoji-high-contrast",
    "emojione-monotone",
)
# Those whose shapes are flat enough to be drawn a second time with their edges inked. Packages
# that are free to learn from have few line drawings, and half of the world's icons are.
INKED_STYLES = ("noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione")
_INK_WIDTH = 1 / 40  # of the drawing's larger side
_INK = (
    "<style>path, circle, ellipse, rect, polygon {{ stroke: #111; stroke-width: {width}; "
    "stroke-linejoin: round; stroke-linecap: round }}</style>"
)
# Packages whose own table (chars.json) says which name is which code point; the others are
# matched through these names.
_NAME_TABLES = ("twemoji", "fluent-emoji-flat")


@dataclass(frozen=True)
class Drawing:
    """One drawing before rendering: which emoji it shows, and its SVG text or PNG bytes."""

    code: str
    body: str | bytes


@dataclass(frozen=True)
class Style:
    """One rendered style: ``pixels[i]`` draws ``codes[i]``.

    ``pixels`` is (n, SIZE, SIZE, 4) uint8, RGBA with straight alpha, the drawing centred.
    """

    name: str
    codes: list[str]
    pixels: Pixels


def load_style(folder: Path, name: str) -> Style:
    """Open a style that :func:`render_style` wrote; its pixels stay on disk until they are read."""
    codes = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return Style(name, codes, np.load(folder / f"{name}.npy", mmap_mode="r"))


def render_style(folder: Path, name: str, drawings: list[Drawing], progress: Progress) -> None:
    """Render ``drawings`` into ``folder``; a style that is already there is left alone."""
    index = folder / f"{name}.json"
    if index.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.lib.format.open_memmap(
        folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(len(drawings), SIZE, SIZE, 4)
    )
    task = progress.add_task(f"draw {name}", total=len(drawings))
    with ProcessPoolExecutor() as pool:
        bodies = (drawing.body for drawing in drawings)
        for row, rendered in enumerate(pool.map(render, bodies, chunksize=32)):
            pixels[row] = rendered
            progress.advance(task)
    pixels.flush()
    index.write_text(json.dumps([drawing.code for drawing in drawings]), "utf-8")


def render(body: str | bytes) -> Pixels:
    """Draw one SVG text or PNG: (SIZE, SIZE, 4) uint8, the whole drawing fitted and centred."""
    if isinstance(body, str):
        body = bytes(resvg_py.svg_to_bytes(svg_string=body, skip_system_fonts=True))
    drawing = Image.open(io.BytesIO(body)).convert("RGBA")
    scale = SIZE / max(drawing.size)
    width, height = (max(1, round(side * scale)) for side in drawing.size)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    drawing = drawing.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(drawing, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(canvas)


def iconify_drawings(
    sources: Path, style: str, emoji: Iterable[Emoji], *, inked: bool = False
) -> list[Drawing]:
    """The drawings of one Iconify package that show an emoji of the set, by package order; with
    the edge of every shape drawn in ink if ``inked``."""
    package = sources / style / "package"
    pack: dict[str, Any] = json.loads((package / "icons.json").read_text("utf-8"))
    emoji = list(emoji)
    if style in _NAME_TABLES:
        by_name = _names_of(package)
        match: Callable[[str], str | None] = by_name.get
    else:
        tables = [_names_of(sources / table / "package") for table in _NAME_TABLES]
        match = _matcher([*tables, {e.slug: e.code for e in emoji}])
    wanted = {e.code for e in emoji}
    drawings = []
    for name, icon in pack["icons"].items():
        code = match(name)
        if code in wanted:
            drawings.append(Drawing(code, _svg(icon, pack, inked=inked)))
    return drawings


def iconify_codes(sources: Path, style: str) -> set[str]:
    """The codes that the package's own table lists."""
    return set(_names_of(sources / style / "package").values())


def _names_of(package: Path) -> dict[str, str]:
    """Icon name -> emoji code, as the package itself says."""
    table: dict[str, str] = json.loads((package / "chars.json").read_text("utf-8"))
    return {name: code.replace("-fe0f", "") for code, name in table.items()}


def _matcher(tables: Iterable[dict[str, str]]) -> Callable[[str], str | None]:
    """A lookup by name that forgives hyphens, ``-2`` for a second drawing, and ``flag-for-``."""
    squashed: dict[str, str] = {}
    for table in tables:
        for name, code in table.items():
            squashed.setdefault(name.replace("-", ""), code)

    def match(name: str) -> str | None:
        name = slugify(name).replace("flag-for-flag-", "flag-").replace("flag-for-", "flag-")
        bare = re.sub(r"-\d$", "", name).replace("-", "")
        return squashed.get(name.replace("-", "")) or squashed.get(bare)

    return match


def _svg(icon: dict[str, Any], pack: dict[str, Any], *, inked: bool) -> str:
    left, top, width, height = (
        icon.get(key, pack.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    ink = _INK_WIDTH * max(width, height) if inked else 0
    style = _INK.format(width=ink) if inked else ""
    view = f"{left - ink / 2} {top - ink / 2} {width + ink} {height + ink}"
    # Twice SIZE, so that the one resize in render() is what smooths every style's edges.
    scale = 2 * SIZE / max(width, height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{width * scale:.0f}" height="{height * scale:.0f}">'
        f"{style}{icon['body']}</svg>"
    )


def noto_bitmaps(font_file: Path) -> dict[str, bytes]:
    """Code -> PNG (136 x 128) of every emoji in the colour bitmap font, sequences included."""
    font = TTFont(font_file)
    strike = font["CBDT"].strikeData[0]
    return {
        code: strike[glyph].imageData
        for code, glyph in _glyphs(font)
        if glyph in strike and hasattr(strike[glyph], "imageData")
    }


def _glyphs(font: TTFont) -> Iterator[tuple[str, str]]:
    """(code, glyph name) of single characters and of the font's ligatures (flags, ZWJ)."""
    character_of: dict[str, int] = {}
    for character, glyph in font.getBestCmap().items():
        character_of.setdefault(glyph, character)
        yield f"{character:x}", glyph
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for subtable in lookup.SubTable:
            ligatures = getattr(getattr(subtable, "ExtSubTable", subtable), "ligatures", {})
            for first, endings in ligatures.items():
                for ending in endings:
                    parts = [first, *ending.Component]
                    if all(part in character_of for part in parts):
                        code = "-".join(f"{character_of[part]:x}" for part in parts)
                        yield code.replace("-fe0f", ""), ending.LigGlyph


def openmoji_drawings(package: Path, emoji: Iterable[Emoji]) -> list[Drawing]:
    """The unseen style: OpenMoji's colour drawings, named by code points."""
    files = {
        file.stem.lower().replace("-fe0f", ""): file
        for file in sorted((package / "color" / "svg").glob("*.svg"))
    }
    return [Drawing(e.code, files[e.code].read_text("utf-8")) for e in emoji if e.code in files]
