"""``clipsearch query``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from clipsearch import QueryResult
from clipsearch.cli.options import MAX_COUNT, CollectionOption, JsonOption
from clipsearch.cli.output import (
    linked_name,
    new_table,
    pixels,
    show_error,
    show_json,
    stderr,
    stdout,
    visible,
)
from clipsearch.cli.session import ExitCode, connect
from clipsearch.cli.sheet import write_sheet


def query(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What the picture shows.", show_default=False)],
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=1,
            max=MAX_COUNT,
            help="How many hits at most.  [default: the server's]",
            show_default=False,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, help="Leave out hits of a lower cosine similarity."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the hits, with their scores, as a picture."),
    ] = None,
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Find the images that a text describes, best first."""
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise typer.BadParameter("the file's name must end in .png", param_hint="--sheet")
    with connect(context) as client:
        result = client.query_text(
            text, limit=limit or 0, score_threshold=min_score, collection=collection
        )
    if result.truncated:
        stderr.print(f"the text was cut to the model's limit of {result.token_count} tokens")
    if as_json:
        show_json(result)
    else:
        _show(result)
    if sheet is not None:
        _draw(text, result, sheet)


def _show(result: QueryResult) -> None:
    if not result.hits:
        stdout.print("nothing found")
        return
    table = new_table("#", "score", "picture", "pixels", "id")
    for rank, hit in enumerate(result.hits, start=1):
        image = hit.image
        table.add_row(str(rank), f"{hit.score:.3f}", linked_name(image), pixels(image), image.id)
    stdout.print(table)
    if stages := _stages(result):
        stderr.print(stages)


def _stages(result: QueryResult) -> str:
    return ", ".join(f"{name} {taken:.1f} ms" for name, taken in result.timings_ms.items())


def _draw(text: str, result: QueryResult, file: Path) -> None:
    try:
        write_sheet(file, text, result.hits, subtitle=_stages(result))
    except OSError as error:
        show_error(f"{file}: {error.strerror or error}")
        raise typer.Exit(ExitCode.USAGE) from error
    stderr.print(Text(visible(f"drew {file}")))
