"""A run, written down: a page with a table and charts, and every round as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

from rich.table import Table

from speed import charts
from speed.comparison import Change, Verdict
from speed.earlier import Million
from speed.targets import Figures, Outcome, Target


@dataclass(frozen=True, slots=True)
class Result:
    """All that is written of a run."""

    taken: date
    machine: dict[str, object]
    model: str
    command: str
    minutes: float
    rounds: Sequence[Figures]
    outcomes: Sequence[Outcome]
    notes: Sequence[str]
    million: Sequence[Million]
    compared_with: str  # what the changes are to; empty if there was nothing
    changes: Sequence[Change]

    @property
    def name(self) -> str:
        return f"{self.taken.isoformat()}-{self.machine['name']}"

    @property
    def ratios(self) -> dict[str, list[float]]:
        return {it.target.key: list(it.ratios) for it in self.outcomes}


def write(result: Result, folder: Path) -> Path:
    """Writes ``<date>-<machine>`` .md, .json and -*.png, over those of the same day."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.name}.json").write_text(json.dumps(_as_json(result), indent=1) + "\n")
    pictures = {
        f"{result.name}-targets.png": charts.targets(result.outcomes),
        f"{result.name}-rates.png": charts.rates(result.rounds),
        f"{result.name}-latencies.png": charts.latencies(result.rounds),
    }
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    page = folder / f"{result.name}.md"
    page.write_text(_page(result, list(pictures)))
    return page


def table(result: Result) -> Table:
    """The targets, for a terminal."""
    shown = Table(
        title=f"{result.model} on {result.machine['cpu']}, {result.machine['cores']} cores"
    )
    for column in ("", "median", "least to most", "target", "", "before"):
        shown.add_column(column, justify="left" if not column else "right")
    before = {change.key: change for change in result.changes}
    for it in result.outcomes:
        change = before.get(it.target.key)
        shown.add_row(
            it.target.title,
            _number(it.target, it.median),
            _range(it),
            _bound(it.target),
            "[green]met[/]" if it.is_met else "[red]not met[/]",
            f"{_number(it.target, change.then)}, {change.verdict}" if change else "",
        )
    return shown


def _as_json(result: Result) -> dict[str, object]:
    return {
        "date": result.taken.isoformat(),
        "machine": result.machine,
        "model": result.model,
        "command": result.command,
        "minutes": round(result.minutes, 1),
        "notes": list(result.notes),
        "ratios": result.ratios,
        "rounds": [dict(figures) for figures in result.rounds],
        "compared_with": result.compared_with,
        "changes": [asdict(change) for change in result.changes],
    }


def _page(result: Result, pictures: Sequence[str]) -> str:
    targets, rates, latencies = pictures
    versions = result.machine["versions"]
    assert isinstance(versions, dict)
    paragraphs = [
        f"# Speed, {result.taken.isoformat()}, {result.machine['name']}",
        _where(result),
        "## Targets",
        "Each ratio is of two figures of one round; shown is the median of the rounds.",
        _markdown(
            ("ratio", "median", "least to most", "target", ""),
            [*map(_row, result.outcomes), *_million_rows(result.million)],
        ),
        f"![The ratios against their targets]({targets})",
        "## The figures behind them",
        f"![Rates of all contestants]({rates})",
        f"![Latencies of the server and of the bare encoder]({latencies})",
        _markdown(
            ("figure", "median", "least", "most"),
            [
                (name, *(f"{it:,.4g}" for it in (median(values), min(values), max(values))))
                for name, values in figures(result.rounds).items()
            ],
        ),
        "\n".join(f"- {note}" for note in result.notes),
        "## Compared with before",
        *_comparison(result),
        "## Versions",
        ", ".join(
            f"{name} {it}" for name, it in ({"Python": result.machine["python"]} | versions).items()
        ),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _where(result: Result) -> str:
    machine = result.machine
    return (
        f"{result.model} on {machine['cpu']} (family {machine['family']}, model "
        f"{machine['model']}), {machine['cores']} cores, with {_list(machine['flags'])} and "
        f"without {_list(machine['lacks'])}. `{result.command}`: {len(result.rounds)} rounds in "
        f"{result.minutes:.0f} minutes. How it is measured: bench/README.md."
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.target.title,
        _number(outcome.target, outcome.median),
        _range(outcome),
        _bound(outcome.target),
        "met" if outcome.is_met else "**not met**",
    )


def figures(rounds: Sequence[Figures]) -> dict[str, list[float]]:
    """By name, of all rounds that have one."""
    names = dict.fromkeys(name for it in rounds for name in it)
    return {name: [it[name] for it in rounds if name in it] for name in names}


def _comparison(result: Result) -> list[str]:
    if not result.compared_with:
        return ["There are no earlier results."]
    titles = {it.target.key: it.target for it in result.outcomes}
    return [
        f"With {result.compared_with}. *Same*: within the spread of the rounds, or 5 %.",
        _markdown(
            ("ratio", "before", "now", ""),
            [
                (
                    titles[it.key].title,
                    _number(titles[it.key], it.then),
                    _number(titles[it.key], it.now),
                    f"**{it.verdict}**" if it.verdict is Verdict.SLOWER else str(it.verdict),
                )
                for it in result.changes
            ],
        ),
    ]


def _million_rows(settings: Sequence[Million]) -> list[tuple[str, ...]]:
    """Of another program, whose run takes an hour: as it was last committed."""
    rows = []
    for it in settings:
        ratio = median(it.ratios)
        title = (
            "QueryText p50 with 1,000,000 images stored, to 100,000; `index.hnsw_ef` "
            f"{it.hnsw_ef}, recall@10 {it.recall:.3f} (`bench/million.py`, {it.date})"
        )
        rows.append(
            (
                title,
                f"{ratio:.2f}",
                f"{min(it.ratios):.2f} to {max(it.ratios):.2f}",
                "at most 2, recall at least 0.99",
                "met" if ratio <= 2 and it.recall >= 0.99 else "**not met**",
            )
        )
    return rows


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = "|---" + "|--:" * (len(head) - 1) + "|"
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], ruler, *lines[1:]])


def _range(outcome: Outcome) -> str:
    least, most = min(outcome.ratios), max(outcome.ratios)
    return f"{_number(outcome.target, least)} to {_number(outcome.target, most)}"


def _number(target: Target, value: float) -> str:
    return f"{value:.{target.digits}f}"


def _bound(target: Target) -> str:
    return f"{'at least' if target.at_least else 'at most'} {target.bound:g}"


def _list(values: object) -> str:
    assert isinstance(values, list)
    return ", ".join(values) or "none"
