"""What the command `clipsearch-export` does with its arguments."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clipsearch_export.card import ModelCard
from clipsearch_export.checkpoint import CheckpointError, load_checkpoint
from clipsearch_export.choices import Precision
from clipsearch_export.parity import Stage, check_parity
from clipsearch_export.precision import export_in, round_weights
from clipsearch_export.repository import (
    replace_model_folder,
    staging_folder,
    write_model_folder,
)

# Exit statuses: 0 exported, 1 the gate refused, 2 the arguments name nothing that can be exported
# or written to.
REFUSED = 1
UNUSABLE = 2


def run(arguments: argparse.Namespace) -> int:
    """Exports what the arguments say; returns the exit status."""
    try:
        with _errors_alone_logged():
            return _export(arguments, Console())
    except CheckpointError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or arguments.out}: {error.strerror or error}"
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    return UNUSABLE


def _export(arguments: argparse.Namespace, console: Console) -> int:
    precision: Precision = arguments.precision
    out: Path = arguments.out.resolve()
    min_cosine = precision.min_cosine if arguments.min_cosine is None else arguments.min_cosine
    with _step(console, f"Loading {arguments.model}"):
        original = load_checkpoint(arguments.model)
        if arguments.model_id:
            original = dataclasses.replace(original, model_id=arguments.model_id)
    checkpoint = round_weights(original) if arguments.half_weights else original
    with staging_folder(out) as staged:
        with _step(console, f"Exporting both towers in {precision}"):
            card = ModelCard.of(checkpoint, precision)
            towers = export_in(precision, checkpoint, half_weights=arguments.half_weights)
            write_model_folder(staged, checkpoint, card, towers, arguments.backend)
        with _step(console, "Comparing with PyTorch"):
            stages = check_parity(staged, original, min_cosine=min_cosine)
        console.print(_table(f"{card.model_id} in {precision}", stages))
        if not all(stage.passed for stage in stages):
            console.print(
                f"The export differs too much from its checkpoint; {out} is as it was.",
                style="red",
                soft_wrap=True,
            )
            return REFUSED
        size = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
        replace_model_folder(staged, out)
    console.print(
        f"{out}: {size / 1e6:.1f} MB, fingerprint {card.fingerprint[:12]}", soft_wrap=True
    )
    return 0


@contextmanager
def _errors_alone_logged() -> Iterator[None]:
    """ONNX Runtime's quantiser sets the root logger to INFO at import, and says much there."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    """Shows what is going on, then how long it took."""
    start = time.perf_counter()
    with console.status(f"{what} ..."):
        yield
    console.print(f"{what}: {time.perf_counter() - start:.1f} s", highlight=False)


def _table(title: str, stages: Sequence[Stage]) -> Table:
    table = Table(title=f"Parity of {title}")
    table.add_column("stage")
    for column in ("samples", "worst", "mean", "required"):
        table.add_column(column, justify="right")
    table.add_column("")
    for stage in stages:
        table.add_row(
            stage.name,
            str(len(stage.agreement)),
            "-" if stage.required is None else f"{stage.worst:.7f}",
            f"{stage.mean:.7f}",
            "-" if stage.required is None else f"{stage.required:g}",
            "[green]ok[/]" if stage.passed else "[red]refused[/]",
        )
    return table
