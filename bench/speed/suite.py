"""The rounds. Each goes through the contestants there and back, with a short turn for each: what
drifts hits all alike, and nobody is always measured behind the same one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from speed import targets
from speed.contestants.server import start
from speed.measures import Measures, Plan, Told
from speed.model import Model, size_bytes


@dataclass(slots=True)
class Run:
    """What was measured."""

    rounds: list[dict[str, float]]
    notes: list[str]  # what a reader of the figures must know


def run(model: Model, plan: Plan, infinity_home: Path | None, build: Path, tell: Told) -> Run:
    """Measures everything; ``tell`` hears what is under way."""
    rounds: list[dict[str, float]] = [{} for _ in range(plan.rounds)]
    for number, figures in enumerate(rounds, 1):
        tell(f"starts: {number} of {plan.rounds}")
        figures.update(_start(model))
    with ExitStack() as stack:
        measures = Measures(stack, model, plan, infinity_home, build, tell)
        turns = measures.turns()
        for number, figures in enumerate(rounds, 1):
            taken: dict[str, list[float]] = {}
            for name, step in (*turns, *reversed(turns)):
                tell(f"round {number} of {plan.rounds}: {name}")
                for figure, value in step().items():
                    taken.setdefault(figure, []).append(value)
            figures.update((figure, mean(values)) for figure, values in taken.items())
            tell(f"round {number} of {plan.rounds}: queries beside an ingest")
            figures.update(measures.beside_ingest())
        return Run(rounds, measures.notes)


def _start(model: Model) -> dict[str, float]:
    """With nothing else running: what processes share would not count in full."""
    exported = model.exported["fp32"]
    at_rest = start(exported)
    return {
        targets.START: at_rest.start_s,
        targets.MEMORY: at_rest.memory_bytes / 1e6,
        targets.MODEL_FILES: size_bytes(exported) / 1e6,
    }
