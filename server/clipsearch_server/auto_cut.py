"""The score from which on an image is more like a query than chance makes one of the collection.

How like a query the collection's images are on the whole, a sample of them tells: the median of
their scores, and how far these spread above it. The best of N scores that only chance decides lies
about sqrt(2 ln N) standard deviations above the middle (the extremes of normal variables: Cramér
1946, section 28.6), so what lies lower is no more like the query than chance makes some image.
docs/searching.md has how well that does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.ports import Embedding, Embeddings, ImageIndex

SAMPLE_SIZE = 256

# Of fewer, nobody can tell what is usual among them: nothing is cut.
MIN_SAMPLE_SIZE = 32

_REFRESH_S = 60.0

# Of a normal distribution, the share that lies less than a standard deviation above the middle.
_ONE_DEVIATION = 0.8413

_LOWEST_SCORE = -1.0


class AutoCut:
    """Knows a collection's images on the whole: from a sample of those with the lowest ids, which
    is read anew each minute that queries ask. Ids that callers did not choose are hashes, so it is
    a random one.
    What the index raises is passed on.
    """

    def __init__(self, index: ImageIndex, *, clock: Callable[[], float] = monotonic) -> None:
        self._index = index
        self._clock = clock
        self._turn = asyncio.Lock()
        self._sample: tuple[Embeddings, int] | None = None
        self._read_at = -math.inf

    async def score(self, query: Embedding) -> float:
        """Returns the score below which an image is as like the query as any; -1 if there are too
        few images to tell."""
        sample, count = await self._fresh_sample()
        return cut_off_score(sample @ query, count)

    async def _fresh_sample(self) -> tuple[Embeddings, int]:
        async with self._turn:  # of those who find it old, one reads it
            if (
                self._sample is None
                or len(self._sample[0]) < MIN_SAMPLE_SIZE  # soon there may be enough
                or self._clock() >= self._read_at + _REFRESH_S
            ):
                page = await self._index.list_embedded(limit=SAMPLE_SIZE)
                count = max(await self._index.count(), len(page.images))
                self._sample, self._read_at = (page.embeddings, count), self._clock()
            return self._sample


def cut_off_score(sample: NDArray[np.float32], count: int) -> float:
    """Returns the score from which on an image of a collection of ``count`` stands out, by the
    scores of some of its images.

    Matches are in the sample too, and low scores spread differently: so the middle is the median,
    and the deviation what a quantile above it tells, which a few high scores do not move.
    """
    if len(sample) < MIN_SAMPLE_SIZE:
        return _LOWEST_SCORE
    middle, above = np.quantile(sample, (0.5, _ONE_DEVIATION))
    return float(middle + (above - middle) * math.sqrt(2 * math.log(count)))
