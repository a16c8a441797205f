"""What the server's own answers are worth, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from clipsearch import QueryResult, Ranking, SearchClient
from clipsearch.cli.evaluate.gallery import Gallery
from clipsearch.cli.evaluate.metrics import AgreementFigures, agreement_figures
from clipsearch.cli.evaluate.ranking import Doubles, Floats

BATCH = 256
MAX_SINGLE = 500
_WARM_UP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFigures:
    """The index against the exact ranking, and the time that answers take here, network included.

    Single queries come one after another.
    """

    agreement: AgreementFigures
    single_queries: int
    single_p50_ms: float
    single_p99_ms: float
    stages_p50_ms: dict[str, float]  # the server's own, of single queries
    batch_size: int
    batch_queries_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoCutFigures:
    """What `auto_cut` does to captions, each of which has an image."""

    lost: int  # captions whose own image is below the cut
    emptied: int  # captions that are left without any hit
    captions: int


def measure_index(
    client: SearchClient,
    collection: str,
    captions: Sequence[str],
    texts: Floats,
    gallery: Gallery,
    top_scores: Floats,
    advance: Callable[[int], None],
) -> tuple[IndexFigures, Doubles]:
    """Asks the server for the nearest images of each caption, in batches, and of some one by one.

    ``texts`` (n, d) are the captions' embeddings and ``top_scores`` (n, k) the scores of the images
    nearest to each, the best first. ``advance`` is told how many more answers have come. Returns
    the milliseconds that each single query took, too. Raises SearchError.
    """
    single_ms, stages_ms = _ask_singly(client, collection, captions, top_scores.shape[1], advance)
    answers = np.full(top_scores.shape, -np.inf, np.float32)
    batch_s = 0.0
    for start in range(0, len(captions), BATCH):
        batch = captions[start : start + BATCH]
        before_s = time.perf_counter()
        results = _ask(client, collection, batch, top_scores.shape[1])
        batch_s += time.perf_counter() - before_s
        for row, result in enumerate(results, start):
            scores = _exact_scores(result, texts[row], gallery)
            answers[row, : len(scores)] = scores
        advance(len(batch))
    figures = IndexFigures(
        agreement=agreement_figures(answers, top_scores),
        single_queries=len(single_ms),
        single_p50_ms=float(np.percentile(single_ms, 50)),
        single_p99_ms=float(np.percentile(single_ms, 99)),
        stages_p50_ms=stages_ms,
        batch_size=BATCH,
        batch_queries_per_s=len(captions) / batch_s,
    )
    return figures, single_ms


def single_count(captions: int) -> int:
    """Returns how many captions are asked for singly too."""
    return min(captions, MAX_SINGLE)


def measure_auto_cut(
    client: SearchClient,
    collection: str,
    captions: Sequence[str],
    true_scores: Floats,
    advance: Callable[[int], None],
) -> AutoCutFigures:
    """Counts the captions whose image `auto_cut` leaves out; ``true_scores`` (n,) are the images'.

    Raises SearchError.
    """
    lost = emptied = 0
    for start in range(0, len(captions), BATCH):
        batch = captions[start : start + BATCH]
        results = _ask(client, collection, batch, 1, Ranking(auto_cut=True))
        for result, score in zip(results, true_scores[start : start + BATCH], strict=True):
            lost += result.cut_off is not None and float(score) < result.cut_off
            emptied += not result.hits
        advance(len(batch))
    return AutoCutFigures(lost=lost, emptied=emptied, captions=len(captions))


def _ask(
    client: SearchClient,
    collection: str,
    captions: Sequence[str],
    limit: int,
    ranking: Ranking | None = None,
) -> list[QueryResult]:
    results: list[QueryResult] = []
    for answer in client.query_texts(
        captions, limit=limit, collection=collection, ranking=ranking, prompt_templates=()
    ):
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        results.append(answer.result)
    return results


def _ask_singly(
    client: SearchClient,
    collection: str,
    captions: Sequence[str],
    limit: int,
    advance: Callable[[int], None],
) -> tuple[Doubles, dict[str, float]]:
    chosen = np.linspace(0, len(captions) - 1, single_count(len(captions))).astype(int)
    for place in chosen[:_WARM_UP]:
        client.query_text(captions[place], limit=limit, collection=collection, prompt_templates=())
    taken_ms = np.empty(len(chosen))
    stages: dict[str, list[float]] = {}
    for number, place in enumerate(chosen):
        before_s = time.perf_counter()
        result = client.query_text(
            captions[place], limit=limit, collection=collection, prompt_templates=()
        )
        taken_ms[number] = (time.perf_counter() - before_s) * 1e3
        for name, stage_ms in result.timings_ms.items():
            stages.setdefault(name, []).append(stage_ms)
        advance(1)
    return taken_ms, {name: median(times) for name, times in stages.items()}


def _exact_scores(result: QueryResult, text: Floats, gallery: Gallery) -> list[float]:
    """Returns the scores of the hits, computed anew: an index that compresses may tell others."""
    scores: list[float] = []
    for hit in result.hits:
        rows = gallery.rows.get(hit.image.id, ())
        scores.append(float(gallery.embeddings[rows[0]] @ text) if rows else hit.score)
    return scores
