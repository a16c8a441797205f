"""How things are shown: tables for people, JSON for programs, errors in a line on stderr."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from datetime import datetime
from io import TextIOWrapper
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

_WHOLE = frozenset({"added", "pixels", "score"})  # columns that are never folded
_ROOM_FOR_IDS = 72

# C0, DEL and C1: with these a name could clear the reader's screen, or retitle the window.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LINKABLE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")


def show_everything() -> None:
    """Has a terminal that knows less than Unicode get escapes in place of what it lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_json(value: object) -> None:
    """Writes a value, which may hold dataclasses and times, as one line of JSON to stdout."""
    typer.echo(json.dumps(value, default=_plain))


def _plain(value: Any) -> object:
    return value.isoformat() if isinstance(value, datetime) else asdict(value)


def show_error(message: str) -> None:
    """Writes one line to stderr."""
    typer.echo(f"clipsearch: {visible(message)}", err=True)


def visible(text: str) -> str:
    """Returns what came from others as a terminal may show it: control characters as escapes."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def new_table(*columns: str) -> Table:
    """Returns a table in this command's style; names and reasons are folded if they must be, and
    ids where the terminal is too narrow for them."""
    whole = _WHOLE | {"id"} if stdout.width >= _ROOM_FOR_IDS else _WHOLE
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        min_width = 8 if column == "picture" else None
        table.add_column(column, overflow="fold", no_wrap=column in whole, min_width=min_width)
    return table


def show_facts(facts: dict[str, object]) -> None:
    """Writes names and values in two columns to stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(visible(name)), Text(visible(str(value))))
    stdout.print(table)


def display_name(image: Image) -> str:
    """Returns what a person would call the picture: the ``name`` in its metadata, the last part of
    its uri or URL, or its id."""
    if isinstance(name := image.metadata.get("name"), str) and name:
        return name
    label = image.uri or image.url
    try:
        path = urlsplit(label).path
    except ValueError:  # a uri is any label
        return label
    return unquote(PurePosixPath(path).name) or image.id


def linked_name(image: Image) -> Text:
    """Returns the picture's name, which opens the picture in terminals that know links."""
    uri = image.uri or image.url
    link = f"link {uri}" if _LINKABLE.fullmatch(uri) else ""
    return Text(visible(display_name(image)), style=link)


def pixels(image: Image) -> str:
    """Returns the image's width and height: ``640 x 480``."""
    return f"{image.width_px} x {image.height_px}"


def human_bytes(size_bytes: int) -> str:
    """Returns a size for people: ``12.3 kB``."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:.1f} MB"
