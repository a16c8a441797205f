"""How hits are chosen from the images most like a query, with an eye to how like each other they
are.

All functions take the embeddings (n, d) of images in rank order, best first, and are plain numpy:
1,000 hits of 1,024 images with 512 dimensions take a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.ports import Embeddings

# An image is like itself, whatever float32 makes of the inner product.
_ROUNDING = 1e-6


def collapse(embeddings: Embeddings, similarity: float) -> dict[int, int]:
    """Keeps of images that are nearly the same the best: an image is left out by the first one
    above it that is kept and has a cosine similarity to it of at least ``similarity``.

    Returns the ranks of those kept, in their order, and how many each left out. This is the leader
    algorithm of clustering (Hartigan 1975, chapter 3) in rank order.
    """
    kept: dict[int, int] = {}
    is_left = np.ones(len(embeddings), bool)
    for rank in range(len(embeddings)):
        if not is_left[rank]:
            continue
        is_same = embeddings[rank:] @ embeddings[rank] >= similarity - _ROUNDING
        is_same[0] = False
        is_same &= is_left[rank:]
        is_left[rank:] &= ~is_same
        kept[rank] = int(is_same.sum())
    return kept


def diversify(
    scores: Sequence[float], embeddings: Embeddings, diversity: float, count: int
) -> list[int]:
    """Returns the ranks of the first ``count`` images by maximal marginal relevance (Carbonell and
    Goldstein 1998), in their new order.

    The next is the one with the highest (1 - diversity) * score - diversity * (its highest cosine
    similarity to one before it), of equal ones the better ranked. So the first is the best one, and
    the order of a smaller count is the beginning of that of a larger one.
    """
    relevance = (1 - diversity) * np.asarray(scores, np.float32)
    nearest: NDArray[np.float32] = np.full(len(embeddings), -np.inf, np.float32)
    chosen: list[int] = []
    value = np.array(scores, np.float32)
    for _ in range(min(count, len(embeddings))):
        best = int(value.argmax())
        chosen.append(best)
        np.maximum(nearest, embeddings @ embeddings[best], out=nearest)
        value = relevance - diversity * nearest
        value[chosen] = -np.inf
    return chosen
