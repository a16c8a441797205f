"""``clipsearch evaluate`` and ``clipsearch linear-probe``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.text import Text

from clipsearch.cli.index.explained import explained
from clipsearch.cli.index.formats import Format
from clipsearch.cli.options import ImagesDirOption, JsonOption
from clipsearch.cli.output import show_error, show_json, stderr, stdout, visible
from clipsearch.cli.progress import new_progress
from clipsearch.cli.session import ExitCode, connect

_KINDS = (Format.COCO, Format.CSV, Format.TSV, Format.JSONL, Format.PARQUET)

KeepOption: TypeAlias = Annotated[
    bool, typer.Option("--keep", help="Keep the collection that the images are added to.")
]
ModelOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="ID",
        help="The model of the server's to evaluate, by its id or fingerprint.",
        show_default="the default collection's",
    ),
]
TemplateOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        metavar="TEXT",
        help="Put texts into this, such as 'a photo of a {}', too. May be repeated.",
    ),
]


def evaluate(
    context: typer.Context,
    captions: Annotated[
        Path,
        typer.Argument(
            metavar="CAPTIONS",
            help="COCO annotations, or a table (CSV, TSV, JSON Lines, Parquet) of images and "
            "captions.",
            show_default=False,
        ),
    ],
    format: Annotated[
        Format | None,
        typer.Option(
            metavar="KIND",
            help=f"The kind of the file: {', '.join(_KINDS)}.",
            show_default="by its name and content",
        ),
    ] = None,
    images_dir: ImagesDirOption = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column of a table that holds a path, a URL, or a stored image's id.",
            show_default="url, image, path, file_name, ...",
        ),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column of a table that holds a caption, or several.",
            show_default="captions, caption, text, ...",
        ),
    ] = None,
    collection: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Evaluate over this collection, in which images are found by id, URL, uri, file "
            "name or content, instead of adding them.",
        ),
    ] = "",
    keep: KeepOption = False,
    model: ModelOption = "",
    template: TemplateOption = None,
    auto_cut: Annotated[
        bool, typer.Option("--auto-cut", help="Count the captions that lose their image by it.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with charts and examples."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well captions find their images.

    Recall at 1, 5 and 10, median rank and MRR, from the exact ranking of all images; and how much
    of that ranking the index finds, and how fast. The images are added to a collection of their
    own, which is deleted at the end; after an interruption the same command goes on. Needs
    clipsearch[evaluate].
    """
    if collection and (keep or model):
        raise typer.BadParameter("--keep and --model are for a collection of its own")
    if report is not None and not report.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {report.parent}", param_hint="--report")
    templates = _templates(template)
    with _explained(captions):
        from clipsearch.cli.evaluate.evaluation import Options
        from clipsearch.cli.evaluate.evaluation import evaluate as measure
        from clipsearch.cli.evaluate.pairs import read_pairs
        from clipsearch.cli.evaluate.steps import NothingToMeasureError
        from clipsearch.cli.evaluate.tables import show_evaluation

        pairs = read_pairs(
            captions,
            format,
            images_dir=images_dir,
            image_column=image_column,
            caption_column=caption_column,
        )
        options = Options(
            collection=collection,
            model=model,
            keep=keep,
            templates=templates,
            auto_cut=auto_cut,
        )
        progress = new_progress(hidden=as_json and stdout.is_terminal)
        try:
            with connect(context) as client, progress:
                evaluation, detail = measure(client, pairs, options, progress)
        except NothingToMeasureError as error:
            show_error(f"{captions}: {error}")
            raise typer.Exit(ExitCode.INCOMPLETE) from error
    if as_json:
        show_json(evaluation)
    else:
        show_evaluation(evaluation)
    if report is not None:
        from clipsearch.cli.evaluate.page import write_page

        with _explained(report):
            write_page(report, captions.name, evaluation, detail)
        stderr.print(Text(visible(f"wrote {report}")))
    if evaluation.problems:
        raise typer.Exit(ExitCode.INCOMPLETE)


def linear_probe(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="A folder with a folder of images for each class; or `train` and `test` with such "
            "folders each.",
            show_default=False,
        ),
    ],
    template: TemplateOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Which fifth of each class to test with, and to choose C by.")
    ] = 0,
    keep: KeepOption = False,
    model: ModelOption = "",
    as_json: JsonOption = False,
) -> None:
    """Measure how well embeddings tell classes of images apart.

    The linear probe of the CLIP paper: a logistic regression on the embeddings, beside the
    zero-shot classifier by the classes' names, in 'a photo of a {}.' unless there is a --template.
    Needs clipsearch[evaluate].
    """
    templates = _templates(template)
    with _explained(folder):
        from clipsearch.cli.evaluate.labelled_folder import read_labelled_folder
        from clipsearch.cli.evaluate.linear_probe import DEFAULT_TEMPLATES, probe_folder
        from clipsearch.cli.evaluate.probe_table import show_probe

        labelled = read_labelled_folder(folder)
        progress = new_progress(hidden=as_json and stdout.is_terminal)
        with connect(context) as client, progress:
            figures, problems = probe_folder(
                client,
                labelled,
                progress,
                model=model,
                templates=templates or DEFAULT_TEMPLATES,
                seed=seed,
                keep=keep,
            )
    if as_json:
        show_json({"figures": figures, "problems": problems})
    else:
        show_probe(figures, problems)
    if problems:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _templates(given: list[str] | None) -> tuple[str, ...]:
    """Ends the command if one has no place for the text: before anything is added, not after."""
    for template in given or ():
        if template.count("{}") != 1:
            raise typer.BadParameter(
                f"{template!r} must have {{}} in one place, where the text goes: a photo of a {{}}",
                param_hint="--template",
            )
    return tuple(given or ())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Ends the command with one line if a file, or what reads it or computes, is at fault."""
    try:
        with explained(path):
            yield
    except ModuleNotFoundError as error:
        if error.name not in {"numpy", "sklearn"}:
            raise
        show_error(
            "evaluate and linear-probe need numpy and scikit-learn; in a checkout of clipsearch: "
            "pip install './client[cli,evaluate]'"
        )
        raise typer.Exit(ExitCode.USAGE) from error
