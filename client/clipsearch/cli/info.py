"""``clipsearch info``."""

from __future__ import annotations

import typer

from clipsearch import Model
from clipsearch.cli.options import JsonOption
from clipsearch.cli.output import human_bytes, new_table, show_facts, show_json, stdout
from clipsearch.cli.session import connect


def info(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what the server is: its version, models, collections and limits."""
    with connect(context) as client:
        server = client.server_info()
    if as_json:
        show_json(server)
        return
    model, limits = server.model, server.limits
    others = [it for it in server.models if it.fingerprint != model.fingerprint]
    show_facts(
        {
            "version": server.version,
            "model": _describe(model),
            "fingerprint": model.fingerprint,
            **({"other models": ", ".join(map(_brief, others))} if others else {}),
            "encoder": server.encoder,
            "index": server.index,
            "images by URL": "yes" if limits.fetch_enabled else "no",
            "largest image": f"{human_bytes(limits.max_image_bytes)}, "
            f"{limits.max_image_pixels / 1e6:.0f} megapixels",
            "hits": f"{limits.default_limit} unless asked for more, at most {limits.max_limit}",
        }
    )
    table = new_table("collection", "aliases", "images")
    for collection in server.collections:
        name = f"{collection.name} (default)" if collection.is_default else collection.name
        table.add_row(name, ", ".join(collection.aliases), f"{collection.image_count:,}")
    stdout.print(table)


def _describe(model: Model) -> str:
    return (
        f"{model.id} ({model.precision}, {model.embedding_dim} dimensions, "
        f"images of {model.image_size_px} px, texts of {model.max_tokens} tokens)"
    )


def _brief(model: Model) -> str:
    return f"{model.id} ({model.fingerprint[:12]})"
