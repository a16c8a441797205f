"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
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
        "--header",
        metavar="NAME: VALUE",
        help="Have the server send this header when it fetches a URL. May be repeated.",
        show_default=False,
    ),
]


def parse_headers(values: Sequence[str]) -> dict[str, str]:
    """Reads the values of ``--header``. Raises BadParameter, which does not repeat the value: it
    may be a secret."""
    headers = {}
    for value in values:
        name, colon, content = value.partition(":")
        if not (colon and name.strip()):
            raise typer.BadParameter("a header is NAME: VALUE", param_hint="--header")
        headers[name.strip()] = content.strip()
    return headers
