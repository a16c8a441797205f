"""``clipsearch index``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.index.columns import ColumnOptions
from clipsearch.cli.index.dry_run import dry_run
from clipsearch.cli.index.entry import EntrySource
from clipsearch.cli.index.explained import explained
from clipsearch.cli.index.failures import SUFFIX as FAILURES_SUFFIX
from clipsearch.cli.index.failures import FailuresFile
from clipsearch.cli.index.formats import Format, open_source
from clipsearch.cli.index.journal import SUFFIX as JOURNAL_SUFFIX
from clipsearch.cli.index.journal import Binding, Journal
from clipsearch.cli.index.report import Report
from clipsearch.cli.index.run import Places, Run
from clipsearch.cli.index.sender import Sending
from clipsearch.cli.options import (
    CollectionOption,
    HeaderOption,
    ImagesDirOption,
    JsonOption,
    MaxInFlightOption,
    WaitOption,
    parse_headers,
)
from clipsearch.cli.session import ExitCode, Server, connect


def index(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of images, a text file of URLs and paths, CSV, TSV, JSON Lines or "
            "Parquet, COCO annotations, a webdataset tar or a folder of such.",
            show_default=False,
        ),
    ] = None,
    retry: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instead of a source: what failed, by the file that a run wrote."
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            metavar="KIND",
            help=f"The kind of the source: {', '.join(Format)}.",
            show_default="by its name and content",
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column of a table that holds a URL or path.",
            show_default="url, image, path, file_name, ...",
        ),
    ] = None,
    metadata_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="The columns of a table to store as metadata.",
            show_default="all others",
        ),
    ] = None,
    images_dir: ImagesDirOption = None,
    header: HeaderOption = None,
    collection: CollectionOption = "",
    dry_run_: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read all of the source and say what would be sent and what is wrong; "
            "needs no server.",
        ),
    ] = False,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to note what is stored.",
            show_default="beside the source",
        ),
    ] = None,
    failures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write what has failed.",
            show_default="beside the source",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget the journal, and send everything.")
    ] = False,
    max_in_flight: MaxInFlightOption = 32,
    wait: WaitOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Index a data set: any number of images, started once and left alone.

    For a few images by hand, there is `clipsearch add`. What is stored is noted in a journal beside
    the source, and what failed in a file with the reasons: after Ctrl-C or a crash of anything, the
    same command goes on where it ended, and `--retry` sends again what failed. With --json, each
    image gets a line of its own.
    """
    columns = ColumnOptions(
        image=image_column,
        metadata=None if metadata_columns is None else tuple(metadata_columns.split(",")),
    )
    headers = parse_headers(header or [])
    places = _places(source, retry, journal, failures)
    server: Server = context.obj
    with explained(places.source):
        entries: EntrySource
        if retry is None:
            entries = open_source(places.source, format, columns, images_dir)
        else:
            entries = FailuresFile(places.source)
        report = Report("checking" if dry_run_ else "indexing", entries.count(), as_json=as_json)
        binding = Binding(places.name, server.target)
        if dry_run_:
            with Journal(places.journal, binding, restart=restart, read_only=True) as known:
                dry_run(entries, known, report, retries_refused=retry is not None)
        else:
            places.check_writable()
            run = Run(places, entries, report, is_retry=retry is not None)
            sending = Sending(
                collection=collection, headers=headers, max_in_flight=max_in_flight, wait_s=wait
            )
            again = _retry_command(server, places, sending)
            with connect(context, on_interrupt=run.stopping.set) as client:
                run(client, binding, sending, restart=restart, again=again)
    if report.failures:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _places(
    source: Path | None, retry: Path | None, journal: Path | None, failures: Path | None
) -> Places:
    if (source is None) == (retry is None):
        raise typer.BadParameter("give either a SOURCE or --retry FILE", param_hint="SOURCE")
    if retry is not None and failures is not None:
        raise typer.BadParameter("--retry rewrites its own file", param_hint="--failures")
    # The name of `.` or `a/..` is that of the folder; a link keeps its own.
    path = Path(os.path.abspath(source or retry or ""))
    name: str | None = path.name
    if retry is not None:
        name = (
            path.name.removesuffix(FAILURES_SUFFIX) if path.name.endswith(FAILURES_SUFFIX) else None
        )
    beside = path.parent / (name or path.name)
    return Places(
        name=name,
        source=path,
        journal=journal or Path(f"{beside}{JOURNAL_SUFFIX}"),
        failures=path if retry is not None else failures or Path(f"{beside}{FAILURES_SUFFIX}"),
    )


def _retry_command(server: Server, places: Places, sending: Sending) -> str:
    """What the user types to send what failed again; the values of headers are not repeated."""
    words = [*server.command, "index", "--retry", str(places.failures)]
    if places.journal != _places(None, places.failures, None, None).journal:
        words += ["--journal", str(places.journal)]
    if sending.collection:
        words += ["--collection", sending.collection]
    hint = " --header ..." if sending.headers else ""
    return shlex.join(words) + hint
