"""``clipsearch reembed``."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from clipsearch.cli.index.failures import SUFFIX
from clipsearch.cli.options import (
    HeaderOption,
    JsonOption,
    MaxInFlightOption,
    WaitOption,
    parse_headers,
)
from clipsearch.cli.output import show_error, stderr, stdout
from clipsearch.cli.reembed.job import Job, Options
from clipsearch.cli.reembed.originals import Originals
from clipsearch.cli.reembed.plan import NothingToDo, PlanError, make_plan
from clipsearch.cli.reembed.survey import dry_run, survey
from clipsearch.cli.session import ExitCode, connect


def reembed(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model to embed them with: its id, or 8 digits of its fingerprint.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The collection whose images are to be embedded, or an alias.",
            show_default="the server's default collection",
        ),
    ] = "",
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The collection to fill, which is created if need be.",
            show_default="the source's name with the next number",
        ),
    ] = "",
    images_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Where else the images may be, by the names of their files.",
        ),
    ] = None,
    header: HeaderOption = None,
    dry_run_: Annotated[
        bool,
        typer.Option("--dry-run", help="Change nothing, and say which images can be had."),
    ] = False,
    keep_alias: Annotated[
        bool, typer.Option("--keep-alias", help="Fill the collection, and switch nothing.")
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Switch even if some images could not be embedded."),
    ] = False,
    failures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write what has failed.",
            show_default=f"NAME{SUFFIX}",
        ),
    ] = None,
    max_in_flight: MaxInFlightOption = 32,
    wait: WaitOption = 60.0,
    settle: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=86_400,
            help="How long to go on looking after the switch for what was on its way to the old "
            "collection.",
        ),
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Embed a collection's images with another model, and switch to it.

    Fills another collection, while the old one is searched and added to as ever, and lets the
    aliases of the old one stand for it at the end: all of them, or the one given as SOURCE. No
    collection ever holds embeddings of two models, and the old one is kept. Images are fetched anew
    from their URLs, or read from the files that their uris name. After Ctrl-C or a crash of
    anything, the same command goes on where it ended. With --json, each image gets a line.
    """
    options = Options(
        headers=parse_headers(header or []),
        max_in_flight=max_in_flight,
        wait_s=wait,
        settle_s=settle,
        allow_missing=allow_missing,
        failures=failures,
        as_json=as_json,
    )
    stopping = Event()
    try:
        with connect(context, on_interrupt=stopping.set) as client:
            plan = make_plan(client, source=source, model=model, target=to, keep_alias=keep_alias)
            found = survey(client, plan)
            max_bytes = client.server_info().limits.max_image_bytes
            originals = Originals(images_dir, max_bytes=max_bytes)
            if dry_run_:
                is_complete = dry_run(client, plan, originals, found, as_json=as_json)
            else:
                job = Job(context.obj, plan, found, originals, options, stopping)
                is_complete = job.run(client)
    except NothingToDo as nothing:
        (stderr if as_json else stdout).print(f"{nothing}: nothing to do")
        return
    except PlanError as error:
        show_error(str(error))
        raise typer.Exit(ExitCode.USAGE) from error
    if not is_complete:
        raise typer.Exit(ExitCode.INCOMPLETE)
