"""What every encoder's answer must be, whatever runs the model."""

from __future__ import annotations

import numpy as np

from clipsearch_server.errors import ModelOutputInvalid
from clipsearch_server.ports import Embeddings

# Half-precision towers normalise in float32, so a unit vector is exact to about 1e-6; a tower that
# forgot to normalise is off by orders of magnitude.
_NORM_TOLERANCE = 1e-3


def check_embeddings(output: object, *, rows: int, dim: int) -> Embeddings:
    """Returns an encoder's output if it is (rows, dim) float32 with finite rows of L2 norm 1.

    Raises ModelOutputInvalid otherwise: a vector that is none would be stored, and found, silently.
    """
    if not isinstance(output, np.ndarray) or output.dtype != np.float32:
        found = output.dtype if isinstance(output, np.ndarray) else type(output).__name__
        raise ModelOutputInvalid(f"the encoder answered with {found}, expected float32")
    if output.shape != (rows, dim):
        raise ModelOutputInvalid(
            f"the encoder answered with shape {output.shape}, expected {(rows, dim)}"
        )
    norms = np.linalg.norm(output, axis=1)
    # NaN and infinity fail the comparison too.
    if not np.all(np.abs(norms - 1.0) <= _NORM_TOLERANCE):
        raise ModelOutputInvalid("the encoder answered with vectors that are not of unit length")
    return output
