"""One linear probe, from the folder to the figures."""

from __future__ import annotations

import numpy as np
from rich.progress import Progress

from clipsearch import SearchClient
from clipsearch.cli.evaluate.labelled_folder import LabelledFolder
from clipsearch.cli.evaluate.pairs import Problem
from clipsearch.cli.evaluate.probe import FITS, ProbeFigures, probe, stratified_split
from clipsearch.cli.evaluate.steps import embed, filled, step
from clipsearch.cli.index.entry import FormatError

DEFAULT_TEMPLATES = ("a photo of a {}.",)  # of Radford et al. 2021, section 3.1.4
_ALONE = "{}"


def probe_folder(
    client: SearchClient,
    folder: LabelledFolder,
    progress: Progress,
    *,
    model: str,
    templates: tuple[str, ...],
    seed: int,
    keep: bool,
) -> tuple[ProbeFigures, tuple[Problem, ...]]:
    """Embeds the images through the server, and probes the embeddings.

    Class names are the folders', with spaces for ``_`` and ``-``; of images of equal content the
    first counts, and those to train with come first. Returns the figures, and the
    images that were left out. Raises SearchError, and FormatError if too few images are left.
    """
    with filled(client, folder.images, model, progress, keep=keep) as own:
        prompts = {
            name: embed(client, own.collection, _spoken(folder.classes), chosen, progress)
            for name, chosen in ((_ALONE, ()), (" + ".join(templates), templates))
        }
    # Each content once, or the probe could be tested with what it was trained with.
    first: dict[int, int] = {}
    for place, row in enumerate(own.rows):
        if row is not None:
            first.setdefault(row, place)
    rows, there = np.array(list(first), np.int64), list(first.values())
    labels = np.array([folder.labels[place] for place in there], np.int64)
    is_test = None if folder.is_test is None else np.array(folder.is_test)[there]
    split = stratified_split(labels, is_test, seed)
    if len(np.unique(labels[split.train])) < len(folder.classes) or not len(split.test):
        raise FormatError("has classes without images to train with, or none to test with")
    with step(progress, "fitting", FITS) as advance:
        figures = probe(
            own.gallery.embeddings[rows], labels, split, folder.classes, prompts, advance
        )
    return figures, own.problems


def _spoken(classes: tuple[str, ...]) -> list[str]:
    return [name.replace("_", " ").replace("-", " ").strip() for name in classes]
