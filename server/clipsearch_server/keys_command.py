"""The command `clipsearch-server keys`: makes API keys, lists and revokes them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clipsearch_server.callers import Scope
from clipsearch_server.identity.api_keys import hash_of, new_key
from clipsearch_server.identity.key_editing import add_key, revoke_keys
from clipsearch_server.identity.key_file import CALLER_NAME, KeyEntry, KeyFile, parse, read_text

# Of a hash, as much as tells the keys of one name apart.
_ID_LENGTH = 12


def main(argv: Sequence[str]) -> int:
    """Does what the arguments after `keys` say, and returns 0.

    Raises StartupError, with one line, if the file cannot be used. Like argparse, exits on
    arguments that it does not understand.
    """
    arguments = _parser().parse_args(argv)
    file: Path = arguments.file
    match arguments.action:
        case "new":
            _new(file, arguments)
        case "list":
            _list(parse(read_text(file), file))
        case "revoke":
            for key in revoke_keys(file, arguments.name, arguments.id or ""):
                sys.stdout.write(f"revoked {_id(key)} of {key.name}\n")
    return 0


def _new(file: Path, arguments: argparse.Namespace) -> None:
    key, now = new_key(), datetime.now(UTC).replace(microsecond=0)
    entry = KeyEntry(
        name=arguments.name,
        sha256=hash_of(key),
        scopes=arguments.scopes,
        created=now,
        expires=None if arguments.expires is None else now + arguments.expires,
        max_in_flight=arguments.max_in_flight,
        calls_per_second=arguments.calls_per_second,
    )
    add_key(file, entry)
    sys.stderr.write(f"{_line(entry)}\nThis is its key; it is kept nowhere, and not shown again:\n")
    sys.stdout.write(f"{key}\n")


def _list(content: KeyFile) -> None:
    for key in content.keys:
        sys.stdout.write(f"{_line(key)}\n")
    for certificate in content.certificates:
        scopes = ",".join(sorted(certificate.scopes))
        sys.stdout.write(
            f"{'certificate':{_ID_LENGTH}}  {certificate.name}  {scopes}  "
            f"subject {certificate.subject}\n"
        )


def _line(key: KeyEntry) -> str:
    parts = [_id(key), key.name, ",".join(sorted(key.scopes))]
    if key.expires is not None:
        verb = "expired" if key.expires <= datetime.now(UTC) else "expires"
        parts.append(f"{verb} {key.expires.isoformat(timespec='seconds')}")
    if key.max_in_flight is not None:
        parts.append(f"{key.max_in_flight} in flight")
    if key.calls_per_second is not None:
        parts.append(f"{key.calls_per_second:g}/s")
    return "  ".join(parts)


def _id(key: KeyEntry) -> str:
    return key.sha256[:_ID_LENGTH]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipsearch-server keys",
        description="Makes, lists and revokes API keys. A running server follows the file.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a key and print it, once")
    listing = actions.add_parser("list", help="say whose keys there are, and what they may do")
    revoke = actions.add_parser("revoke", help="have the keys of a name, or one of them, refused")
    new.add_argument("name", metavar="NAME", type=_name, help="whose key it is; in the log")
    new.add_argument(
        "--scopes",
        type=_scopes,
        required=True,
        metavar="SCOPE,...",
        help="read: search and read; write: add, change and delete images; admin: collections",
    )
    new.add_argument(
        "--expires", type=_duration, metavar="TIME", help="such as 90d or 12h; otherwise never"
    )
    new.add_argument(
        "--max-in-flight", type=_count, metavar="N", help="calls under way at a time, of the name"
    )
    new.add_argument(
        "--calls-per-second", type=_rate, metavar="X", help="calls in the long run, of the name"
    )
    revoke.add_argument("name", metavar="NAME")
    revoke.add_argument("--id", type=_hash_prefix, help="of the one key, as `keys list` shows it")
    for action in (new, listing, revoke):
        action.add_argument(
            "--file", type=Path, required=True, help="the file of keys: auth.keys_file"
        )
    return parser


def _name(text: str) -> str:
    if not CALLER_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("expected up to 64 letters, digits, -, _, . and @")
    return text


def _hash_prefix(text: str) -> str:
    # Not empty, which would be all of the name's: `--id "$OLD"` where OLD is not set.
    if not re.fullmatch(r"[0-9a-f]{1,64}", text):
        raise argparse.ArgumentTypeError("expected an id, as `keys list` shows it")
    return text


def _scopes(text: str) -> frozenset[Scope]:
    try:
        return frozenset(Scope(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(Scope)}") from error


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,4})([dh])", text)
    if match is None:
        raise argparse.ArgumentTypeError("expected days or hours, such as 90d or 12h")
    return timedelta(**{{"d": "days", "h": "hours"}[match[2]]: int(match[1])})


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError("expected a whole number, 1 or more")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError("expected a number above 0")
    return rate
