"""The flags, and what ``--help`` says of them."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Sequence
from inspect import getdoc

from clipsearch_server.configuration.names import flag, group_of, no_such_setting, settings_of


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser with a flag for each setting, whose value is under its dotted name; None
    where it is not given."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--config FILE] [SETTINGS]",
        description=description,
        epilog="Each setting may also come from the environment (--fetch-timeout-s as "
        "CLIPSEARCH_FETCH_TIMEOUT_S) or from the TOML file (timeout_s in [fetch]); a flag wins "
        "over the environment, and that over the file. `clipsearch-server config --show` prints "
        "what is in effect, and where it comes from; `clipsearch-server keys` makes API keys.",
        allow_abbrev=False,  # a shorter name is another setting's one day
    )
    version = importlib.metadata.version("clipsearch-server")
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    sections: dict[tuple[str, ...], argparse._ArgumentGroup] = {}
    sections[()] = parser.add_argument_group("settings")
    for setting in settings_of():
        group = setting.path[:-1]
        if group not in sections:
            purpose = (getdoc(group_of(setting.path)) or "").splitlines()[0]
            sections[group] = parser.add_argument_group(".".join(group), purpose)
        sections[group].add_argument(
            setting.flag,
            dest=setting.name,
            action="append" if setting.is_list else "store",
            # A flag alone switches on: --insecure, --triton-tls.
            nargs="?" if setting.is_switch else None,
            const="true" if setting.is_switch else None,
            metavar=setting.takes,
            help=f"{setting.field.description} [{setting.default}]".replace("%", "%%"),
        )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Like ``parse_args``, but says which flag was meant."""
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        given = unknown[0].partition("=")[0]
        is_flag = given.startswith("-")
        what = no_such_setting(given, flag) if is_flag else "there is no such command"
        parser.error(f"{given}: {what}")
    return flags
