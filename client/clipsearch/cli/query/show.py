"""What was found: tables, sheets, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import typer
from rich.text import Text

from clipsearch import QueryResult, TextResult
from clipsearch.cli.output import (
    display_name,
    linked_name,
    new_table,
    pixels,
    show_error,
    stderr,
    stdout,
    visible,
)
from clipsearch.cli.query.terms import Term
from clipsearch.cli.session import ExitCode
from clipsearch.cli.sheet import write_sheet

_SHOWN = 200  # characters of a text in a table


def tell_what_was_cut(result: QueryResult, terms: Sequence[Term]) -> None:
    """Says which texts were too long, on stderr."""
    if result.truncated_terms:
        names = ", ".join(str(terms[place]) for place in result.truncated_terms)
        stderr.print(Text(visible(f"cut to the model's limit: {names}")))
    elif result.truncated:
        stderr.print(f"the text was cut to the model's limit of {result.token_count} tokens")


def show_hits(result: QueryResult, *, is_first_page: bool, counts_alike: bool) -> None:
    """Writes a table to stdout, and to stderr how it came about and how to go on."""
    if not result.hits:
        stdout.print(_nothing(result) if is_first_page else "no more hits")
        return
    alike = ["alike"] if counts_alike else []
    table = new_table("#", "score", "picture", *alike, "pixels", "id")
    for rank, hit in enumerate(result.hits, start=1):
        image = hit.image
        count = f"+{hit.near_duplicate_count}" if hit.near_duplicate_count else ""
        more = [count] if counts_alike else []
        score = f"{hit.score:.3f}"
        table.add_row(str(rank), score, linked_name(image), *more, pixels(image), image.id)
    stdout.print(table)
    if stages := _stages(result):
        stderr.print(stages)
    if result.cut_off is not None:
        stderr.print(
            "too few images for --auto-cut to judge by: nothing was left out"
            if _is_unjudged(result)
            else f"left out what scored below {result.cut_off:.3f}"
        )
    if result.next_page_token:
        # In one piece, however narrow the terminal is: it is there to be copied.
        typer.echo(f"more hits: --page-token {visible(result.next_page_token)}", err=True)


def show_texts(results: Iterable[TextResult]) -> int:
    """Writes a table with a line a text to stdout; returns how many were refused."""
    table = new_table("text", "score", "pictures")
    refused = 0
    for found in results:
        score, pictures = "", Text()
        if found.error is not None:
            refused += 1
            pictures = Text(visible(f"refused: {found.error}"))
        elif found.result is not None and found.result.hits:
            score = f"{found.result.hits[0].score:.3f}"
            names = [display_name(hit.image) for hit in found.result.hits]
            pictures = Text(visible(", ".join(names)))
        elif found.result is not None:
            pictures = Text(_nothing(found.result))
        table.add_row(Text(visible(_shortened(found.text))), score, pictures)
    if table.row_count:
        stdout.print(table)
    else:
        stderr.print("there are no texts in it")
    return refused


def draw_hits(title: str, result: QueryResult, file: Path) -> None:
    """Draws a sheet. Ends the command if the file cannot be written."""
    subtitle = _stages(result) if result.hits else _nothing(result)
    try:
        write_sheet(file, title, result.hits, subtitle=subtitle)
    except OSError as error:
        show_error(f"{file}: {error.strerror or error}")
        raise typer.Exit(ExitCode.USAGE) from error
    stderr.print(Text(visible(f"drew {file}")))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _nothing(result: QueryResult) -> str:
    if result.cut_off is None or _is_unjudged(result):
        return "nothing found"
    return f"nothing really matches (the best score was below {result.cut_off:.3f})"


def _is_unjudged(result: QueryResult) -> bool:
    """Whether the automatic cut let everything pass: no score is lower than -1."""
    return result.cut_off == -1


def _stages(result: QueryResult) -> str:
    return ", ".join(f"{name} {taken:.1f} ms" for name, taken in result.timings_ms.items())
