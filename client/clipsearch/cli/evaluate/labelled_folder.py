"""A folder of images with a folder for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipsearch.cli.index.entry import Entry, File, FormatError
from clipsearch.cli.sources import is_image_name, walk

_TRAIN, _TEST = "train", "test"
_MIN_CLASSES = 2
_MIN_IMAGES = 3  # of a class: one to train with, one to choose C by, one to test with


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """n images with their labels, places in ``classes``."""

    images: tuple[Entry, ...]
    labels: tuple[int, ...]
    is_test: tuple[bool, ...] | None  # None: the folder does not tell
    classes: tuple[str, ...]


def read_labelled_folder(folder: Path) -> LabelledFolder:
    """Reads FOLDER/CLASS/... or FOLDER/train/CLASS/... and FOLDER/test/CLASS/...

    Raises FormatError if there are fewer than two classes, or a class has too few images.
    """
    parts = [folder]
    if has_parts := _folders(folder) == [_TEST, _TRAIN]:
        parts = [folder / _TRAIN, folder / _TEST]
    classes = sorted({name for part in parts for name in _folders(part)})
    if len(classes) < _MIN_CLASSES:
        raise FormatError("has no folders of at least two classes")
    images: list[Entry] = []
    labels: list[int] = []
    is_test: list[bool] = []
    for part in parts:
        for label, name in enumerate(classes):
            found = _images_in(part / name, folder)
            least = _least(part, has_parts=has_parts)
            if len(found) < least:
                raise FormatError(f"{part / name} has {len(found)} images; {least} at least needed")
            images += found
            labels += [label] * len(found)
            is_test += [part.name == _TEST] * len(found)
    tells = tuple(is_test) if has_parts else None
    return LabelledFolder(tuple(images), tuple(labels), tells, tuple(classes))


def _least(part: Path, *, has_parts: bool) -> int:
    if not has_parts:
        return _MIN_IMAGES
    return 1 if part.name == _TEST else _MIN_IMAGES - 1


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(it.name for it in folder.iterdir() if it.is_dir())


def _images_in(folder: Path, root: Path) -> list[Entry]:
    return [
        Entry(key=it.path.relative_to(root).as_posix(), origin=File(it.path))
        for it in walk(folder)
        if it.path is not None and is_image_name(it.name)
    ]
