"""The algebra of mixed queries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clipsearch_server.mixing import mix
from clipsearch_server.ports import Embeddings

DIM = 8

weights = st.one_of(st.floats(0.01, 100), st.floats(-100, -0.01))
terms = st.integers(2, 6).flatmap(
    lambda n: st.tuples(st.integers(0, 2**32 - 1), st.lists(weights, min_size=n, max_size=n))
)


def units(count: int, seed: int) -> Embeddings:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_one_term_is_itself_to_the_bit() -> None:
    (unit,) = units(1, seed=1)
    for weight in (1.0, 0.3, 100.0):
        assert mix([unit], [weight]) is unit
        assert np.array_equal(mix([unit], [-weight]), -unit)  # type: ignore[arg-type]


@given(terms, st.floats(0.1, 10), st.randoms(use_true_random=False))
def test_only_the_proportions_of_weights_count_and_not_their_order(
    case: tuple[int, list[float]], scale: float, random: np.random.Generator
) -> None:
    seed, factors = case
    rows = units(len(factors), seed)
    mixed = mix(rows, factors)
    assume(mixed is not None)
    assert mixed is not None
    assert mixed.dtype == np.float32
    assert np.linalg.norm(mixed) == pytest.approx(1, abs=1e-6)
    expected = np.asarray(factors, np.float64) @ rows.astype(np.float64)
    np.testing.assert_allclose(mixed, expected / np.linalg.norm(expected), atol=1e-6)
    scaled = mix(rows, [factor * scale for factor in factors])
    np.testing.assert_allclose(scaled, mixed, atol=1e-6)
    order = list(range(len(factors)))
    random.shuffle(order)
    shuffled = mix(rows[order], [factors[place] for place in order])
    np.testing.assert_allclose(shuffled, mixed, atol=1e-6)


@given(terms)
def test_a_term_twice_is_the_term_with_twice_the_weight(case: tuple[int, list[float]]) -> None:
    seed, factors = case
    rows = units(len(factors), seed)
    once = mix(rows, [2 * factors[0], *factors[1:]])
    twice = mix([rows[0], *rows], [factors[0], *factors])
    assume(once is not None and twice is not None)
    np.testing.assert_allclose(once, twice, atol=1e-6)  # type: ignore[arg-type]


@given(terms)
def test_the_opposite_weights_make_the_opposite(case: tuple[int, list[float]]) -> None:
    seed, factors = case
    rows = units(len(factors), seed)
    mixed = mix(rows, factors)
    opposite = mix(rows, [-factor for factor in factors])
    assume(mixed is not None and opposite is not None)
    np.testing.assert_allclose(opposite, -mixed, atol=1e-6)  # type: ignore[operator, arg-type]


def test_what_cancels_itself_out_has_no_direction() -> None:
    (unit,) = units(1, seed=2)
    nearly = unit + np.float32(1e-7) * units(1, seed=3)[0]  # as an encoder rounds it otherwise
    assert mix([unit, unit], [1, -1]) is None
    assert mix([unit, nearly], [50, -50]) is None
    assert mix([unit, unit], [1, -0.9]) is not None
