"""Arithmetic on directions: the weighted mean of embeddings, as an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipsearch_server.ports import Embedding

# Of the sum of the weights. What is shorter is the rounding of an encoder, not a direction.
_ZERO = 1e-4


def mix(embeddings: Sequence[Embedding], weights: Sequence[float]) -> Embedding | None:
    """Returns q / |q| with q = sum(w_i * u_i), of n >= 1 unit vectors u_i (d,) and as many weights
    other than 0: the mean of word vectors of Mikolov et al. (2013) with signs. None if q is zero.

    A single vector of positive weight comes back as it is, to the bit.
    """
    if len(embeddings) == 1:
        return embeddings[0] if weights[0] > 0 else -embeddings[0]
    factors = np.asarray(weights, np.float64)
    total = factors @ np.asarray(embeddings, np.float64)
    norm = np.linalg.norm(total)
    if norm <= _ZERO * np.abs(factors).sum():
        return None
    mixed: Embedding = (total / norm).astype(np.float32)
    return mixed
