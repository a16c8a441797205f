"""COCO annotations: images with captions, or with objects of some categories."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipsearch.cli.index.entry import Entry, File, FormatError, Origin, Url, bad_entry, unsent


class Coco:
    """The images of an annotations file, of which each gets its captions and the names of its
    categories as metadata. JSON cannot be read in part: the whole file is in memory."""

    def __init__(self, file: Path, images_dir: Path | None) -> None:
        """Images are read from ``images_dir``; if it is None, they are fetched by their URLs, and
        those without one are looked for beside the file. Raises FormatError if the file is of
        another kind, OSError if it cannot be read."""
        self.skipped = 0
        self._folder = file.parent if images_dir is None else images_dir
        self._prefers_files = images_dir is not None
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise FormatError(
                "is no COCO annotations file, which has a list `images`; of a JSON object a line, "
                "--format jsonl"
            )
        self._images: list[Any] = content["images"]
        names = {
            it["id"]: it["name"]
            for it in _objects(content.get("categories"))
            if _is_id(it.get("id")) and isinstance(it.get("name"), str)
        }
        self._captions: dict[Any, list[str]] = defaultdict(list)
        self._categories: dict[Any, list[str]] = defaultdict(list)
        for it in _objects(content.get("annotations")):
            image_id = it.get("image_id")
            if not _is_id(image_id):
                continue
            if isinstance(caption := it.get("caption"), str):
                self._captions[image_id].append(caption)
            category_id = it.get("category_id")
            name = names.get(category_id) if _is_id(category_id) else None
            if name is not None and name not in self._categories[image_id]:
                self._categories[image_id].append(name)

    def count(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Entry]:
        for number, image in enumerate(self._images, start=1):
            yield self._entry(image, f"image {number}")

    def _entry(self, image: Any, place: str) -> Entry:
        if not isinstance(image, dict):
            return bad_entry(place, f"{place} is not a JSON object")
        found = self._origin(image)
        if found is None:
            return bad_entry(place, f"{place} has no coco_url, flickr_url or file_name")
        key, origin = found
        image_id = image.get("id")
        metadata: dict[str, Any] = {}
        if _is_id(image_id):
            metadata["coco_id"] = image_id
            metadata["captions"] = self._captions.get(image_id)
            metadata["categories"] = self._categories.get(image_id)
        kept = {name: value for name, value in metadata.items() if value is not None}
        problem = None
        if isinstance(origin, File) and not self._prefers_files and not origin.path.exists():
            why = f"there is no {origin.path}; --images-dir names the folder of the images"
            problem = unsent("UNREADABLE", why)
        return Entry(key=key, origin=origin, metadata=kept, problem=problem).checked()

    def _origin(self, image: dict[str, Any]) -> tuple[str, Origin] | None:
        name = image.get("file_name")
        if not isinstance(name, str):
            name = ""
        for url in (image.get("coco_url"), image.get("flickr_url")):
            if isinstance(url, str) and url and not (self._prefers_files and name):
                return url, Url(url)  # of which a file's name need not be the only one
        return (name, File(self._folder / name)) if name else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [it for it in value if isinstance(it, dict)] if isinstance(value, list) else []


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)
