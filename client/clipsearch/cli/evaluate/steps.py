"""The long parts that an evaluation and a linear probe share, each with a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from rich.progress import Progress

from clipsearch import AlreadyExistsError, Collection, SearchClient
from clipsearch.cli.evaluate.fill import Filler, digest
from clipsearch.cli.evaluate.gallery import Gallery
from clipsearch.cli.evaluate.pairs import Problem
from clipsearch.cli.evaluate.ranking import Floats
from clipsearch.cli.index.entry import Entry

Advance: TypeAlias = Callable[[int], None]

_CHUNK = 256  # texts in one call


@dataclass(frozen=True, slots=True)
class Filled:
    """A collection that holds a data set."""

    collection: Collection
    gallery: Gallery
    rows: tuple[int | None, ...]  # of each image of the data set, in the gallery
    problems: tuple[Problem, ...]  # why there is no row


@contextmanager
def step(progress: Progress, label: str, total: int) -> Iterator[Advance]:
    """Shows a bar while something long is under way; what it yields is told of its steps."""
    task = progress.add_task(label, total=total)
    yield lambda count: progress.advance(task, count)


class NothingToMeasureError(Exception):
    """The data set is of no use, however often it is tried; the message says so in one line."""


@contextmanager
def filled(
    client: SearchClient, entries: Sequence[Entry], model: str, progress: Progress, *, keep: bool
) -> Iterator[Filled]:
    """Stores images in a collection of their own, which ``model`` fills (empty: the default's), and
    deletes it at the end unless it is to be kept.

    Its name tells the images and the model, so that a run goes on where another was interrupted;
    what then stays behind is told. Raises SearchError.
    """
    info = client.server_info()
    fitting = [it for it in info.models if it.id == model or it.fingerprint.startswith(model)]
    fingerprint = fitting[0].fingerprint if fitting else model  # the server says what is wrong
    max_bytes = info.limits.max_image_bytes
    name = f"evaluate-{digest(entries, max_bytes)}-{fingerprint[:8]}"
    with suppress(AlreadyExistsError):
        client.create_collection(name, model=fingerprint)
    try:
        yield _fill(client, name, entries, max_bytes, progress)
    except NothingToMeasureError:
        if not keep:
            client.delete_collection(name, confirm_name=name)
        raise
    except BaseException:
        progress.console.print(
            f"{name} keeps the images that were added: the same command goes on with them",
            markup=False,
        )
        raise
    if not keep:
        client.delete_collection(name, confirm_name=name)


def _fill(
    client: SearchClient, name: str, entries: Sequence[Entry], max_bytes: int, progress: Progress
) -> Filled:
    filler = Filler(client, name, max_bytes)
    with step(progress, "adding images", len(entries)) as advance:
        filler.fill(entries, advance)
    collection = client.get_collection(name)
    gallery = load(client, collection, progress)
    return Filled(
        collection=collection,
        gallery=gallery,
        rows=tuple(gallery.row_of(filler.ids.get(entry.key, "")) for entry in entries),
        problems=tuple(Problem(key, why) for key, why in filler.problems.items()),
    )


def load(client: SearchClient, collection: Collection, progress: Progress) -> Gallery:
    """Reads a collection's embeddings. Raises SearchError."""
    with step(progress, "reading embeddings", collection.image_count) as advance:
        return Gallery.load(client, collection.name, advance)


def embed(
    client: SearchClient,
    collection: Collection,
    texts: Sequence[str],
    templates: tuple[str, ...],
    progress: Progress,
) -> Floats:
    """Returns the embeddings (n, d) of texts put into the templates. Raises SearchError."""
    blocks: list[Floats] = []
    with step(progress, "embedding texts", len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            result = client.embed_texts(
                chunk, collection=collection.name, prompt_templates=templates
            )
            blocks.append(np.array(result.embeddings, np.float32))
            advance(len(chunk))
    return np.concatenate(blocks)
