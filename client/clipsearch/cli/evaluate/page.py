"""The report: one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from clipsearch.cli.evaluate.evaluation import Detail, Evaluation, Variant
from clipsearch.cli.evaluate.examples import Example, Thumbnail, pick_examples
from clipsearch.cli.evaluate.metrics import RetrievalFigures
from clipsearch.cli.evaluate.page_charts import (
    agreement_chart,
    curve_chart,
    latency_chart,
    rank_chart,
    score_chart,
    template_chart,
)
from clipsearch.cli.evaluate.pairs import Problem
from clipsearch.cli.evaluate.wording import FIGURE_COLUMNS, interval, percent, variant_name

_STYLE = Path(__file__).with_name("page.css")
_MAX_PROBLEMS = 50

_HOW_COUNTED = (
    "Each caption is a query with one right image, as is usual for Flickr30K and COCO (Karpathy "
    "and Fei-Fei 2015); for an image, any of its captions is right. Every score is compared, "
    "without an index. Images of equal content count once. Scores within 0.000001 of another are "
    "ties, and a figure is the mean over all orders of what is tied (McSherry and Najork 2008). "
    "The intervals are 95 % percentile bootstrap intervals over images."
)
_HOW_COMPARED = (
    "What the server answers, against the exact ranking. An answer is right among the first k if "
    "it scores no less than the exact k-th (ANN-Benchmarks, Aumüller et al. 2020); average "
    "precision takes the exact first k as what is relevant."
)
_WHAT_TEMPLATES_ARE = (
    "What captions are put into before they are embedded; of several templates together, the "
    "embeddings are averaged."
)


def write_page(file: Path, title: str, evaluation: Evaluation, detail: Detail) -> None:
    """Writes the report. Raises OSError."""
    file.write_text(render_page(title, evaluation, detail), encoding="utf-8")


def render_page(title: str, evaluation: Evaluation, detail: Detail) -> str:
    """Returns the report as HTML, with all that comes from others escaped."""
    best, worst = pick_examples(detail)
    counted = f'<div class="card aside"><h3>How it is counted</h3>{_note(_HOW_COUNTED)}</div>'
    charts = curve_chart(detail) + rank_chart(detail) + score_chart(detail) + counted
    sections = [
        _headline(title, evaluation),
        f'<div class="charts">{charts}</div>',
        _section("Both directions", _directions(evaluation.variants[0])),
        _templates(evaluation) if len(evaluation.variants) > 1 else "",
        _index(evaluation, detail),
        _section(
            "Found best",
            _note("Captions whose image is first, and furthest ahead of the second."),
            _examples(best, "second"),
        ),
        _section(
            "Found worst",
            _note("Captions whose image is furthest from being first."),
            _examples(worst, "first instead") or _note("None: every image is first."),
        ),
        _problems(evaluation.problems),
    ]
    style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main></body></html>\n"
    )


def _headline(title: str, evaluation: Evaluation) -> str:
    figures = evaluation.variants[0].text_to_image
    copies = f", and {evaluation.copies:,} copies of these" if evaluation.copies else ""
    facts = (
        f"{evaluation.captions:,} captions, {evaluation.images:,} images{copies}. "
        f"Model {evaluation.model_id} ({evaluation.model_fingerprint[:8]})."
    )
    mrr = figures.mrr
    cells = [
        *((f"Recall@{k}", percent(it.value), interval(it)) for k, it in figures.recall.items()),
        ("Median rank", f"{figures.median_rank:,g}", f"of {figures.candidates:,} images"),
        ("MRR", f"{mrr.value:.3f}", f"{mrr.low:.3f} to {mrr.high:.3f}"),
    ]
    drawn = "".join(
        f'<div class="card"><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>'
        for name, value, note in cells
    )
    return (
        f'<h1>{escape(title)}</h1><p class="faint">{escape(facts)}</p>'
        f'<h2>Captions find their image</h2><dl class="figures">{drawn}</dl>'
    )


def _directions(plain: Variant) -> str:
    rows = [
        ("Caption to image", _figure_cells(plain.text_to_image)),
        ("Image to caption", _figure_cells(plain.image_to_text)),
    ]
    return _table(("Direction", *FIGURE_COLUMNS), rows)


def _templates(evaluation: Evaluation) -> str:
    rows = [(variant_name(it), _figure_cells(it.text_to_image)) for it in evaluation.variants]
    return _section(
        "Prompt templates",
        _note(_WHAT_TEMPLATES_ARE),
        _table(("Template", *FIGURE_COLUMNS), rows),
        f'<div class="charts">{template_chart(evaluation)}</div>',
    )


def _index(evaluation: Evaluation, detail: Detail) -> str:
    index = evaluation.index
    speed = (
        f"{index.single_queries:,} queries one after another: median {index.single_p50_ms:.1f} ms, "
        f"99th percentile {index.single_p99_ms:.1f} ms, network included. In batches of "
        f"{index.batch_size}: {index.batch_queries_per_s:,.0f} queries a second."
    )
    if index.stages_p50_ms:
        stages = (f"{name} {ms:.2f} ms" for name, ms in index.stages_p50_ms.items())
        speed += (
            f" The stages within the server, median: {', '.join(stages)}; texts that it remembers "
            "from the batches before are not embedded again."
        )
    parts = [_note(_HOW_COMPARED), _note(speed)]
    if (cut := evaluation.auto_cut) is not None:
        lost = percent(cut.lost / cut.captions)
        note = (
            f"With auto-cut, {cut.lost:,} of {cut.captions:,} captions ({lost}) lose their image, "
            f"and {cut.emptied:,} are left without any hit."
        )
        parts.append(_note(note))
    charts = agreement_chart(index) + latency_chart(index, detail.single_ms)
    parts.append(f'<div class="charts">{charts}</div>')
    return _section("The index, and how fast it answers", *parts)


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    items = [f"{escape(it.key)}: {escape(it.message)}" for it in problems[:_MAX_PROBLEMS]]
    if more := len(problems) - len(items):
        items.append(f"and {more:,} more")
    drawn = "".join(f"<li>{it}</li>" for it in items)
    return _section("Left out", f'<ul class="notes">{drawn}</ul>')


def _examples(examples: Sequence[Example], other: str) -> str:
    if not examples:
        return ""
    return f'<ul class="examples">{"".join(_example(it, other) for it in examples)}</ul>'


def _example(example: Example, other: str) -> str:
    rank = f"rank {example.rank:,g}"
    return (
        f'<li class="card"><q>{escape(example.caption)}</q><div class="pair">'
        f"{_picture(example.own, rank, example.score)}"
        f"{_picture(example.other, other, example.other_score)}</div></li>"
    )


def _picture(picture: Thumbnail, label: str, score: float) -> str:
    name = escape(picture.name)
    shown = (
        f'<img src="{picture.data_uri}" alt="{name}" loading="lazy"/>'
        if picture.data_uri
        else f'<span class="missing">{escape(picture.problem)}</span>'
    )
    return f"<figure>{shown}<figcaption><b>{label}</b>{name}<br/>{score:.3f}</figcaption></figure>"


def _figure_cells(figures: RetrievalFigures) -> list[str]:
    recalls = [
        f"{percent(it.value)}<small>{interval(it)}</small>" for it in figures.recall.values()
    ]
    mean_rank = f"{figures.mean_rank:,.1f}"
    return [*recalls, f"{figures.median_rank:,g}", mean_rank, f"{figures.mrr.value:.3f}"]


def _table(columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    head = "".join(f'<th scope="col">{escape(it)}</th>' for it in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{it}</td>" for it in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _note(text: str) -> str:
    return f'<p class="notes">{escape(text)}</p>'
