"""``python -m clipsearch_export.demo``: train the demo model, score it, cut its sample pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_EPILOG = """\
stages of train, each resumable and skipped when done:
  collect   fetch drawings and words, render every style       2 minutes
  teach     a sentence encoder reads the phrases               8 minutes
  text      the text tower is distilled from it               15 minutes
  vision    the vision tower is trained to meet it      50 to 70 minutes
(on two cores with AVX-512 and bfloat16; on others longer)
"""


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, run one command; the exit status."""
    arguments = _parser().parse_args(argv)
    # Imported late: --help should not wait for torch.
    from clipsearch_export.demo import pipeline
    from clipsearch_export.demo.sources import SourceError
    from clipsearch_export.demo.teacher import TeacherError

    console = Console()
    try:
        with _progress(console) as progress:
            if arguments.command == "train":
                steps = pipeline.Steps(text=arguments.text_steps, vision=arguments.vision_steps)
                pipeline.train(arguments.work_dir, arguments.out, steps, progress)
            elif arguments.command == "score":
                report = pipeline.score(arguments.work_dir, arguments.checkpoint, progress)
                arguments.out.mkdir(parents=True, exist_ok=True)
                (arguments.out / "scores.json").write_text(report.as_json(), "utf-8")
                (arguments.out / "scores.md").write_text(report.as_markdown(), "utf-8")
            else:
                pipeline.samples(arguments.work_dir, arguments.out, progress)
    except (SourceError, TeacherError) as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        return 1
    console.print(f"wrote {arguments.out}", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clipsearch_export.demo",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    work = Path("build/demo-model")
    train = commands.add_parser("train", help="make the checkpoint, from nothing")
    train.add_argument("--out", type=Path, default=work / "checkpoint", help="Hugging Face folder")
    train.add_argument("--text-steps", type=int, default=6000)
    train.add_argument("--vision-steps", type=int, default=13000)
    score = commands.add_parser("score", help="measure a checkpoint; writes scores.json, scores.md")
    score.add_argument("--checkpoint", type=Path, default=work / "checkpoint")
    score.add_argument("--out", type=Path, default=work / "scores", help="folder for the two files")
    samples = commands.add_parser("samples", help="cut the sample pictures from Noto")
    samples.add_argument("--out", type=Path, default=Path("demo/pictures"))
    for command in (train, score, samples):
        command.add_argument(
            "--work-dir", type=Path, default=work, help="downloads and everything half-done"
        )
    return parser


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


if __name__ == "__main__":
    sys.exit(main())
