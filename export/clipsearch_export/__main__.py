"""The command `clipsearch-export`, behind `make export-models`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clipsearch_export.card import ModelCard
from clipsearch_export.checkpoint import DEMO, CheckpointError, load_checkpoint
from clipsearch_export.parity import Stage, check_parity
from clipsearch_export.precision import Precision, export_in, round_weights
from clipsearch_export.repository import (
    replace_model_folder,
    staging_folder,
    write_model_folder,
)
from clipsearch_export.triton import Backend

# Exit statuses: 0 exported, 1 the gate refused, 2 the arguments name nothing that can be exported
# or written to.
REFUSED = 1
UNUSABLE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with the process's arguments, or the given ones; returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        with _errors_alone_logged():
            return _export(arguments, Console())
    except CheckpointError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or arguments.out}: {error.strerror or error}"
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipsearch-export",
        description="Exports a CLIP checkpoint to the model folder that clipsearch and Triton "
        "read, and compares it with the checkpoint before it replaces what is there.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face hub id, a local Hugging Face folder, or "
        f"'{DEMO}' for the model that ships with clipsearch-server",
    )
    parser.add_argument(
        "--precision",
        type=Precision,
        choices=list(Precision),
        default=Precision.FP32,
        help="fp32 (default); fp16 for GPUs; int8: weights alone; int8-dynamic: fastest on CPUs, "
        "but an embedding depends a little on its batch",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("triton_models"),
        help="model folder (default: %(default)s)",
    )
    parser.add_argument(
        "--min-cosine",
        type=float,
        help="lowest cosine with PyTorch's embeddings that is accepted (default: 0.9999 for fp32, "
        "0.999 for fp16, 0.98 for both kinds of int8)",
    )
    parser.add_argument(
        "--half-weights",
        action="store_true",
        help="with fp32: round the weights to float16 and store those, half the size; arithmetic "
        "stays in float32",
    )
    parser.add_argument(
        "--backend",
        type=Backend,
        choices=list(Backend),
        default=Backend.ONNXRUNTIME,
        help="which of Triton's backends runs the files: onnxruntime (default), or python, for "
        "builds of Triton without it; the server's own encoder reads both alike",
    )
    parser.add_argument("--model-id", help="name in the model card (default: the hub id or folder)")
    return parser


def _export(arguments: argparse.Namespace, console: Console) -> int:
    precision: Precision = arguments.precision
    out: Path = arguments.out.resolve()
    if arguments.half_weights and precision is not Precision.FP32:
        _parser().error("--half-weights goes with --precision fp32 alone")
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


if __name__ == "__main__":
    sys.exit(main())
