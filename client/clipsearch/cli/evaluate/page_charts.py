"""Which charts the report has, and what they show."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clipsearch.cli.evaluate.charts import (
    Series,
    bar_chart,
    histogram,
    line_chart,
    linear_axis,
    rank_axis,
    share_axis,
)
from clipsearch.cli.evaluate.evaluation import Detail, Evaluation
from clipsearch.cli.evaluate.index_quality import IndexFigures
from clipsearch.cli.evaluate.metrics import RECALL_AT, found_at, mid_ranks
from clipsearch.cli.evaluate.ranking import SCORE_BINS, Doubles, Standing

_CURVE_POINTS = 60
_LATENCY_BINS = 40
_RANK_EDGES = (1, 2, 6, 11, 21, 51, 101, 501, 1001, 5001, 10**9)


def curve_chart(detail: Detail) -> str:
    """Recall@k over k, in both directions."""
    images = int(detail.gallery.is_original.sum())
    directions = (
        ("captions find their image", detail.ranking.standing, images),
        ("images find a caption", detail.image_standing, len(detail.captions)),
    )
    lines = [
        (Series(name, [float(found_at(standing, k).mean()) for k in _ks(most)]), _ks(most))
        for name, standing, most in directions
    ]
    return line_chart(
        "Recall@k over k",
        "The share of queries with a right answer in the first k. "
        + "; ".join(
            f"{line.name}: " + ", ".join(_recalls(standing))
            for (line, _), (_, standing, _) in zip(lines, directions, strict=True)
        ),
        rank_axis("k", max(images, len(detail.captions))),
        share_axis(""),
        lines,
    )


def _ks(most: int) -> list[int]:
    return sorted({round(k) for k in np.geomspace(1, max(most, 2), _CURVE_POINTS)})


def _recalls(standing: Standing) -> list[str]:
    return [f"{100 * found_at(standing, k).mean():.1f} % at {k}" for k in RECALL_AT]


def rank_chart(detail: Detail) -> str:
    """How many captions find their image at which rank."""
    ranks = mid_ranks(detail.ranking.standing)
    counts, _ = np.histogram(ranks, bins=np.array(_RANK_EDGES) - 0.25)  # ties may lie between
    last = int(np.flatnonzero(counts).max()) + 1
    shares = (counts[:last] / len(ranks)).tolist()
    labels = [_range(low, high) for low, high in pairwise(_RANK_EDGES[: last + 1])]
    return bar_chart(
        "Rank of the right image",
        "The share of captions by the rank of their image. "
        + ", ".join(f"{label}: {100 * it:.1f} %" for label, it in zip(labels, shares, strict=True)),
        labels,
        share_axis("", max(shares)),
        [Series("captions", shares)],
        lambda share: f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.1f}",
        "rank",
    )


def _range(low: int, high: int) -> str:
    if high == low + 1:
        return str(low)
    if high == _RANK_EDGES[-1]:
        return f">{_short(low - 1)}"
    return f"\u2264{_short(high - 1)}"


def _short(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 else str(number)


def score_chart(detail: Detail) -> str:
    """The scores of captions with their own image, and with others."""
    edges = np.linspace(-1, 1, SCORE_BINS + 1)
    true, _ = np.histogram(detail.ranking.true_scores, edges)
    others = detail.ranking.other_scores
    shares = [counts / max(counts.sum(), 1) for counts in (true, others)]
    used = np.flatnonzero(true + others)
    first, last = max(int(used.min()) - 1, 0), min(int(used.max()) + 2, SCORE_BINS)
    means = [float((it * (edges[:-1] + edges[1:]) / 2).sum()) for it in shares]
    return histogram(
        "Scores",
        f"Cosine similarities. Of captions with their own image: mean {means[0]:.3f}; with a "
        f"sample of other images: mean {means[1]:.3f}.",
        linear_axis("cosine similarity", float(edges[first]), float(edges[last])),
        share_axis("", max(float(it.max()) for it in shares)),
        edges[first : last + 1].tolist(),
        [
            Series("with the right image", shares[0][first:last].tolist()),
            Series("with others", shares[1][first:last].tolist()),
        ],
    )


def agreement_chart(index: IndexFigures) -> str:
    """How much of the exact ranking the index finds."""
    agreement = index.agreement
    bars = {f"recall@{k}": it for k, it in agreement.recall.items()}
    bars[f"mAP@{max(agreement.recall)}"] = agreement.mean_average_precision
    told = ", ".join(f"{name} {it:.4f}" for name, it in bars.items())
    return bar_chart(
        "The index against the exact ranking",
        told,
        list(bars),
        share_axis(""),
        [Series("index", list(bars.values()))],
        lambda share: f"{100 * share:.2f} %",
    )


def latency_chart(index: IndexFigures, times: Doubles) -> str:
    """How long single queries take; the slowest are all in the last bar."""
    high = float(times.max()) if times.max() < 3 * index.single_p99_ms else 2 * index.single_p99_ms
    counts, edges = np.histogram(np.minimum(times, high), _LATENCY_BINS, (0.0, high))
    shares = counts / len(times)
    return histogram(
        "Time to answer a single query",
        f"Median {index.single_p50_ms:.1f} ms, 99th percentile {index.single_p99_ms:.1f} ms, of "
        f"{len(times):,} queries.",
        linear_axis("milliseconds", 0.0, high),
        share_axis("", float(shares.max())),
        edges.tolist(),
        [Series("queries", shares.tolist())],
        [
            (index.single_p50_ms, f"median {index.single_p50_ms:.1f} ms"),
            (index.single_p99_ms, f"p99 {index.single_p99_ms:.1f} ms"),
        ],
    )


def template_chart(evaluation: Evaluation) -> str:
    """Recall with each of the first few variants."""
    variants = evaluation.variants[:4]
    names = [" + ".join(it.templates) or "no template" for it in variants]
    series = [
        Series(name, [one.value for one in variant.text_to_image.recall.values()])
        for name, variant in zip(names, variants, strict=True)
    ]
    return bar_chart(
        "Recall by template",
        "; ".join(
            f"{one.name}: "
            + ", ".join(
                f"{100 * it:.1f} % at {k}" for k, it in zip(RECALL_AT, one.values, strict=True)
            )
            for one in series
        ),
        [f"recall@{k}" for k in RECALL_AT],
        share_axis(""),
        series,
        lambda share: f"{100 * share:.0f}",
    )
