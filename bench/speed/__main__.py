"""How fast clipsearch is, against what bounds it and against what one would use instead.

    make bench          # ten minutes; writes bench/results/<date>-<machine>.md, .json and charts
    make bench-quick    # two minutes; writes to build/bench

Runs as `PYTHONPATH=bench .venv-dev/bin/python -m speed [--quick] [--model FOLDER]`. Every figure is
a ratio to a baseline of the same round; bench/README.md says how they are taken. The exit code is 1
if something is slower than in the last committed results.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import RESULTS
from rich.console import Console

from speed import model as models
from speed import suite
from speed.contestants import infinity
from speed.processes import Worker
from speed.targets import outcomes

BUILD = RESULTS.parents[1] / "build" / "bench"

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few short rounds; writes to build/")
    parser.add_argument("--model", type=Path, help="Hugging Face folder [random ViT-B/32]")
    parser.add_argument("--rounds", type=int, help="default: 5, or 2 with --quick")
    arguments = parser.parse_args()
    plan = suite.QUICK if arguments.quick else suite.Plan()
    # What was started ends with this process, and what sleeps is woken first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    begun = time.monotonic()
    BUILD.mkdir(parents=True, exist_ok=True)
    with console.status("") as status:

        def tell(what: str) -> None:
            status.update(f"{what} ...")
            print(f"{time.monotonic()-begun:.0f} {what}", flush=True)

        tell("making the model and infinity_emb's environment, once")
        model, reason = prepare(arguments.model)
        home = None if reason else BUILD / "infinity"
        run = suite.run(model, plan, home, BUILD, tell)
    for o in outcomes(run.rounds):
        print(o.target.title, round(o.median,3), [round(r,3) for r in o.ratios], o.target.bound, o.is_met)
    for k in run.rounds[0]:
        print(k, [round(r[k],2) for r in run.rounds])
    print(run.notes, time.monotonic()-begun)
    return 0


def prepare(given: Path | None) -> tuple[models.Model, str | None]:
    """Makes what is made once: the model's forms, and infinity_emb's environment beside it. Returns
    with the model why there is no infinity_emb, if so."""
    model = models.model_in(BUILD, given)
    with ThreadPoolExecutor(1) as thread:
        installed = thread.submit(infinity.install, BUILD / "infinity")
        if not models.is_made(model):
            with Worker() as worker:  # torch's memory goes with it
                worker.call(models.make, model)
        return model, installed.result()


if __name__ == "__main__":
    sys.exit(main())
