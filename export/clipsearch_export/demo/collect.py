"""The first stage: fetch every source, settle the emoji set, render every style."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from clipsearch_export.demo.emoji import Emoji, read_emoji
from clipsearch_export.demo.pictures import (
    ICONIFY_STYLES,
    INKED_STYLES,
    Drawing,
    Style,
    iconify_codes,
    iconify_drawings,
    load_style,
    noto_bitmaps,
    openmoji_drawings,
    render_style,
)
from clipsearch_export.demo.sources import TRAINED, UNSEEN, fetch

NOTO = "noto"
TRAINED_STYLES = (NOTO, *ICONIFY_STYLES)
UNSEEN_STYLE = UNSEEN.key


@dataclass(frozen=True)
class Collection:
    """What was collected: the emoji set, and where sources and rendered styles lie."""

    emoji: list[Emoji]
    sources: Path
    pictures: Path
    noto: dict[str, bytes]

    def styles(self) -> list[Style]:
        """The styles that the model is trained on, as their makers drew them."""
        return [load_style(self.pictures, name) for name in TRAINED_STYLES]

    def inked(self) -> list[Style]:
        """Some of them with inked edges; trained on too."""
        return [load_style(self.pictures, _inked(style)) for style in INKED_STYLES]

    def unseen(self) -> Style:
        """The style that the model is only measured on."""
        return load_style(self.pictures, UNSEEN_STYLE)


def collect(work_dir: Path, progress: Progress) -> Collection:
    """Fetch and render whatever is not there yet. Fast when all of it is."""
    sources = work_dir / "sources"
    task = progress.add_task("fetch", total=len(TRAINED) + 1)
    for source in (*TRAINED, UNSEEN):
        fetch(source, sources)
        progress.advance(task)

    font = sources / "noto-font/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    noto = noto_bitmaps(font)
    drawn = noto.keys() & iconify_codes(sources, "twemoji")
    emoji = read_emoji(sources / "cldr", sources / "cldr-derived", drawn)

    drawings = {
        NOTO: [Drawing(e.code, noto[e.code]) for e in emoji],
        UNSEEN_STYLE: openmoji_drawings(sources / "openmoji/package", emoji),
    }
    for style in ICONIFY_STYLES:
        drawings[style] = iconify_drawings(sources, style, emoji)
    for style in INKED_STYLES:
        drawings[_inked(style)] = iconify_drawings(sources, style, emoji, inked=True)
    for style, bodies in drawings.items():
        render_style(work_dir / "pictures", style, bodies, progress)
    return Collection(emoji, sources, work_dir / "pictures", noto)


def _inked(style: str) -> str:
    return f"{style}-inked"
