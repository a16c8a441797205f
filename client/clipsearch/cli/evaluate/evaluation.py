"""One evaluation, from the data set to the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from clipsearch import SearchClient
from clipsearch.cli.evaluate.gallery import Gallery
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
    Doubles,
    Floats,
    Places,
    Standing,
    TextRanking,
    rank_images,
    rank_texts,
)
from clipsearch.cli.evaluate.steps import (
    Filled,
    NothingToMeasureError,
    embed,
    filled,
    load,
    step,
)


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
    single_ms: Doubles  # that each single query took


def evaluate(
    client: SearchClient, pairs: Pairs, options: Options, progress: Progress
) -> tuple[Evaluation, Detail]:
    """Measures; leaves a collection of its own behind only if it is told to, or interrupted: the
    next run then goes on with that.

    Raises SearchError, and NothingToMeasureError if no caption has an image in the collection.
    """
    if options.collection:
        found = _find(client, pairs, options.collection, progress)
        return _measure(client, pairs, found, options, progress)
    with filled(client, pairs.images, options.model, progress, keep=options.keep) as own:
        return _measure(client, pairs, own, options, progress)


def _find(client: SearchClient, pairs: Pairs, name: str, progress: Progress) -> Filled:
    collection = client.get_collection(name)
    gallery = load(client, collection, progress)
    rows = tuple(gallery.find(entry) for entry in pairs.images)
    problems = tuple(
        Problem(entry.key, "no stored image has this id, URL, uri, file name or content")
        for entry, row in zip(pairs.images, rows, strict=True)
        if row is None
    )
    return Filled(collection, gallery, rows, problems)


def _measure(
    client: SearchClient,
    pairs: Pairs,
    filled: Filled,
    options: Options,
    progress: Progress,
) -> tuple[Evaluation, Detail]:
    collection, gallery = filled.collection, filled.gallery
    captions, own = _described(pairs, filled.rows)
    texts = embed(client, collection, captions, (), progress)
    plain, ranking, image_standing = _rank(texts, gallery, own, (), progress)
    variants = [plain]
    for templates in _combinations(options.templates):
        templated = embed(client, collection, captions, templates, progress)
        variants.append(_rank(templated, gallery, own, templates, progress)[0])
    with step(progress, "asking the index", len(captions) + single_count(len(captions))) as advance:
        index, single_ms = measure_index(
            client, collection.name, captions, texts, gallery, ranking.top_scores, advance
        )
    auto_cut = None
    if options.auto_cut:
        with step(progress, "asking with auto-cut", len(captions)) as advance:
            auto_cut = measure_auto_cut(
                client, collection.name, captions, ranking.true_scores, advance
            )
    evaluation = Evaluation(
        collection=collection.name,
        is_kept=bool(options.collection or options.keep),
        model_id=collection.model_id,
        model_fingerprint=collection.model_fingerprint,
        images=int(gallery.is_original.sum()),
        copies=int((~gallery.is_original).sum()),
        captions=len(captions),
        problems=(*pairs.problems, *filled.problems),
        variants=tuple(variants),
        index=index,
        auto_cut=auto_cut,
    )
    return evaluation, Detail(
        captions=captions,
        own=own,
        gallery=gallery,
        ranking=ranking,
        image_standing=image_standing,
        single_ms=single_ms,
    )


def _described(pairs: Pairs, rows: Sequence[int | None]) -> tuple[tuple[str, ...], Places]:
    """Returns the captions whose image is there, and the row of each."""
    captions: list[str] = []
    own: list[int] = []
    for caption, place in zip(pairs.captions, pairs.image_of, strict=True):
        if (row := rows[place]) is not None:
            captions.append(caption)
            own.append(row)
    if not captions:
        raise NothingToMeasureError("none of the captions has its image in the collection")
    return tuple(captions), np.array(own, np.int64)


def _combinations(templates: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each template by itself, and all together."""
    alone: list[tuple[str, ...]] = [(template,) for template in templates]
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
