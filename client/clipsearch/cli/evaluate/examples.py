"""Captions that found their image best and worst, with the pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from clipsearch.cli.evaluate.evaluation import Detail
from clipsearch.cli.evaluate.gallery import Picture
from clipsearch.cli.evaluate.metrics import mid_ranks
from clipsearch.cli.pictures import PictureError, load_picture

SHOWN = 8  # of each kind
_SIDE_PX = 192
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as a page can hold it: a data URI, or in its place a few words that say why not."""

    name: str
    data_uri: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A caption, its image, and the first image that is not it."""

    caption: str
    rank: float
    score: float
    own: Thumbnail
    other: Thumbnail
    other_score: float


def pick_examples(detail: Detail) -> tuple[list[Example], list[Example]]:
    """Returns the best and the worst examples, one an image at most.

    Best are the captions that find their image first, by how far it is ahead of the next; worst
    those that find it last, if it is not first.
    """
    ranks = mid_ranks(detail.ranking.standing)
    rivals = _rivals(detail)
    margins = detail.ranking.true_scores - np.array([score for _, score in rivals], np.float32)
    first, missed = np.flatnonzero(ranks == 1), np.flatnonzero(ranks > 1)
    best = _one_an_image(detail, first[np.argsort(-margins[first], kind="stable")])
    worst = _one_an_image(detail, missed[np.argsort(-ranks[missed], kind="stable")])

    def make(place: int) -> Example:
        rival, rival_score = rivals[place]
        pictures = detail.gallery.pictures
        own, other = (thumbnail(pictures[row]) for row in (detail.own[place], rival))
        return Example(
            caption=detail.captions[place],
            rank=float(ranks[place]),
            score=float(detail.ranking.true_scores[place]),
            own=own,
            other=other,
            other_score=rival_score,
        )

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(make, best)), list(threads.map(make, worst))


def _rivals(detail: Detail) -> list[tuple[int, float]]:
    """Returns, for each caption, the nearest image that is not its own nor a copy of it, and its
    score; where there is none, the nearest."""
    original, ranking = detail.gallery.original, detail.ranking
    is_other = original[ranking.top] != detail.own[:, None]
    columns = is_other.argmax(axis=1)
    rows = np.arange(len(columns))
    chosen = original[ranking.top[rows, columns]]
    return list(zip(chosen.tolist(), ranking.top_scores[rows, columns].tolist(), strict=True))


def _one_an_image(detail: Detail, places: Iterable[int]) -> list[int]:
    chosen: dict[int, int] = {}
    for place in places:
        chosen.setdefault(int(detail.own[place]), int(place))
        if len(chosen) == SHOWN:
            break
    return list(chosen.values())


def thumbnail(picture: Picture) -> Thumbnail:
    """Reads or fetches a picture, and makes it small."""
    try:
        image = load_picture(picture.uri)
    except PictureError as error:
        return Thumbnail(picture.name, "", str(error))
    image.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "WEBP", quality=82, method=4)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumbnail(picture.name, f"data:image/webp;base64,{encoded}")
