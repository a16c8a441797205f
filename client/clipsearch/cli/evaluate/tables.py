"""The figures on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from clipsearch.cli.evaluate.evaluation import Evaluation
from clipsearch.cli.evaluate.metrics import RECALL_AT, Estimate, RetrievalFigures
from clipsearch.cli.evaluate.pairs import Problem
from clipsearch.cli.evaluate.wording import percent, variant_name
from clipsearch.cli.output import new_table, show_facts, stderr, stdout, visible

_MAX_PROBLEMS = 10


def show_evaluation(evaluation: Evaluation) -> None:
    """Writes the tables to stdout, and what was left out to stderr."""
    for variant in evaluation.variants:
        if len(evaluation.variants) > 1:
            stdout.print(Text(visible(f"template: {variant_name(variant)}"), style="bold"))
        table = new_table("query", *(f"R@{k}" for k in RECALL_AT), "median rank", "MRR")
        table.add_row("caption to image", *_cells(variant.text_to_image))
        table.add_row("image to caption", *_cells(variant.image_to_text))
        stdout.print(table)
    index, agreement = evaluation.index, evaluation.index.agreement
    k = max(agreement.recall)
    found = ", ".join(f"recall@{at} {it:.4f}" for at, it in agreement.recall.items())
    facts: dict[str, object] = {
        "captions": f"{evaluation.captions:,}",
        "images": f"{evaluation.images:,}"
        + (f" (and {evaluation.copies:,} copies)" if evaluation.copies else ""),
        "model": f"{evaluation.model_id} ({evaluation.model_fingerprint[:8]})",
        "index": f"{found}, mAP@{k} {agreement.mean_average_precision:.4f} of the exact ranking",
        "single queries": f"p50 {index.single_p50_ms:.1f} ms, p99 {index.single_p99_ms:.1f} ms "
        f"({index.single_queries:,} of them)",
        "batches": f"{index.batch_queries_per_s:,.0f} queries/s in batches of {index.batch_size}",
    }
    if (cut := evaluation.auto_cut) is not None:
        lost = percent(cut.lost / cut.captions)
        facts["auto-cut"] = f"{cut.lost:,} captions ({lost}) lose their image"
    if evaluation.is_kept:
        facts["collection"] = evaluation.collection
    show_facts(facts)
    stderr.print(
        "±: half of the 95 % bootstrap interval over images; ties count as their mean",
        style="dim",
    )
    show_problems(evaluation.problems)


def _cells(figures: RetrievalFigures) -> list[str]:
    recalls = [_with_margin(it) for it in figures.recall.values()]
    return [*recalls, f"{figures.median_rank:,g}", f"{figures.mrr.value:.3f}"]


def _with_margin(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} ±{50 * (estimate.high - estimate.low):.1f}"


def show_problems(problems: Sequence[Problem]) -> None:
    """Writes what was left out to stderr."""
    for problem in problems[:_MAX_PROBLEMS]:
        stderr.print(Text(visible(f"left out: {problem.key}: {problem.message}")))
    if (more := len(problems) - _MAX_PROBLEMS) > 0:
        stderr.print(f"left out: {more:,} more")
