"""The cut-off: what stands out of a collection, by a sample of it."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pytest

from clipsearch_server.auto_cut import SAMPLE_SIZE, AutoCut, cut_off_score
from clipsearch_server.ports import Embeddings
from fakes import FakeIndex
from stored_images import an_image

DIM = 32


def units(rows: np.ndarray) -> Embeddings:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_of_scores_that_only_chance_decides_hardly_one_stands_out() -> None:
    random = np.random.default_rng(1)
    count = 10_000
    standing_out = []
    for _ in range(50):
        scores = random.normal(0.2, 0.05, count).astype(np.float32)
        cut = cut_off_score(scores[:SAMPLE_SIZE], count)
        standing_out.append(int((scores >= cut).sum()))
        assert cut < 0.2 + 7 * 0.05
    assert np.median(standing_out) <= 1


def test_a_few_matches_in_the_sample_do_not_move_it() -> None:
    scores = np.random.default_rng(2).normal(0.2, 0.05, 250).astype(np.float32)
    with_matches = np.append(scores, [0.9] * 6).astype(np.float32)
    assert cut_off_score(with_matches, 1000) == pytest.approx(cut_off_score(scores, 1000), abs=0.02)


def test_of_few_images_nobody_can_tell() -> None:
    assert cut_off_score(np.array([0.1, 0.9], np.float32), 2) == -1


async def test_the_sample_is_read_anew_after_a_while() -> None:
    index, now = FakeIndex(DIM), [0.0]
    random = np.random.default_rng(3)
    auto_cut = AutoCut(index, clock=lambda: now[0])
    query = units(random.standard_normal((1, DIM)))[0]
    assert await auto_cut.score(query) == -1
    images = [an_image(n) for n in range(300)]
    await index.upsert(images, units(random.standard_normal((300, DIM))))
    cut = await auto_cut.score(query)  # there were too few: that is not remembered
    assert 0.3 < cut < 0.9
    await index.delete([UUID(int=n) for n in range(300)])
    assert await auto_cut.score(query) == cut
