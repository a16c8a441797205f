"""``clipsearch dump`` and ``load``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.options import CollectionOption, JsonOption
from clipsearch.cli.output import human_bytes, show_error, show_json, stdout
from clipsearch.cli.progress import new_progress
from clipsearch.cli.session import ExitCode, connect


def dump(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.parquet", help="The file to write.", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file.")] = False,
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write all images with their embeddings to a Parquet file.

    It holds all that the server knows, without the pictures themselves; `clipsearch load` stores it
    in any server with the same model. The file is there only once it is complete.
    """
    with _explained(file):
        from clipsearch.cli.dump_file import DumpWriter

        if file.exists() and not force:
            raise FileExistsError("is there already; --force replaces it")
        start_s = time.monotonic()
        images = 0
        with connect(context) as client:
            source = client.get_collection(collection)
            progress = new_progress(hidden=as_json and stdout.is_terminal)
            task = progress.add_task("dumping", total=source.image_count)
            with progress, DumpWriter(file, source) as writer:
                for embedded in client.export_images(collection=collection):
                    writer.write(embedded)
                    images += 1
                    progress.advance(task)
        _show_summary("dumped", images, file, time.monotonic() - start_s, as_json=as_json)


def load(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.parquet", help="A file of `clipsearch dump`.", show_default=False
        ),
    ],
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Store the images of a file that `clipsearch dump` wrote.

    Each is stored under its id, in place of what is there. The server must have the model of the
    server that they come from. To repeat a load that was interrupted does no harm.
    """
    with _explained(file):
        from clipsearch.cli.dump_file import DumpReader

        start_s = time.monotonic()
        with DumpReader(file) as reader, connect(context) as client:
            target = client.get_collection(collection)
            if reader.fingerprint != target.model_fingerprint:
                show_error(
                    f"{file}: holds images of the model {reader.model_id} (fingerprint "
                    f"{reader.fingerprint}), and the collection {target.name} those of "
                    f"{target.model_id} (fingerprint {target.model_fingerprint}): their embeddings "
                    "cannot be compared; name a collection of the file's model, or add the "
                    "pictures anew"
                )
                raise typer.Exit(ExitCode.FAILED)
            progress = new_progress(hidden=as_json and stdout.is_terminal)
            task = progress.add_task("loading", total=reader.row_count)
            stored = 0
            try:
                with progress:
                    for stored in client.import_images(reader, collection=collection):
                        progress.update(task, completed=stored)
            finally:  # whatever was stored before a failure or Ctrl-C is there
                elapsed_s = time.monotonic() - start_s
                _show_summary("loaded", stored, file, elapsed_s, as_json=as_json)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Ends the command with one line if the file, or what reads it, is at fault."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        message = "dump and load need pyarrow; install it with: pip install pyarrow"
        show_error(message)
        raise typer.Exit(ExitCode.USAGE) from error
    except OSError as error:
        show_error(f"{file}: {error.strerror or error}")
        raise typer.Exit(ExitCode.USAGE) from error


def _show_summary(verb: str, images: int, file: Path, elapsed_s: float, *, as_json: bool) -> None:
    size_bytes = file.stat().st_size
    if as_json:
        facts = {"images": images, "bytes": size_bytes, "seconds": round(elapsed_s, 3)}
        show_json({"outcome": verb, "file": str(file), **facts})
        return
    rate = images / elapsed_s
    stdout.print(
        f"{images:,} images {verb}, {human_bytes(size_bytes)}, in {elapsed_s:.1f} s ({rate:.0f}/s)"
    )
