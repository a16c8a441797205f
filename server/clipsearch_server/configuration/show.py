"""`clipsearch-server config`: the settings in effect, and where each value comes from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from clipsearch_server.configuration.command_line import parse, parser
from clipsearch_server.configuration.names import settings_of
from clipsearch_server.configuration.sources import Loaded, load
from clipsearch_server.settings import Settings

_MASK = "***"
_MAX_COLUMN = 60  # where origins begin, at most


def show(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:  # noqa: TID251
    """Prints what a server would run with that is started with these arguments; returns 0.

    Secrets are masked. Raises StartupError as that server would, for what the settings alone tell.
    """
    command = parser(
        "clipsearch-server config",
        "Prints the settings in effect, each with its origin, secrets masked. Fails as a server "
        "would if one is wrong, names a file that is missing, or does not go with another; it does "
        "not open files, look up whether others can reach the address, or connect.",
    )
    command.add_argument("--show", action="store_true", help="print as TOML, which is the default")
    command.add_argument("--json", action="store_true", help="print as one JSON object")
    flags = parse(command, argv)
    loaded = load(flags, environ)
    sys.stdout.write(_as_json(loaded) if flags.json else _as_toml(loaded))
    return 0


def _as_json(loaded: Loaded) -> str:
    values = {
        name: {"value": value, "origin": str(loaded.origins[name])}
        for name, value in _values(loaded.settings)
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _as_toml(loaded: Loaded) -> str:
    """Returns a file that says the same, but for secrets."""
    lines: list[tuple[str, str]] = []  # and the comment at its end
    table = ""
    for name, value in _values(loaded.settings):
        group, _, key = name.rpartition(".")
        if group != table:
            table = group
            lines += [("", ""), (f"[{table}]", "")]
        # JSON's texts, numbers, booleans and lists are TOML's too; it has no word for nothing.
        known = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        lines.append((f"# {key} =" if value is None else known, str(loaded.origins[name])))
    width = max(len(line) for line, _ in lines if len(line) <= _MAX_COLUMN)
    return "".join(
        f"{line:{width}}  # {origin}\n" if origin else f"{line}\n" for line, origin in lines
    )


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Returns the dotted name and the JSON value of each setting, secrets masked."""
    tree = settings.model_dump(mode="json")
    for setting in settings_of():
        value: Any = tree
        for name in setting.path:
            value = value[name]
        yield setting.name, _masked(value) if setting.is_secret and value else value


def _masked(value: Any) -> str:
    """Returns a URL without the password in it, and of anything else nothing."""
    url = urlsplit(str(value))
    if not url.netloc:
        return _MASK
    _, at, host = url.netloc.rpartition("@")
    return url._replace(netloc=_MASK + at + host if at else host).geturl()
