"""The linear probe of Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (2021), appendix A.3.

A logistic regression (scikit-learn, L-BFGS, at most 1,000 iterations) on frozen embeddings tells
how well they separate the classes. Its C is searched as there: of seven values from 1e-6 to 1e6 the
best on a validation part, then by halved steps about the best, down to 8 steps a decade, and of
equally good ones that nearest to 1; the one chosen is trained on training and validation parts
together. Unlike there, the embeddings are those that are stored: projected, and of L2 norm 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from clipsearch.cli.evaluate.metrics import Estimate, estimate
from clipsearch.cli.evaluate.ranking import Flags, Floats, Places

MAX_ITERATIONS = 1000
_FIRST_EXPONENTS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
_STEPS = (1.0, 0.5, 0.25, 0.125)  # decades
FITS = len(_FIRST_EXPONENTS) + 2 * len(_STEPS) + 1  # at most


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of three parts, which do not overlap."""

    train: Places
    validation: Places
    test: Places


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """How well the images of a class are recognised: shares of its test images."""

    name: str
    train_images: int
    test_images: int
    probe: float
    zero_shot: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFigures:
    """The accuracy on the test part, of the probe and of the zero-shot classifiers."""

    train_images: int  # validation included
    validation_images: int
    test_images: int
    c: float
    has_converged: bool
    accuracy: Estimate
    mean_class_accuracy: float
    zero_shot: dict[str, Estimate]  # by template; "{}" is the class name alone
    classes: tuple[ClassFigures, ...]


def stratified_split(labels: Places, is_test: Flags | None, seed: int) -> Split:
    """Splits n rows by their labels (n,), a fifth of each class to a part, by a seed.

    ``is_test`` (n,) gives the test part, if it is given; the validation part is then taken from the
    rest. A class keeps one row in each part at least, if it has as many rows as parts.
    """
    random = np.random.default_rng(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        if is_test is None:
            held_out = _a_fifth(len(rows))
            test, rest = rows[:held_out], rows[held_out:]
        else:
            test, rest = rows[is_test[rows]], rows[~is_test[rows]]
        held_out = _a_fifth(len(rest))
        parts[0].extend(rest[held_out:])
        parts[1].extend(rest[:held_out])
        parts[2].extend(test)
    train, validation, test_rows = (np.array(sorted(rows), np.int64) for rows in parts)
    return Split(train, validation, test_rows)


def _a_fifth(count: int) -> int:
    return max(round(count / 5), 1) if count > 1 else 0


def probe(
    embeddings: Floats,
    labels: Places,
    split: Split,
    classes: Sequence[str],
    prompts: dict[str, Floats],
    advance: Callable[[int], None],
) -> ProbeFigures:
    """Trains and tests the probe on embeddings (n, d) with labels (n,), places in ``classes``.

    ``prompts`` has, by template, the embeddings (classes, d) of the class names: an image's
    zero-shot class is the one of the nearest; the figures of each class are of the last template.
    ``advance`` is told how many fits more are done.
    """
    test_labels = labels[split.test]
    c = _search_c(embeddings, labels, split, advance)
    fitted = np.concatenate([split.train, split.validation])
    model, has_converged = _fit(embeddings[fitted], labels[fitted], c)
    is_right = model.predict(embeddings[split.test]) == test_labels
    advance(1)
    answers = {
        template: (embeddings[split.test] @ names.T).argmax(axis=1) == test_labels
        for template, names in prompts.items()
    }
    zero_shot = list(answers.values())[-1]
    table = tuple(
        ClassFigures(
            name=name,
            train_images=int((labels[fitted] == label).sum()),
            test_images=int(here.sum()),
            probe=float(is_right[here].mean()),
            zero_shot=float(zero_shot[here].mean()),
        )
        for label, name in enumerate(classes)
        if (here := test_labels == label).any()
    )
    each = np.arange(len(test_labels))
    return ProbeFigures(
        train_images=len(fitted),
        validation_images=len(split.validation),
        test_images=len(test_labels),
        c=c,
        has_converged=has_converged,
        accuracy=estimate(is_right.astype(np.float64), each),
        mean_class_accuracy=float(np.mean([it.probe for it in table])),
        zero_shot={
            template: estimate(right.astype(np.float64), each)
            for template, right in answers.items()
        },
        classes=table,
    )


def _search_c(
    embeddings: Floats, labels: Places, split: Split, advance: Callable[[int], None]
) -> float:
    known: dict[float, float] = {}

    def merit(exponent: float) -> tuple[float, float]:
        if exponent not in known:
            model, _ = _fit(embeddings[split.train], labels[split.train], 10**exponent)
            right = model.predict(embeddings[split.validation]) == labels[split.validation]
            known[exponent] = float(right.mean())
            advance(1)
        return known[exponent], -abs(exponent)

    best = max(_FIRST_EXPONENTS, key=merit)
    for step in _STEPS:
        around = [it for it in (best, best - step, best + step) if abs(it) <= 6]
        best = max(around, key=merit)
    return float(10**best)


def _fit(embeddings: Floats, labels: Places, c: float) -> tuple[LogisticRegression, bool]:
    """Returns the model, and whether it had converged within the iterations."""
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # n_iter_ says so too
        model.fit(embeddings, labels)
    return model, int(model.n_iter_.max()) < MAX_ITERATIONS
