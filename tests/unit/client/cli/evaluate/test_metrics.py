"""The figures, against their definitions."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.cli.evaluate.metrics import (
    agreement_figures,
    estimate,
    found_at,
    mid_ranks,
    reciprocal_ranks,
    retrieval_figures,
)
from clipsearch.cli.evaluate.ranking import Standing

SCORES = st.lists(st.integers(0, 3), min_size=1, max_size=6)  # of candidates, the first is right


def possible_ranks(scores: list[int]) -> list[int]:
    """The ranks of the first candidate in all orders that have the higher score first."""
    orders = (
        order
        for order in permutations(range(len(scores)))
        if all(scores[one] >= scores[next_] for one, next_ in pairwise(order))
    )
    return [1 + order.index(0) for order in orders]


@settings(max_examples=50, deadline=None)
@given(SCORES, st.integers(1, 4))
def test_a_figure_is_the_mean_over_all_orders_of_what_is_tied(scores: list[int], k: int) -> None:
    better = sum(it > scores[0] for it in scores)
    standing = Standing(np.array([better]), np.array([scores.count(scores[0]) - 1]))
    ranks = possible_ranks(scores)
    assert found_at(standing, k)[0] == pytest.approx(np.mean([rank <= k for rank in ranks]))
    assert mid_ranks(standing)[0] == pytest.approx(np.mean(ranks))
    assert reciprocal_ranks(standing)[0] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_figures_of_ranks_without_ties() -> None:
    ranks = np.array([1, 2, 7, 30])
    figures = retrieval_figures(Standing(ranks - 1, np.zeros(4, np.int64)), np.arange(4), 100)
    assert {k: it.value for k, it in figures.recall.items()} == {1: 0.25, 5: 0.5, 10: 0.75}
    assert figures.median_rank == 4.5
    assert figures.mean_rank == 10
    assert figures.mrr.value == pytest.approx((1 + 1 / 2 + 1 / 7 + 1 / 30) / 4)


def test_an_interval_is_as_wide_as_the_groups_make_it() -> None:
    values = np.tile([0.0, 1.0], 200)
    alone = estimate(values, np.arange(400))
    # Ten values a group that are all the same: 40 groups know as much as 40 values do.
    grouped = estimate(np.sort(values), np.arange(400) // 10)
    assert alone.value == grouped.value == 0.5
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.1)
    assert grouped.high - grouped.low == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.15)


def test_equal_values_have_no_interval() -> None:
    found = estimate(np.ones(5), np.arange(5))
    assert (found.low, found.value, found.high) == (1, 1, 1)


def test_agreement_counts_answers_by_their_scores() -> None:
    exact = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]], np.float32)
    # The first is missing, another of the same score as the fifth stands for it, the last is wrong.
    answers = np.array([[0.8, 0.7, 0.5, 0.4, -np.inf]], np.float32)
    figures = agreement_figures(answers, exact, cutoffs=(1, 5))
    assert figures.recall == {1: 0.0, 5: pytest.approx(3 / 5)}
    assert figures.mean_average_precision == pytest.approx((1 + 1 + 1) / 5)


def test_a_small_collection_has_no_first_ten() -> None:
    exact = np.array([[0.9, 0.8]], np.float32)
    figures = agreement_figures(exact, exact)
    assert figures.recall == {1: 1.0, 2: 1.0}
    assert figures.mean_average_precision == 1.0
