"""``clipsearch add``."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer
from rich.text import Text

from clipsearch import AddItem, AddOutcome, AddResult, Metadata, UnavailableError
from clipsearch.cli.options import CollectionOption, HeaderOption, JsonOption, parse_headers
from clipsearch.cli.output import new_table, show_json, stderr, stdout, visible
from clipsearch.cli.progress import new_progress
from clipsearch.cli.session import ExitCode, connect
from clipsearch.cli.sources import Source, UnreadableError, find_sources

_REFUSED = "refused"
_MAX_REASONS = 20  # refused images that the summary names; --json names them all


def add(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="URLs, image files, and folders, which are searched to the bottom; "
            "`-` reads more of them from stdin, one a line.",
            show_default=False,
        ),
    ],
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Store this with each image. May be repeated."),
    ] = None,
    header: HeaderOption = None,
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Add a few images. Adding a URL or a file again changes nothing.

    For a data set, there is `clipsearch index`, which can be interrupted and goes on.

    The server fetches URLs itself; files are sent to it, with their place as the uri; copies of a
    picture are stored once, with the place of the last. With --json, each image gets a line of its
    own: its source, the outcome, and the image or the error.
    """
    labels = _parse_metadata(metadata or [])
    headers = parse_headers(header or [])
    sought = find_sources(_arguments(sources))
    # A bar between lines of JSON on one terminal would be in the way.
    progress = new_progress(hidden=as_json and stdout.is_terminal)
    task = progress.add_task("adding", total=len(sought.found))
    report = _Report(as_json=as_json, on_each=partial(progress.advance, task))
    with connect(context) as client:
        max_bytes = client.server_info().limits.max_image_bytes
        try:
            with progress:
                items = _items(sought.found, labels, headers, max_bytes, report)
                for result in client.add_images(items, collection=collection):
                    report.record(sought.found[int(result.item_id)], result)
        finally:  # whatever was added before a failure or Ctrl-C is there
            report.show_summary(skipped=sought.skipped)
    if report.refused:
        raise typer.Exit(report.exit_code)


class _Report:
    """What became of each source: told at once as JSON, and counted for the summary."""

    def __init__(self, *, as_json: bool, on_each: Callable[[], None]) -> None:
        self.refused: list[tuple[str, str]] = []
        self.exit_code = ExitCode.INCOMPLETE
        self._as_json = as_json
        self._on_each = on_each
        self._counts: Counter[str] = Counter({AddOutcome.ADDED: 0})
        self._start_s = time.monotonic()

    def record(self, source: Source, result: AddResult) -> None:
        if result.added is not None:
            self._tell(source, result.added.outcome, image=result.added.image)
        elif result.error is not None:
            error = result.error
            if isinstance(error, UnavailableError):  # a part of the server; not the image's fault
                self.exit_code = ExitCode.UNREACHABLE
            self.refuse(source, str(error), code=error.code.name, reason=error.reason)

    def refuse(self, source: Source, message: str, **error: str) -> None:
        self.refused.append((source.name, message))
        self._tell(source, _REFUSED, error={"message": message, **error})

    def _tell(self, source: Source, outcome: str, **details: object) -> None:
        self._counts[outcome] += 1
        if self._as_json:
            show_json({"source": source.name, "outcome": outcome, **details})
        self._on_each()

    def show_summary(self, *, skipped: int) -> None:
        console = stderr if self._as_json else stdout
        if self.refused:
            reasons = new_table(_REFUSED, "why")
            for name, message in self.refused[:_MAX_REASONS]:
                reasons.add_row(Text(visible(name)), Text(visible(message)))
            console.print(reasons)
            if (more := len(self.refused) - _MAX_REASONS) > 0:
                console.print(f"and {more} more; --json names them all\n")
        elapsed_s = time.monotonic() - self._start_s
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self._counts.items())
        passed_over = f"; {skipped} other files passed over" if skipped else ""
        rate = self._counts.total() / elapsed_s
        console.print(f"{counts} in {elapsed_s:.1f} s ({rate:.0f}/s){passed_over}")


def _arguments(sources: Sequence[str]) -> Iterator[str]:
    for source in sources:
        if source == "-":
            # As bytes: a file's name need not be text, and a locale's decoding could refuse it.
            lines = (raw.rstrip(b"\r\n") for raw in sys.stdin.buffer)
            yield from (os.fsdecode(line) for line in lines if line)
        else:
            yield source


def _parse_metadata(pairs: Sequence[str]) -> Metadata:
    metadata = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--metadata")
        metadata[key] = value
    return metadata


def _items(
    sources: Sequence[Source],
    metadata: Metadata,
    headers: Mapping[str, str],
    max_bytes: int,
    report: _Report,
) -> Iterator[AddItem]:
    for number, source in enumerate(sources):
        try:
            item = source.read(str(number), metadata, max_bytes)
        except UnreadableError as error:
            report.refuse(source, str(error))
        else:
            yield item if item.url is None else replace(item, fetch_headers=headers)
