"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

CollectionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--collection", metavar="NAME", help="A collection other than the server's default."
    ),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")
]
IdArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="The image's id, a UUID.", show_default=False)
]
