"""The command `clipsearch-export`, behind `make export-models`: its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clipsearch_export.choices import DEMO, Backend, Precision


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with the process's arguments, or the given ones; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.half_weights and arguments.precision is not Precision.FP32:
        parser.error("--half-weights goes with --precision fp32 alone")
    # Imported only here: torch and transformers take seconds, which --help need not.
    from clipsearch_export.command import run

    return run(arguments)


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


if __name__ == "__main__":
    sys.exit(main())
