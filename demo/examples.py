"""Makes docs/examples.md: queries with what they find among the sample pictures.

python demo/examples.py
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from example_queries import GROUPS, ExampleQuery, Term
from PIL import Image, ImageDraw
from run import PICTURES, ROOT, add_pictures

from clipsearch import Hit, QueryResult, QueryTerm, Ranking, SearchClient, parse_filter
from clipsearch_server.testing import ServerProcess

PAGE = ROOT / "docs" / "examples.md"
STRIPS = ROOT / "docs" / "examples"
LIMIT = 1000  # as many hits as a page can have
SHOWN = 5

_TILE_PX = 84
_GAP_PX = 8
_RIGHT = "#1a9c5b"

_INTRO = """\
# Examples

Made by `python demo/examples.py` from the {count:,} sample pictures and the demo model, which was
trained on emoji and knows nothing of photographs: see [demo-model.md](demo-model.md). A query shows
its first {shown} pictures, the right ones in a green frame, and where the first right one is.

The queries, and which pictures count as right, were written down in
[demo/example_queries.py](../demo/example_queries.py) before the first result was seen, and none was
left out since. **{found} of {total} have a right one in the first place, {shown_found} among the
first {shown}.** Some of the others are sensible answers all the same, and some are not.
"""


def main() -> int:
    shutil.rmtree(STRIPS, ignore_errors=True)
    STRIPS.mkdir()
    ranks: list[int | None] = []
    parts: list[str] = []
    with (
        TemporaryDirectory() as data,
        ServerProcess("--data-dir", data) as server,
        SearchClient(server.address) as client,
    ):
        count, _ = add_pictures(client)
        ids = {str(it.metadata["name"]): it.id for it in client.list_images()}
        for title, queries in GROUPS.items():
            parts.append(f"\n## {title}\n\n| query | found | first right one |\n|---|---|---|\n")
            for query in queries:
                result = ask(client, query, ids)
                ranks.append(first_right(query, result))
                parts.append(row(query, result.hits[:SHOWN], ranks[-1], len(ranks)))
    intro = _INTRO.format(
        count=count,
        shown=SHOWN,
        total=len(ranks),
        found=ranks.count(1),
        shown_found=sum(rank is not None and rank <= SHOWN for rank in ranks),
    )
    PAGE.write_text(intro + "".join(parts), encoding="utf-8")
    return 0


def ask(client: SearchClient, query: ExampleQuery, ids: dict[str, str]) -> QueryResult:
    if unknown := set(query.right) - set(ids):
        raise ValueError(f"no sample picture has the name {unknown}")
    terms = [
        QueryTerm(image_id=ids[it.picture], weight=it.weight)
        if it.picture
        else QueryTerm(text=it.text, weight=it.weight)
        for it in query.terms
    ]
    return client.query(
        terms,
        limit=LIMIT,
        filter=parse_filter(query.filter) if query.filter else None,
        ranking=Ranking(auto_cut=query.auto_cut),
    )


def first_right(query: ExampleQuery, result: QueryResult) -> int | None:
    """The rank of the first right picture, from 1; of a query that should find nothing, 1 if it
    finds nothing. None if there is none."""
    if not query.right:
        return None if result.hits else 1
    ranks = (rank for rank, hit in enumerate(result.hits, 1) if name_of(hit) in query.right)
    return next(ranks, None)


def row(query: ExampleQuery, hits: Sequence[Hit], rank: int | None, number: int) -> str:
    """A row of the page's table, whose pictures are written as one file."""
    found = "nothing"
    if hits:
        file = STRIPS / f"{number:02}.webp"
        draw_strip(file, hits, query.right)
        names = ", ".join(map(name_of, hits)).replace("|", "\\|")
        found = f"![{names}](examples/{file.name})<br>{names}"
    if not query.right:
        verdict = "rightly nothing" if rank else "**should be nothing**"
    elif rank == 1:
        verdict = "1"
    else:
        verdict = f"**{rank}**" if rank else f"**not in the first {LIMIT:,}**"
    return f"| {describe(query)} | {found} | {verdict} |\n"


def describe(query: ExampleQuery) -> str:
    terms = " ".join(_describe_term(it, is_first=not at) for at, it in enumerate(query.terms))
    if query.filter:
        terms += f"<br>where `{query.filter}`"
    return terms


def _describe_term(term: Term, *, is_first: bool) -> str:
    sign = "" if is_first else "+ " if term.weight > 0 else "\u2212 "
    weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g} \u00d7 "
    what = f"picture of *{term.picture}*" if term.picture else f"\u201c{term.text}\u201d"
    return f"{sign}{weight}{what}"


def draw_strip(file: Path, hits: Sequence[Hit], right: Sequence[str]) -> None:
    """Writes the hits' pictures side by side."""
    strip = Image.new("RGB", (SHOWN * (_TILE_PX + _GAP_PX) - _GAP_PX, _TILE_PX), "white")
    pen = ImageDraw.Draw(strip)
    for place, hit in enumerate(hits):
        left = place * (_TILE_PX + _GAP_PX)
        with Image.open(PICTURES / Path(hit.image.uri).name) as picture:
            small = picture.convert("RGBA").resize((_TILE_PX - 12,) * 2, Image.Resampling.LANCZOS)
        strip.paste(small, (left + 6, 6), small)
        if name_of(hit) in right:
            box = (left, 0, left + _TILE_PX - 1, _TILE_PX - 1)
            pen.rounded_rectangle(box, 8, outline=_RIGHT, width=3)
    strip.save(file, "WEBP", quality=85, method=6)


def name_of(hit: Hit) -> str:
    return str(hit.image.metadata["name"])


if __name__ == "__main__":
    sys.exit(main())
