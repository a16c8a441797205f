"""The exact ranking: every text against every image, a block of texts at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

# Scores that differ by less are ties: single precision, and a batch of another size, move a score
# of unit vectors by some 1e-7.
TIE = 1e-6
SCORE_BINS = 200  # from -1 to 1

_BLOCK_SCORES = 2**22  # 16 MiB of float32
_SAMPLED_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the right answer of each of n queries stands among all candidates."""

    better: Places  # (n,): wrong candidates with a higher score
    tied: Places  # (n,): wrong candidates with the same score


@dataclass(frozen=True, slots=True)
class TextRanking:
    """The images in the order in which each of n captions describes them."""

    standing: Standing
    true_scores: Floats  # (n,): of the caption's own image
    top: Places  # (n, k): the nearest images, best first
    top_scores: Floats  # (n, k)
    other_scores: Places  # (SCORE_BINS,): a histogram of the scores of a sample of other images


def rank_images(
    texts: Floats,
    images: Floats,
    own: Places,
    is_original: Flags,
    k: int,
    advance: Callable[[int], None],
) -> TextRanking:
    """Ranks all images for each text.

    ``texts`` (n, d) and ``images`` (m, d) are unit vectors, ``own`` (n,) the place of each text's
    image. Images that are not ``is_original`` (m,), being copies of others, are among the nearest,
    and do not count as wrong candidates. ``advance`` is told how many more texts are done.
    """
    n, m = len(texts), len(images)
    better, tied = np.empty(n, np.int64), np.empty(n, np.int64)
    true_scores = np.empty(n, np.float32)
    k = min(k, m)
    top, top_scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    sample = np.random.default_rng(0).permutation(np.flatnonzero(is_original))[:_SAMPLED_IMAGES]
    other_scores = np.zeros(SCORE_BINS, np.int64)
    for rows, scores in _blocks(texts, images):
        mine = own[rows]
        true = scores[np.arange(len(scores)), mine]
        true_scores[rows] = true
        top[rows], top_scores[rows] = _nearest(scores, k)
        others = scores[:, sample][mine[:, None] != sample]
        bins = np.clip((others + 1) * (SCORE_BINS / 2), 0, SCORE_BINS - 1).astype(np.int64)
        other_scores += np.bincount(bins, minlength=SCORE_BINS)
        ahead, alike = _compare(scores, true[:, None])
        alike[np.arange(len(scores)), mine] = False
        better[rows] = (ahead & is_original).sum(axis=1)
        tied[rows] = (alike & is_original).sum(axis=1)
        advance(len(scores))
    return TextRanking(Standing(better, tied), true_scores, top, top_scores, other_scores)


def rank_texts(texts: Floats, images: Floats, own: Places) -> tuple[Places, Standing]:
    """Ranks all texts for each image that is some text's ``own`` (n,), by the best of its texts.

    Returns the places of these images, and for each of them where that text stands among those of
    other images.
    """
    places = np.unique(own)
    column_of = np.searchsorted(places, own)
    described = images[places]
    best = np.full(len(places), -np.inf, np.float32)
    for rows, scores in _blocks(texts, described):
        columns = column_of[rows]
        np.maximum.at(best, columns, scores[np.arange(len(scores)), columns])
    better, tied = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
    for rows, scores in _blocks(texts, described):
        ahead, alike = _compare(scores, best)
        alike[np.arange(len(scores)), column_of[rows]] = False
        better += ahead.sum(axis=0)
        tied += alike.sum(axis=0)
    return places, Standing(better, tied)


def _blocks(texts: Floats, images: Floats) -> Iterator[tuple[slice, Floats]]:
    size = max(1, _BLOCK_SCORES // max(len(images), 1))
    for start in range(0, len(texts), size):
        rows = slice(start, min(start + size, len(texts)))
        yield rows, texts[rows] @ images.T


def _compare(scores: Floats, true: Floats) -> tuple[Flags, Flags]:
    """Returns which scores are higher than the true ones, and which are the same."""
    ahead = scores > true + np.float32(TIE)
    alike = (scores >= true - np.float32(TIE)) & ~ahead
    return ahead, alike


def _nearest(scores: Floats, k: int) -> tuple[Places, Floats]:
    """Returns the columns of the k highest scores of each row, and these, the highest first."""
    found = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(scores, found, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
