"""``clipsearch get``, ``list`` and ``delete``."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from clipsearch import NotFoundError, SearchClient
from clipsearch.cli.options import MAX_COUNT, CollectionOption, JsonOption
from clipsearch.cli.output import (
    human_bytes,
    linked_name,
    new_table,
    pixels,
    show_error,
    show_facts,
    show_json,
    stderr,
    stdout,
)
from clipsearch.cli.session import ExitCode, connect

_TIME = "%Y-%m-%d %H:%M"


def get(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="The image's id, a UUID.", show_default=False)],
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show an image's record."""
    with connect(context) as client:
        image = client.get_image(id, collection=collection)
    if as_json:
        show_json(image)
        return
    show_facts(
        {
            "id": image.id,
            "uri": image.uri,
            "url": image.url,
            "type": image.media_type,
            "pixels": pixels(image),
            "size": human_bytes(image.size_bytes),
            "sha256": image.sha256,
            **({"duplicate of": image.duplicate_of} if image.duplicate_of else {}),
            "added": image.create_time.astimezone().strftime(_TIME),
            "updated": image.update_time.astimezone().strftime(_TIME),
            **{f"metadata: {key}": value for key, value in image.metadata.items()},
        }
    )


def list_images(
    context: typer.Context,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", "-n", min=0, max=MAX_COUNT, help="How many at most; 0 for all of them."
        ),
    ] = 50,
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """List images, ordered by id.

    With --json, each image gets a line of its own.
    """
    with connect(context) as client:
        images = islice(client.list_images(collection=collection), limit or None)
        if as_json:
            for image in images:
                show_json(image)
            return
        table = new_table("id", "picture", "pixels", "added")
        for image in images:
            table.add_row(
                image.id,
                linked_name(image),
                pixels(image),
                image.create_time.astimezone().strftime("%Y-%m-%d"),
            )
        total = client.list_page(page_size=1, collection=collection).total_size
    stdout.print(table)
    if table.row_count < total:
        stderr.print(f"{table.row_count:,} of {total:,} images; -n 0 lists all of them")


def delete(
    context: typer.Context,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="The images' ids, UUIDs.", show_default=False),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Delete images.

    Asks first if there is more than one. With --json, each id gets a line of its own, which says
    whether the image was deleted.
    """
    if len(ids) > 1 and not yes:
        typer.confirm(f"Delete {len(ids)} images?", abort=True, err=True)
    deleted: list[bool] = []
    try:
        with connect(context) as client:
            for image_id in ids:
                deleted.append(_delete(client, image_id, collection))
                if as_json:
                    show_json({"id": image_id, "deleted": deleted[-1]})
    finally:  # whatever was deleted before a failure is gone
        if not as_json:
            stdout.print(f"{sum(deleted)} deleted")
    if not all(deleted):
        raise typer.Exit(ExitCode.INCOMPLETE)


def _delete(client: SearchClient, image_id: str, collection: str) -> bool:
    """Deletes an image; returns False, and says so, if there is none."""
    try:
        client.delete_image(image_id, collection=collection)
    except NotFoundError as error:
        show_error(str(error))
        return False
    return True
