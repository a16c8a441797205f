"""A text and an image whose embeddings are known: what tells a model from another of its shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.errors import StartupError
from clipsearch_server.model import CANARY_NAME, ModelCard, ModelFolder
from clipsearch_server.ports import Embedding, Pixels, TokenIds

Scalar = TypeVar("Scalar", bound=np.generic)

_WAY_OUT = "export the model again"
_NOTHING = np.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class Canary:
    """What each tower is given, and what it must answer; None if that is not known."""

    token_ids: TokenIds  # (1, t)
    text_embedding: Embedding | None
    pixels: Pixels  # (1, 3, s, s)
    image_embedding: Embedding | None


def read_canary(folder: ModelFolder) -> Canary:
    """Returns the canary that the exporter wrote into a model folder; one without embeddings if the
    folder is older than canaries. Raises StartupError if it does not fit the card."""
    card = folder.card
    if CANARY_NAME not in card.files:
        return unknown_canary(card)
    file = folder.path / CANARY_NAME
    try:
        with np.load(file) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise StartupError(f"{file}: is no file of arrays ({error}); {_WAY_OUT}") from error
    side, dim = card.image_size_px, card.embedding_dim
    text = found.get("input_ids", _NOTHING)
    return Canary(
        _checked(file, found, "input_ids", np.int64, (1, text.shape[-1])),
        _checked(file, found, "text_embeds", np.float32, (1, dim))[0],
        _checked(file, found, "pixel_values", np.uint8, (1, 3, side, side)),
        _checked(file, found, "image_embeds", np.float32, (1, dim))[0],
    )


def unknown_canary(card: ModelCard) -> Canary:
    """Returns a canary for a model of which only the card is known."""
    ids = np.array([[card.start_token_id, 1, 2, 3, card.end_token_id]], np.int64)
    side = card.image_size_px
    shades = np.linspace(0, 255, side).astype(np.uint8)
    rows, columns = np.broadcast_arrays(shades[:, None], shades[None, :])
    return Canary(ids, None, np.stack([rows, columns, rows[::-1]])[None], None)


def _checked(
    file: Path,
    arrays: dict[str, NDArray[Any]],
    name: str,
    dtype: type[Scalar],
    shape: tuple[int, ...],
) -> NDArray[Scalar]:
    array = arrays.get(name, _NOTHING)
    if array.dtype != dtype or array.shape != shape:
        raise StartupError(
            f"{file}: {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; "
            f"{_WAY_OUT}"
        )
    return array
