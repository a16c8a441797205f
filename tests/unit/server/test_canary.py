"""The canary of a model folder: read, and agreed with by the model itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from clipsearch_server.canary import Canary, read_canary
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.encoders.proven import ProvenEncoder
from clipsearch_server.errors import EncoderUnavailable, StartupError
from clipsearch_server.model import ModelFolder, open_model_folder
from clipsearch_server.settings import DEMO_MODEL_DIR
from tiny_model import write_tiny_model

DEMO = open_model_folder(DEMO_MODEL_DIR)
CANARY = read_canary(DEMO)


async def test_the_model_passes_its_own_canary_and_not_the_other_towers() -> None:
    swapped = Canary(CANARY.token_ids, CANARY.image_embedding, CANARY.pixels, CANARY.text_embedding)
    async with OnnxEncoder(DEMO, threads=1) as encoder:
        async with ProvenEncoder(encoder, CANARY) as proven:
            await proven.health()
        async with ProvenEncoder(encoder, swapped) as proven:
            with pytest.raises(EncoderUnavailable, match="other weights"):
                await proven.health()


async def test_a_folder_without_one_works_as_before(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(lambda: open_model_folder(write_tiny_model(tmp_path)))
    canary = read_canary(folder)
    assert canary.text_embedding is None
    assert canary.image_embedding is None
    async with (
        OnnxEncoder(folder, threads=1) as encoder,
        ProvenEncoder(encoder, canary) as proven,
    ):
        await proven.health()
        await proven.encode_text(np.array([[1, 2]]))


@pytest.mark.parametrize("name", ["input_ids", "text_embeds", "pixel_values", "image_embeds"])
def test_one_that_does_not_fit_the_card_ends_the_start(tmp_path: Path, name: str) -> None:
    with np.load(DEMO_MODEL_DIR / "canary.npz") as arrays:
        good = dict(arrays)
    folder = ModelFolder(tmp_path, DEMO.card)
    for spoilt in (good[name][..., None], good[name].astype(np.float64), None):
        kept = {key: value for key, value in good.items() if key != name}
        np.savez(tmp_path / "canary.npz", **kept, **({} if spoilt is None else {name: spoilt}))
        with pytest.raises(StartupError, match=name):
            read_canary(folder)
    (tmp_path / "canary.npz").write_bytes(b"no arrays")
    with pytest.raises(StartupError, match="arrays"):
        read_canary(folder)
