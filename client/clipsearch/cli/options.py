"""Options that several commands have."""

from __future__ import annotations

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
