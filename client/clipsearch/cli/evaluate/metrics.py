"""How good a ranking is. Pure numpy; a figure is of n queries, each with one right answer.

Where the right answer is tied with t others behind b better ones, every order of these is as likely
as any other, and a figure is the mean over all of them: McSherry and Najork, "Computing Information
Retrieval Performance Measures Efficiently in the Presence of Tied Scores" (ECIR 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.cli.evaluate.ranking import TIE, Doubles, Floats, Places, Standing

RECALL_AT = (1, 5, 10)
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalFigures:
    """How well queries find their right answers."""

    queries: int
    candidates: int
    recall: dict[int, Estimate]  # by k: the share of queries with the right answer in the first k
    median_rank: float
    mean_rank: float
    mrr: Estimate  # the mean of 1 / rank


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementFigures:
    """How well the nearest that an index finds are the nearest there are."""

    recall: dict[int, float]  # by k: the share of the exact first k that the index found
    mean_average_precision: float  # of the index's first k, for the largest k


def retrieval_figures(standing: Standing, groups: Places, candidates: int) -> RetrievalFigures:
    """``groups`` (n,) names what the queries are resampled by: captions of one image belong
    together."""
    return RetrievalFigures(
        queries=len(groups),
        candidates=candidates,
        recall={k: estimate(found_at(standing, k), groups) for k in RECALL_AT},
        median_rank=float(np.median(mid_ranks(standing))),
        mean_rank=float(np.mean(mid_ranks(standing))),
        mrr=estimate(reciprocal_ranks(standing), groups),
    )


def found_at(standing: Standing, k: int) -> Doubles:
    """Returns the chance (n,) that the right answer is among the first k: 0 or 1, but for ties."""
    places = standing.tied + 1
    found: Doubles = np.clip(k - standing.better, 0, places) / places
    return found


def mid_ranks(standing: Standing) -> Doubles:
    """Returns the mean rank (n,) of the right answer, from 1."""
    ranks: Doubles = 1 + standing.better + standing.tied / 2
    return ranks


def reciprocal_ranks(standing: Standing) -> Doubles:
    """Returns the mean (n,) of 1 / rank of the right answer."""
    last = standing.better + standing.tied + 1
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, last.max(initial=0) + 1))])
    means: Doubles = (harmonic[last] - harmonic[standing.better]) / (standing.tied + 1)
    return means


def estimate(values: Doubles, groups: Places) -> Estimate:
    """Returns the mean of the values (n,), with its interval by a percentile bootstrap over the
    groups (n,): Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13."""
    _, member_of = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(member_of, values), np.bincount(member_of)
    random = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = random.integers(len(sums), size=len(sums))
        means[number] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def agreement_figures(
    answers: Floats, exact: Floats, cutoffs: Sequence[int] = RECALL_AT
) -> AgreementFigures:
    """Compares what an index found with the exact ranking, by scores.

    ``answers`` (n, k) are the exact scores of what the index answered, in its order, minus infinity
    where it answered nothing; ``exact`` (n, k) are the k highest scores there are, the highest
    first. An answer is right among the first j if it scores no less than the exact j-th, so that it
    does not matter which of equal images was found: Aumüller, Bernhardsson and Faithfull,
    "ANN-Benchmarks" (2020), section 2. Average precision is that of Manning, Raghavan and Schütze,
    "Introduction to Information Retrieval" (2008), section 8.4, with the exact first k as what is
    relevant.
    """
    k = exact.shape[1]
    recall = {
        j: float(np.mean(answers[:, :j] >= exact[:, j - 1 : j] - np.float32(TIE)))
        for j in sorted({min(cutoff, k) for cutoff in cutoffs})
    }
    is_right = answers >= exact[:, -1:] - np.float32(TIE)
    precision = np.cumsum(is_right, axis=1) / np.arange(1, k + 1)
    average = (precision * is_right).sum(axis=1) / k
    return AgreementFigures(recall=recall, mean_average_precision=float(average.mean()))
