"""``clipsearch collections``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from clipsearch import Collection, FieldType, IndexedField
from clipsearch.cli.options import JsonOption
from clipsearch.cli.output import (
    new_table,
    show_error,
    show_facts,
    show_json,
    stdout,
    visible,
)
from clipsearch.cli.session import ExitCode, connect

_TYPES = [str(it) for it in FieldType if it is not FieldType.UNSPECIFIED]

app = typer.Typer(
    help="List, make, change and delete collections, and the aliases that stand for them.",
    no_args_is_help=True,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The collection's name.", show_default=False)
]
NameOrAliasArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The collection's name, or an alias.", show_default=False),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Put each query's text in place of the {} in this, such as 'a photo of a {}'; with "
        "several, their embeddings are averaged. May be repeated.",
    ),
]
IndexOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD:TYPE",
        help=f"Index this field of the metadata, so that filters on it are fast; types are "
        f"{', '.join(_TYPES)}. May be repeated.",
    ),
]


@app.command(name="list")
def list_collections(context: typer.Context, as_json: JsonOption = False) -> None:
    """List all collections.

    With --json, each gets a line of its own.
    """
    with connect(context) as client:
        collections = client.list_collections()
    if as_json:
        for it in collections:
            show_json(it)
        return
    table = new_table("collection", "aliases", "images", "model", "dimensions", "")
    for it in collections:
        marks = [*(["default"] * it.is_default), *(["not loaded"] * (not it.model_loaded))]
        cells = (it.name, ", ".join(it.aliases), f"{it.image_count:,}", it.model_id)
        texts = (*cells, str(it.embedding_dim), ", ".join(marks))
        table.add_row(*(Text(visible(text)) for text in texts))
    stdout.print(table)


@app.command()
def show(context: typer.Context, name: NameOrAliasArgument, as_json: JsonOption = False) -> None:
    """Show what a collection is."""
    with connect(context) as client:
        collection = client.get_collection(name)
    _show(collection, as_json=as_json)


@app.command()
def create(
    context: typer.Context,
    name: NameArgument,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model to fill it with: its id, or 8 digits of its fingerprint.",
            show_default="that of the default collection",
        ),
    ] = "",
    template: TemplateOption = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an empty collection."""
    fields = _fields(index or [])
    with connect(context) as client:
        collection = client.create_collection(
            name, model=model, prompt_templates=template or (), indexed_fields=fields
        )
    _show(collection, as_json=as_json)


@app.command()
def update(
    context: typer.Context,
    name: NameOrAliasArgument,
    template: TemplateOption = None,
    no_templates: Annotated[
        bool, typer.Option("--no-templates", help="Embed the texts of queries as they are.")
    ] = False,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a collection's templates, in place of those that it has, or index more fields."""
    if template and no_templates:
        raise typer.BadParameter("either this or --template", param_hint="--no-templates")
    if not (template or no_templates or index):
        raise typer.BadParameter(
            "nothing to change: give --template, --no-templates or --index", param_hint="NAME"
        )
    fields = _fields(index or [])
    with connect(context) as client:
        collection = client.update_collection(
            name,
            prompt_templates=template or (() if no_templates else None),
            add_indexed_fields=fields,
        )
    _show(collection, as_json=as_json)


@app.command()
def delete(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a collection with every image in it, for good.

    Asks for the name again if there are images in it. The default collection cannot be deleted, nor
    one that has an alias.
    """
    with connect(context) as client:
        collection = client.get_collection(name)
    if collection.name != name:
        show_error(f"{name} is an alias of {collection.name}; `unalias` removes an alias")
        raise typer.Exit(ExitCode.USAGE)
    if collection.image_count and not yes:
        _confirm(collection)
    # What was not seen to hold images is not deleted with any.
    confirmed = name if collection.image_count or yes else ""
    with connect(context) as client:
        client.delete_collection(name, confirm_name=confirmed)
    if as_json:
        show_json({"name": name, "images": collection.image_count, "deleted": True})
    else:
        stdout.print(f"{name} deleted, {collection.image_count:,} images")


@app.command()
def alias(
    context: typer.Context,
    alias: Annotated[
        str, typer.Argument(metavar="ALIAS", help="The other name.", show_default=False)
    ],
    collection: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION", help="The collection that it is to stand for.", show_default=False
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Let a name stand for a collection, from one moment to the next."""
    with connect(context) as client:
        previous = client.set_alias(alias, collection)
    if as_json:
        show_json({"alias": alias, "collection": collection, "previous_collection": previous})
    else:
        before = f", and no longer for {previous}" if previous not in ("", collection) else ""
        stdout.print(f"{alias} stands for {collection}{before}")


@app.command()
def unalias(
    context: typer.Context,
    alias: Annotated[
        str, typer.Argument(metavar="ALIAS", help="The name to forget.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Remove an alias; the collection stays."""
    with connect(context) as client:
        client.delete_alias(alias)
    if as_json:
        show_json({"alias": alias, "deleted": True})
    else:
        stdout.print(f"{alias} stands for nothing any more")


def _show(collection: Collection, *, as_json: bool) -> None:
    if as_json:
        show_json(collection)
        return
    fields = (f"{it.field} ({it.type})" for it in collection.indexed_fields)
    show_facts(
        {
            "collection": f"{collection.name}{' (default)' if collection.is_default else ''}",
            "aliases": ", ".join(collection.aliases) or "none",
            "images": f"{collection.image_count:,}",
            "model": f"{collection.model_id} ({collection.embedding_dim} dimensions)",
            "fingerprint": collection.model_fingerprint,
            "loaded": "yes"
            if collection.model_loaded
            else "no: it can be neither added to nor "
            "searched; start the server with its model, too",
            "templates": "; ".join(collection.prompt_templates) or "none",
            "indexed fields": ", ".join(fields) or "none",
        }
    )


def _fields(arguments: list[str]) -> list[IndexedField]:
    fields = []
    for argument in arguments:
        field, colon, type_name = argument.rpartition(":")
        if not (field and colon and type_name in _TYPES):
            raise typer.BadParameter(
                f"{argument!r} is not FIELD:TYPE; types are {', '.join(_TYPES)}",
                param_hint="--index",
            )
        fields.append(IndexedField(field, FieldType(type_name)))
    return fields


def _confirm(collection: Collection) -> None:
    """Ends the command unless the user types the collection's name."""
    images = f"{collection.image_count:,} images"
    if not sys.stdin.isatty():
        show_error(f"{collection.name} holds {images}; --yes deletes it without asking")
        raise typer.Exit(ExitCode.USAGE)
    typed = typer.prompt(f"Type the name to delete {collection.name} and its {images}", err=True)
    if typed != collection.name:
        show_error("that is not its name; nothing is deleted")
        raise typer.Exit(ExitCode.USAGE)
