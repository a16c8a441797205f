"""How things are shown: tables for people, JSON for programs, errors in a line on stderr."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipsearch import Image

stdout = Console(highlight=False)
stderr = Console(highlight=False, stderr=True)

_UNFOLDED = frozenset({"added", "id", "pixels", "score"})


def show_json(value: object) -> None:
    """Writes a value, which may hold dataclasses and times, as one line of JSON to stdout."""
    typer.echo(json.dumps(value, default=_plain))


def _plain(value: Any) -> object:
    return value.isoformat() if isinstance(value, datetime) else asdict(value)


def show_error(message: str) -> None:
    """Writes one line to stderr."""
    typer.echo(f"clipsearch: {message}", err=True)


def new_table(*columns: str) -> Table:
    """Returns a table in this command's style; names and reasons are folded if they must be."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _UNFOLDED)
    return table


def show_facts(facts: dict[str, object]) -> None:
    """Writes names and values in two columns to stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(str(value)))
    stdout.print(table)


def display_name(image: Image) -> str:
    """Returns what a person would call the picture: the ``name`` in its metadata, the last part of
    its uri or URL, or its id."""
    if isinstance(name := image.metadata.get("name"), str) and name:
        return name
    return unquote(PurePosixPath(urlsplit(image.uri or image.url).path).name) or image.id


def linked_name(image: Image) -> Text:
    """Returns the picture's name, which opens the picture in terminals that know links."""
    uri = image.uri or image.url
    return Text(display_name(image), style=f"link {uri}" if uri else "")


def pixels(image: Image) -> str:
    """Returns the image's width and height: ``640 x 480``."""
    return f"{image.width_px} x {image.height_px}"


def human_bytes(size_bytes: int) -> str:
    """Returns a size for people: ``12.3 kB``."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:.1f} MB"
