"""A data set of images and the captions that describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clipsearch import JsonValue
from clipsearch.cli.index.columns import ColumnOptions
from clipsearch.cli.index.entry import Entry, FormatError, Member
from clipsearch.cli.index.formats import Format, open_source

# The first of these that an image has holds its caption, or a list of captions.
CAPTION_COLUMNS = ("captions", "caption", "text", "sentence", "description", "title", "name")


@dataclass(frozen=True, slots=True)
class Problem:
    """An image, or a line of the data set, that is left out, and why."""

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """Each image once, without metadata, and the captions with the place of the image of each."""

    images: tuple[Entry, ...]
    captions: tuple[str, ...]
    image_of: tuple[int, ...]
    problems: tuple[Problem, ...]


def read_pairs(
    file: Path,
    format: Format | None,
    *,
    images_dir: Path | None,
    image_column: str | None,
    caption_column: str | None,
) -> Pairs:
    """Reads whatever `clipsearch index` reads, if there are captions in it.

    Images without captions are kept: others are to be told from them. Raises FormatError if there
    are no captions at all, OSError, and ModuleNotFoundError as ``open_source`` does.
    """
    images: dict[str, Entry] = {}
    captions: list[str] = []
    captioned: list[str] = []
    problems: list[Problem] = []
    for entry in open_source(file, format, ColumnOptions(image=image_column), images_dir):
        if entry.problem is not None and entry.problem.reason == "ENTRY_INVALID":
            problems.append(Problem(entry.key, entry.problem.message))
            continue
        if isinstance(entry.origin, Member):
            raise FormatError("is a webdataset; give its images and captions as a table")
        images.setdefault(entry.key, replace(entry, metadata={}))
        for caption in _captions_of(entry.metadata, caption_column):
            captions.append(caption)
            captioned.append(entry.key)
    if not captions:
        named = caption_column or ", ".join(CAPTION_COLUMNS)
        raise FormatError(
            f"has no captions: no image has text in {named}; --caption-column names another column"
        )
    place_of = {key: place for place, key in enumerate(images)}
    return Pairs(
        images=tuple(images.values()),
        captions=tuple(captions),
        image_of=tuple(place_of[key] for key in captioned),
        problems=tuple(problems),
    )


def _captions_of(metadata: Mapping[str, JsonValue], column: str | None) -> list[str]:
    names = CAPTION_COLUMNS if column is None else (column,)
    value = next((metadata[name] for name in names if metadata.get(name)), None)
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]
