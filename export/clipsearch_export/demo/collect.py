"""The first stage: fetch every source, settle the emoji set, render every style."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from clipsearch_export.demo import pictures
from clipsearch_export.demo.emoji import Emoji, read_emoji
from clipsearch_export.demo.sources import TRAINED, UNSEEN, fetch

NOTO = "noto"
TRAINED_STYLES = (NOTO, *pictures.ICONIFY_STYLES)
UNSEEN_STYLE = UNSEEN.key


@dataclass(frozen=True)
class Collection:
    """What was collected: the emoji set, and where sources and rendered styles lie."""

    emoji: list[Emoji]
    sources: Path
    pictures: Path
    noto: dict[str, bytes]

    def styles(self) -> list[pictures.Style]:
        """The styles that the model is trained on."""
        return [pictures.load_style(self.pictures, name) for name in TRAINED_STYLES]

    def unseen(self) -> pictures.Style:
        """The style that the model is only measured on."""
        return pictures.load_style(self.pictures, UNSEEN_STYLE)


def collect(work_dir: Path, progress: Progress) -> Collection:
    """Fetch and render whatever is not there yet. Fast when all of it is."""
    sources = work_dir / "sources"
    task = progress.add_task("fetch", total=len(TRAINED) + 1)
    for source in (*TRAINED, UNSEEN):
        fetch(source, sources)
        progress.advance(task)

    font = sources / "noto-font/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    noto = pictures.noto_bitmaps(font)
    drawn = noto.keys() & pictures.iconify_codes(sources, "twemoji")
    emoji = read_emoji(sources / "cldr", sources / "cldr-derived", drawn)

    drawings = {
        NOTO: [pictures.Drawing(e.code, noto[e.code]) for e in emoji],
        UNSEEN_STYLE: pictures.openmoji_drawings(sources / "openmoji/package", emoji),
    }
    for style in pictures.ICONIFY_STYLES:
        drawings[style] = pictures.iconify_drawings(sources, style, emoji)
    for style, bodies in drawings.items():
        pictures.render_style(work_dir / "pictures", style, bodies, progress)
    return Collection(emoji, sources, work_dir / "pictures", noto)
