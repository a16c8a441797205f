"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

MAX_COUNT = 2**31 - 1  # of the contract's int32

CollectionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--collection", metavar="NAME", help="A collection other than the server's default."
    ),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")
]
HeaderOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="'NAME: VALUE'|@FILE",
        help="Have the server send this to the URLs' hosts, such as Authorization. May be "
        "repeated. The list of processes shows it to other users of this machine: @FILE reads "
        "headers from a file instead, one a line.",
    ),
]
ImagesDirOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="Where the images of COCO annotations are; else they are fetched by URL.",
    ),
]
MaxInFlightOption: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=1, max=1024, help="Images that are under way at a time.")
]
WaitOption: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        max=86_400 * 7,
        help="How long to wait for a server that goes away in the middle.",
    ),
]


def parse_headers(arguments: Sequence[str]) -> dict[str, str]:
    """Reads the values of ``--header``. Raises BadParameter, which shows no value: it is secret."""
    lines: list[str] = []
    for argument in arguments:
        if not argument.startswith("@"):
            lines.append(argument)
            continue
        try:
            content = Path(argument[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise typer.BadParameter(f"{argument[1:]}: {reason}", param_hint="--header") from error
        lines += [line for line in content.splitlines() if line.strip()]
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter("expected 'NAME: VALUE' or @FILE", param_hint="--header")
        if name.strip().lower() in map(str.lower, headers):
            raise typer.BadParameter("one header is given twice", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers
