"""The encoder in this process: batches at a time, and what they answer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.errors import ModelOutputInvalid
from clipsearch_server.model import open_model_folder
from clipsearch_server.ports import TokenIds
from clipsearch_server.settings import DEMO_MODEL_DIR

MODEL = open_model_folder(DEMO_MODEL_DIR)


def texts(n: int, seed: int) -> TokenIds:
    """n texts of 12 tokens, the end token included."""
    ids = np.random.default_rng(seed).integers(0, MODEL.card.end_token_id, (n, 12))
    ids[:, -1] = MODEL.card.end_token_id
    return ids


@pytest.mark.parametrize(("threads", "concurrency"), [(1, 1), (2, 2), (4, 2)])
async def test_two_batches_are_computed_at_a_time_if_there_are_threads(
    threads: int, concurrency: int
) -> None:
    async with OnnxEncoder(MODEL, threads=threads, device="cpu") as encoder:
        assert encoder.concurrency == concurrency


@pytest.mark.parametrize("threads", [1, 2, 4])
async def test_an_embedding_does_not_depend_on_what_is_computed_beside_it(threads: int) -> None:
    size = MODEL.card.image_size_px
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, size, size), np.uint8)
    batches = [texts(1 + seed % 5, seed) for seed in range(20)]
    async with OnnxEncoder(MODEL, threads=threads, device="cpu") as encoder:
        alone = [await encoder.encode_text(batch) for batch in batches]
        images_alone = [await encoder.encode_image(image[None]) for image in pixels]
        together = await asyncio.gather(
            *map(encoder.encode_text, batches),
            *(encoder.encode_image(image[None]) for image in pixels),
        )
    for expected, embeddings in zip([*alone, *images_alone], together, strict=True):
        np.testing.assert_array_equal(embeddings, expected)


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_batch_that_fails_fails_alone(threads: int) -> None:
    good, bad = texts(3, 0), texts(3, 1)
    bad[1, 4] = 10**6  # no token
    async with OnnxEncoder(MODEL, threads=threads, device="cpu") as encoder:
        answers = await asyncio.gather(
            *(encoder.encode_text(batch) for batch in (good, bad, bad, good, bad, good)),
            return_exceptions=True,
        )
        expected = await encoder.encode_text(good)
    for number, answer in enumerate(answers):
        if number in (1, 2, 4):
            assert isinstance(answer, ModelOutputInvalid)
            assert "the text encoder failed" in answer.message
        else:
            assert isinstance(answer, np.ndarray)
            np.testing.assert_array_equal(answer, expected)


async def test_closing_waits_for_what_is_computed() -> None:
    async with OnnxEncoder(MODEL, threads=2, device="cpu") as encoder:
        calls = [asyncio.create_task(encoder.encode_text(texts(16, seed))) for seed in range(6)]
        await asyncio.sleep(0)
    assert [len(await call) for call in calls] == [16] * 6
