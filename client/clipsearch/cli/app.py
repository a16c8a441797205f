"""The command's face: its global options, its commands and what its exit codes mean."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import add, collections, images, info, transfer
from clipsearch.cli.evaluate import command as evaluate
from clipsearch.cli.index import command as index
from clipsearch.cli.output import show_everything
from clipsearch.cli.query import command as query
from clipsearch.cli.reembed import command as reembed
from clipsearch.cli.session import DEFAULT_SERVER, Server

_EPILOG = """
**Examples**

    clipsearch add ~/Pictures https://example.com/cat.jpg

    clipsearch index photographs.csv

    clipsearch query "a black cat" -n 5 --sheet cats.png

    clipsearch query --image cat.jpg --not "a dog" --where "width >= 640"

    clipsearch dump pictures.parquet

    clipsearch --server search.example.com:443 --tls --api-key-file key list --json

**Exit codes**

    0  everything was done
    1  some images or texts were refused, or there is no such image
    2  the command line, or a value in it, is wrong
    3  the server cannot be reached, or did not answer in time
    4  the server refused or failed
    130  interrupted
"""

app = typer.Typer(
    name="clipsearch",
    help="Find images by describing them.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipsearch {version('clipsearch')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    server: Annotated[
        str,
        typer.Option(
            envvar="CLIPSEARCH_SERVER", metavar="HOST:PORT", help="Where the server listens."
        ),
    ] = DEFAULT_SERVER,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            max=86_400,
            help="How long to wait for an answer, retries included.",
        ),
    ] = 30.0,
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt, and trust the system's certificates.")
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Encrypt, and trust the root certificates in this PEM file.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="File that holds your API key; otherwise it is what the environment variable "
            "CLIPSEARCH_API_KEY says. No option takes the key itself: the list of processes would "
            "show it to other users of this machine.",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Encrypt, and show the server the certificate in this PEM file; with --key.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="The private key of --cert, a PEM file.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    show_everything()
    context.obj = Server(
        target=server,
        timeout_s=timeout,
        tls=tls,
        ca_file=ca,
        api_key=_api_key(api_key_file),
        api_key_file=api_key_file,
        cert_file=cert,
        key_file=key,
    )


def _api_key(file: Path | None) -> str | None:
    """Returns the key in the file, or in the environment. Raises BadParameter, which shows none."""
    if file is None:
        return os.environ.get("CLIPSEARCH_API_KEY") or None  # noqa: TID251
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "holds no key"
        raise typer.BadParameter(f"{file}: {reason}", param_hint="--api-key-file") from error


app.command()(add.add)
app.command()(index.index)
app.command()(reembed.reembed)
app.command()(query.query)
app.command()(images.get)
app.command(name="list")(images.list_images)
app.command()(images.delete)
app.command()(transfer.dump)
app.command()(transfer.load)
app.add_typer(collections.app, name="collections")
app.command()(evaluate.evaluate)
app.command()(evaluate.linear_probe)
app.command()(info.info)
