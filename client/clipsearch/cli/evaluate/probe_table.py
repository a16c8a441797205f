"""The figures of a linear probe on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from clipsearch.cli.evaluate.pairs import Problem
from clipsearch.cli.evaluate.probe import ProbeFigures
from clipsearch.cli.evaluate.tables import show_problems
from clipsearch.cli.evaluate.wording import interval, percent
from clipsearch.cli.output import new_table, show_facts, stdout, visible


def show_probe(figures: ProbeFigures, problems: Sequence[Problem]) -> None:
    """Writes the tables of a linear probe to stdout."""
    table = new_table("class", "train", "test", "linear probe", "zero-shot")
    for it in figures.classes:
        counts = (f"{it.train_images:,}", f"{it.test_images:,}")
        table.add_row(Text(visible(it.name)), *counts, percent(it.probe), percent(it.zero_shot))
    stdout.print(table)
    accuracy = figures.accuracy
    facts: dict[str, object] = {
        "linear probe": f"{percent(accuracy.value)} ({interval(accuracy)}), mean of the classes "
        f"{percent(figures.mean_class_accuracy)}, C = {figures.c:.3g}"
        + ("" if figures.has_converged else ", not converged"),
    }
    for template, one in figures.zero_shot.items():
        facts[f"zero-shot, {template}"] = f"{percent(one.value)} ({interval(one)})"
    facts["images"] = (
        f"{figures.train_images:,} to train with ({figures.validation_images:,} of them to choose "
        f"C by), {figures.test_images:,} to test with"
    )
    show_facts(facts)
    show_problems(problems)
