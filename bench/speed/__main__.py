"""How fast clipsearch is, against what bounds it and against what one would use instead.

    make bench          # eight minutes; writes bench/results/<date>-<machine>.md, .json and charts
    make bench-quick    # two to three minutes; writes to build/bench

They run `PYTHONPATH=bench .venv-dev/bin/python -m speed [--quick] [--model FOLDER]`. Every ratio is
of two figures that one round takes. The first run makes what is measured, in build/bench: a model
and the environment of infinity_emb, which are kept. The exit code is 1 if something is slower than
in the last committed results.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from measuring import RESULTS
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from speed import earlier, machine, measures, report, suite, targets
from speed import model as models
from speed.comparison import Change, Verdict, compare
from speed.contestants import infinity
from speed.processes import Worker

BUILD = RESULTS.parents[1] / "build" / "bench"
INFINITY = BUILD / "infinity"

console = Console(highlight=False)


def main() -> int:
    arguments = _arguments()
    plan = measures.QUICK if arguments.quick else measures.Plan()
    # What was started ends with this process, and what sleeps is woken first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    begun = time.monotonic()
    BUILD.mkdir(parents=True, exist_ok=True)
    with _progress() as progress:
        task = progress.add_task("")

        def tell(what: str) -> None:
            progress.update(task, description=what)
            if not console.is_terminal:
                console.print(f"{time.monotonic() - begun:4.0f} s  {what}")

        tell("making the model and infinity_emb's environment, if they are not there")
        model, reason = _prepare(arguments.model)
        run = suite.run(model, plan, None if reason else INFINITY, BUILD, tell)
    if reason:
        run.notes.append(f"infinity_emb is not here: {reason}")
    outcomes = targets.outcomes(run.rounds)
    here = machine.describe()
    before = earlier.last_run(RESULTS, str(here["name"]))
    result = report.Result(
        taken=datetime.now(UTC).date(),
        machine=here,
        model=model.name,
        command=f"make bench{'-quick' if arguments.quick else ''}",
        minutes=(time.monotonic() - begun) / 60,
        rounds=run.rounds,
        outcomes=outcomes,
        notes=run.notes,
        million=earlier.million(RESULTS),
        compared_with=_said_of(before),
        changes=_changes(before, outcomes),
    )
    page = report.write(result, BUILD if arguments.quick else RESULTS)
    console.print(report.table(result))
    console.print(f"{page} after {result.minutes:.1f} minutes")
    slower = [change.key for change in result.changes if change.verdict is Verdict.SLOWER]
    if slower:
        console.print(f"[red]slower than in {result.compared_with}: {', '.join(slower)}[/]")
    return 1 if slower else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few short rounds; writes to build/")
    parser.add_argument(
        "--model", type=Path, help="Hugging Face folder; default: ViT-B/32 of random weights"
    )
    return parser.parse_args()


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _prepare(given: Path | None) -> tuple[models.Model, str | None]:
    """Makes what is made once: the model's forms, and infinity_emb's environment beside it. Returns
    the model and, if there is no infinity_emb, why."""
    model = models.model_in(BUILD, given)
    with ThreadPoolExecutor(1) as thread:
        installed = thread.submit(infinity.install, INFINITY)
        if not models.is_made(model):
            with Worker() as worker:  # torch's memory goes with it
                worker.call(models.make, model)
        return model, installed.result()


def _changes(before: earlier.Earlier | None, outcomes: Sequence[targets.Outcome]) -> list[Change]:
    if before is None:
        return []
    return compare(
        before.ratios,
        {it.target.key: it.ratios for it in outcomes},
        more_is_faster={it.target.key: it.target.at_least for it in outcomes},
    )


def _said_of(before: earlier.Earlier | None) -> str:
    if before is None:
        return ""
    other = "" if before.is_of_this_machine else ", of another machine"
    return f"{before.name}{other}"


if __name__ == "__main__":
    sys.exit(main())
