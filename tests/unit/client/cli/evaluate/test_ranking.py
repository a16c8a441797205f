"""The exact ranking, against sorting."""

from __future__ import annotations

import numpy as np
import pytest

import brute_force
from clipsearch.cli.evaluate.metrics import found_at, mid_ranks
from clipsearch.cli.evaluate.ranking import Floats, Places, rank_images, rank_texts

DIM = 8


def unit_vectors(count: int, seed: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def no_copies(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(count, np.bool_)


@pytest.mark.parametrize(
    ("texts", "images"), [(60, 20), (30, 70), pytest.param(3000, 2000, id="in blocks")]
)
def test_ranks_are_those_of_sorting(texts: int, images: int) -> None:
    text, image = unit_vectors(texts, 1), unit_vectors(images, 2)
    own: Places = np.random.default_rng(3).integers(min(images, 25), size=texts)
    done: list[int] = []
    ranking = rank_images(text, image, own, no_copies(images), 10, done.append)
    scores = text.astype(np.float64) @ image.T.astype(np.float64)
    for row in range(0, texts, texts // 7):
        order = np.argsort(-scores[row], kind="stable")
        assert ranking.top[row].tolist() == order[:10].tolist()
        assert mid_ranks(ranking.standing)[row] == 1 + order.tolist().index(own[row])
    assert sum(done) == texts
    assert ranking.true_scores == pytest.approx(scores[np.arange(texts), own], abs=1e-6)

    places, standing = rank_texts(text, image, own)
    assert places.tolist() == sorted(set(own.tolist()))
    few = scores[:, places].tolist()
    expected = brute_force.image_ranks(few, np.searchsorted(places, own).tolist())
    assert mid_ranks(standing).tolist() == expected


def test_copies_are_found_and_are_no_rivals() -> None:
    text, image = unit_vectors(3, 1), unit_vectors(3, 1)
    doubled = np.concatenate([image, image])
    is_original = np.arange(6) < 3
    ranking = rank_images(text, doubled, np.arange(3), is_original, 2, lambda _: None)
    assert mid_ranks(ranking.standing).tolist() == [1, 1, 1]
    assert [set(row) for row in ranking.top.tolist()] == [{0, 3}, {1, 4}, {2, 5}]


def test_equal_pictures_of_different_content_tie() -> None:
    text, image = unit_vectors(2, 1), unit_vectors(2, 1)
    doubled = np.concatenate([image, image])
    ranking = rank_images(text, doubled, np.arange(2), no_copies(4), 2, lambda _: None)
    assert mid_ranks(ranking.standing).tolist() == [1.5, 1.5]
    assert found_at(ranking.standing, 1).tolist() == [0.5, 0.5]


def test_the_same_caption_of_two_images_ties() -> None:
    image = unit_vectors(2, 1)
    text = np.stack([image[0], image[0], image[1]])
    places, standing = rank_texts(text, image, np.array([0, 1, 1]))
    assert places.tolist() == [0, 1]
    assert mid_ranks(standing).tolist() == [1.5, 1.0]
