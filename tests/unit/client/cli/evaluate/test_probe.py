"""The linear probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.cli.evaluate.labelled_folder import read_labelled_folder
from clipsearch.cli.evaluate.probe import FITS, probe, stratified_split
from clipsearch.cli.index.entry import FormatError
from samples import png

CLASSES = ("cat", "dog", "sun")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 12), min_size=2, max_size=4), st.integers(0, 9), st.booleans())
def test_a_split_is_whole_and_has_every_class_in_each_part(
    sizes: list[int], seed: int, is_given: bool
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    first_of_each = np.arange(len(labels)) - np.searchsorted(labels, labels) == 0
    split = stratified_split(labels, first_of_each if is_given else None, seed)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(set(labels[part]) == set(labels) for part in parts)
    if is_given:
        assert split.test.tolist() == np.flatnonzero(first_of_each).tolist()
    again = stratified_split(labels, first_of_each if is_given else None, seed)
    assert again.train.tolist() == split.train.tolist()


def test_classes_that_lie_apart_are_told_apart() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    noise = random.normal(scale=0.05, size=(90, 4))
    embeddings = (np.eye(4)[labels] + noise).astype(np.float32)
    # The zero-shot classifier takes the second class for the third, and the third for the second.
    names = np.eye(4, dtype=np.float32)[[0, 2, 1]]
    done: list[int] = []
    split = stratified_split(labels, None, 0)
    figures = probe(embeddings, labels, split, CLASSES, {"{}": names}, done.append)
    assert figures.accuracy.value == figures.mean_class_accuracy == 1
    assert figures.zero_shot["{}"].value == pytest.approx(1 / 3)
    assert [(it.name, it.probe, it.zero_shot) for it in figures.classes] == [
        ("cat", 1, 1), ("dog", 1, 0), ("sun", 1, 0)
    ]  # fmt: skip
    assert (figures.train_images, figures.validation_images, figures.test_images) == (72, 15, 18)
    assert figures.has_converged
    assert sum(done) <= FITS


def make(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(png("red"))
    return folder


def test_a_folder_of_classes(tmp_path: Path) -> None:
    files = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]
    folder = read_labelled_folder(make(tmp_path, *files, "cat/notes.txt"))
    assert [it.key for it in folder.images] == files
    assert folder.labels == (0, 0, 0, 1, 1, 1)
    assert folder.is_test is None
    assert folder.classes == ("cat", "dog")


def test_a_folder_that_is_split(tmp_path: Path) -> None:
    train = [f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(2)]
    test = ["test/cat/9.png", "test/dog/9.png"]
    folder = read_labelled_folder(make(tmp_path, *train, *test))
    assert [it.key for it in folder.images] == [*train, *test]
    assert folder.is_test == (False,) * 4 + (True,) * 2
    assert folder.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["cat/1.png", "cat/2.png", "cat/3.png"], "at least two classes"),
        (["a.png"], "at least two classes"),
        ([f"cat/{n}.png" for n in range(3)] + ["dog/1.png"], "dog has 1 images; 3 at least"),
        (["train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "test/a/1.png"],
         "b has 0 images; 1 at least"),
    ],
)  # fmt: skip
def test_a_folder_with_too_few_images(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_labelled_folder(make(tmp_path, *files))
