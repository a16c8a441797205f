"""One evaluation, from the data set to the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from rich.progress import Progress

from clipsearch import Collection, SearchClient
from clipsearch.cli.evaluate.fill import Filler, open_collection, stamps_of
from clipsearch.cli.evaluate.gallery import Gallery, find_all
from clipsearch.cli.evaluate.index_quality import (
    AutoCutFigures,
    IndexFigures,
    measure_auto_cut,
    measure_index,
    single_count,
)
from clipsearch.cli.evaluate.metrics import RECALL_AT, RetrievalFigures, retrieval_figures
from clipsearch.cli.evaluate.pairs import Pairs, Problem
from clipsearch.cli.evaluate.ranking import (
    Floats,
    Places,
    Standing,
    TextRanking,
    rank_images,
    rank_texts,
)

Advance: TypeAlias = Callable[[int], None]

_CHUNK = 256  # texts in one call


class NothingToEvaluateError(Exception):
    """No caption has an image; the message says so in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to evaluate over. Without a ``collection``, the images are added to one of their own,
    which ``model`` fills, and which is kept if ``keep`` says so."""

    collection: str = ""
    model: str = ""
    keep: bool = False
    templates: tuple[str, ...] = ()
    auto_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The figures with some prompt templates; with none, texts are embedded as they are."""

    templates: tuple[str, ...]
    text_to_image: RetrievalFigures
    image_to_text: RetrievalFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All figures."""

    collection: str
    is_kept: bool
    model_id: str
    model_fingerprint: str
    images: int  # in the collection, each content once
    copies: int  # images of equal content besides
    captions: int
    problems: tuple[Problem, ...]  # images of the data set that are left out
    variants: tuple[Variant, ...]  # without templates first
    index: IndexFigures
    auto_cut: AutoCutFigures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What the figures come from: n captions, without templates, over m images."""

    captions: tuple[str, ...]
    own: Places  # (n,): the row of each caption's image in the gallery
    gallery: Gallery
    ranking: TextRanking
    image_standing: Standing  # of each described image among the captions


def evaluate(
    client: SearchClient, pairs: Pairs, options: Options, progress: Progress
) -> tuple[Evaluation, Detail]:
    """Measures; leaves a collection of its own behind only if it is told to, or interrupted: the
    next run then goes on with that.

    Raises SearchError, and NothingToEvaluateError if no caption has an image in the collection.
    """
    if options.collection:
        collection = client.get_collection(options.collection)
        gallery = _load(client, collection, progress)
        rows = find_all(gallery, pairs.images)
        problems = [
            Problem(entry.key, "no stored image has this id, URL, uri or file name")
            for entry, row in zip(pairs.images, rows, strict=True)
            if row is None
        ]
    else:
        collection, filler = _fill(client, pairs, options.model, progress)
        gallery = _load(client, collection, progress)
        rows = [gallery.row_of(filler.ids.get(entry.key, "")) for entry in pairs.images]
        problems = [Problem(key, message) for key, message in filler.problems.items()]
    is_kept = bool(options.collection or options.keep)
    try:
        figures, detail = _measure(client, collection, pairs, gallery, rows, options, progress)
    except NothingToEvaluateError:
        _delete_unless(is_kept, client, collection)
        raise
    _delete_unless(is_kept, client, collection)
    variants, index, auto_cut = figures
    evaluation = Evaluation(
        collection=collection.name,
        is_kept=is_kept,
        model_id=collection.model_id,
        model_fingerprint=collection.model_fingerprint,
        images=int(gallery.is_original.sum()),
        copies=int((~gallery.is_original).sum()),
        captions=len(detail.captions),
        problems=(*pairs.problems, *problems),
        variants=variants,
        index=index,
        auto_cut=auto_cut,
    )
    return evaluation, detail


def _fill(
    client: SearchClient, pairs: Pairs, model: str, progress: Progress
) -> tuple[Collection, Filler]:
    info = client.server_info()
    max_bytes = info.limits.max_image_bytes
    fitting = [it for it in info.models if model in ("", it.id) or it.fingerprint.startswith(model)]
    fingerprint = fitting[0].fingerprint if fitting else model  # the server says what is wrong
    digest = pairs.digest(stamps_of(pairs.images, max_bytes))
    name = f"evaluate-{digest}-{fingerprint[:8]}"
    open_collection(client, name, fingerprint)
    filler = Filler(client, name, max_bytes)
    with step(progress, "adding images", len(pairs.images)) as advance:
        filler.fill(pairs.images, advance)
    return client.get_collection(name), filler


def _load(client: SearchClient, collection: Collection, progress: Progress) -> Gallery:
    with step(progress, "reading embeddings", collection.image_count) as advance:
        return Gallery.load(client, collection.name, advance)


def _measure(
    client: SearchClient,
    collection: Collection,
    pairs: Pairs,
    gallery: Gallery,
    rows: Sequence[int | None],
    options: Options,
    progress: Progress,
) -> tuple[tuple[tuple[Variant, ...], IndexFigures, AutoCutFigures | None], Detail]:
    captions: list[str] = []
    found: list[int] = []
    for caption, place in zip(pairs.captions, pairs.image_of, strict=True):
        if (row := rows[place]) is not None:
            captions.append(caption)
            found.append(row)
    if not captions:
        raise NothingToEvaluateError("none of the captions has its image in the collection")
    own = np.array(found, np.int64)
    name = collection.name
    texts = embed(client, name, captions, (), progress)
    plain, ranking, image_standing = _rank(texts, gallery, own, (), progress)
    variants = [plain]
    for templates in _combinations(options.templates):
        templated = embed(client, name, captions, templates, progress)
        variants.append(_rank(templated, gallery, own, templates, progress)[0])
    total = len(captions) + single_count(len(captions))
    with step(progress, "asking the index", total) as advance:
        index = measure_index(
            client, name, captions, texts, gallery, ranking.top_scores, advance
        )
    auto_cut = None
    if options.auto_cut:
        with step(progress, "asking with auto-cut", len(captions)) as advance:
            auto_cut = measure_auto_cut(client, name, captions, ranking.true_scores, advance)
    detail = Detail(
        captions=tuple(captions),
        own=own,
        gallery=gallery,
        ranking=ranking,
        image_standing=image_standing,
    )
    return (tuple(variants), index, auto_cut), detail


def _combinations(templates: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each template by itself, and all together."""
    alone = [(template,) for template in templates]
    return [*alone, templates] if len(templates) > 1 else alone


def _rank(
    texts: Floats, gallery: Gallery, own: Places, templates: tuple[str, ...], progress: Progress
) -> tuple[Variant, TextRanking, Standing]:
    with step(progress, "ranking", len(texts)) as advance:
        ranking = rank_images(
            texts, gallery.embeddings, own, gallery.is_original, max(RECALL_AT), advance
        )
        places, standing = rank_texts(texts, gallery.embeddings, own)
    candidates = int(gallery.is_original.sum())
    variant = Variant(
        templates=templates,
        text_to_image=retrieval_figures(ranking.standing, own, candidates),
        image_to_text=retrieval_figures(standing, places, len(texts)),
    )
    return variant, ranking, standing


def embed(
    client: SearchClient,
    collection: str,
    texts: Sequence[str],
    templates: tuple[str, ...],
    progress: Progress,
) -> Floats:
    """Returns the embeddings (n, d) of texts put into the templates. Raises SearchError."""
    blocks: list[Floats] = []
    label = f"embedding {len(templates)} prompts each" if len(templates) > 1 else "embedding texts"
    with step(progress, label, len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            result = client.embed_texts(
                chunk, collection=collection, prompt_templates=templates
            )
            blocks.append(np.array(result.embeddings, np.float32))
            advance(len(chunk))
    return np.concatenate(blocks)


@contextmanager
def step(progress: Progress, label: str, total: int) -> Iterator[Advance]:
    """Shows a bar while something long is under way; what it yields is told of its steps."""
    task = progress.add_task(label, total=total)
    yield lambda count: progress.advance(task, count)
