"""Writes docs/settings.md: `make docs` does. Run as
``python -m clipsearch_server.configuration.reference``."""

from __future__ import annotations

import sys
from inspect import getdoc
from typing import Literal, get_args, get_origin

from clipsearch_server.configuration.names import Setting, group_of, settings_of

_HEAD = """\
# Settings

<!-- Written by `make docs` from the settings themselves: change those. -->

Every setting of `clipsearch-server`, by its place in the TOML file that `--config` or
`CLIPSEARCH_CONFIG` names: `fetch.timeout_s` is `timeout_s` in the table `[fetch]`. A flag wins over
an environment variable, that over the file, and that over the default. A list is one in TOML
(`ports = ["80", "443"]`), and a text with commas elsewhere (`80,443`); a flag for a list may be
given several times.

`clipsearch-server config --show` prints what is in effect, and where each value comes from. A name
that is no setting's, in any of the three, keeps the server from starting, and it says which may
have been meant.
"""

_TABLE = """
| setting | flag, variable | takes | default | |
|---|---|---|---|---|
"""

_KINDS = {
    "A,B,...": "list",
    "DIR": "folder",
    "FILE": "file",
    "KEY": "secret",
    "N": "whole number",
    "TEXT": "text",
    "X": "number",
    "true|false": "`true`, `false`",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def reference() -> str:
    """Returns the whole document."""
    text = _HEAD
    group: tuple[str, ...] | None = None
    for setting in settings_of():
        if setting.path[:-1] != group:
            group = setting.path[:-1]
            if group:
                purpose = " ".join((getdoc(group_of(setting.path)) or "").split())
                text += f"\n## {'.'.join(group)}\n\n{purpose}\n"
            else:
                text += "\n## The server\n"
            text += _TABLE
        text += _row(setting)
    return text


def _row(setting: Setting) -> str:
    cells = (
        f"`{setting.name}`",
        f"`{setting.flag}` `{setting.variable}`",
        _takes(setting),
        f"`{setting.default}`",
        str(setting.field.description),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _takes(setting: Setting) -> str:
    if get_origin(setting.field.annotation) is Literal:
        return ", ".join(f"`{it}`" for it in get_args(setting.field.annotation))
    # As pydantic keeps them, whose constraints are annotated_types'.
    bounds = [
        f"{word} {getattr(constraint, attribute)}"
        for constraint in setting.field.metadata
        for attribute, word in _BOUNDS.items()
        if hasattr(constraint, attribute)
    ]
    return ", ".join([_KINDS[setting.takes], *bounds])


if __name__ == "__main__":
    sys.stdout.write(reference())
