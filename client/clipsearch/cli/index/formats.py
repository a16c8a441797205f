"""Which kind of source a path is."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from clipsearch.cli.index.coco import Coco
from clipsearch.cli.index.columns import ColumnOptions
from clipsearch.cli.index.entry import EntrySource, FormatError
from clipsearch.cli.index.folder import Folder
from clipsearch.cli.index.lines import read_lines
from clipsearch.cli.index.table import Csv, JsonLines
from clipsearch.cli.index.text_list import TextList
from clipsearch.cli.index.webdataset import Webdataset, is_tar, tars_in
from clipsearch.cli.sources import is_image_name

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")
_TAR_MAGIC = slice(257, 262)


class Format(StrEnum):
    FOLDER = "folder"
    TEXT = "text"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    COCO = "coco"
    WEBDATASET = "webdataset"


_SUFFIXES = {
    ".txt": Format.TEXT,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
}


def open_source(
    path: Path, format: Format | None, columns: ColumnOptions, images_dir: Path | None
) -> EntrySource:
    """Opens a source, of the kind that it seems to be if ``format`` is None.

    Raises FormatError if it is of another kind, OSError if it cannot be read, and
    ModuleNotFoundError if it is a Parquet file and pyarrow is missing.
    """
    match format or _format_of(path):
        case Format.FOLDER:
            if not path.is_dir():
                raise FormatError("is not a folder")
            return Folder(path)
        case Format.TEXT:
            return TextList(path)
        case Format.CSV:
            return Csv(path, columns, is_tsv=False)
        case Format.TSV:
            return Csv(path, columns, is_tsv=True)
        case Format.JSONL:
            return JsonLines(path, columns)
        case Format.PARQUET:
            from clipsearch.cli.index.parquet import Parquet

            return Parquet(path, columns)
        case Format.COCO:
            return Coco(path, images_dir)
        case Format.WEBDATASET:
            return Webdataset(path)


def _format_of(path: Path) -> Format:
    if path.is_dir():
        return Format.WEBDATASET if _holds_only_tars(path) else Format.FOLDER
    with path.open("rb") as stream:
        head = stream.read(512)
    if known := _SUFFIXES.get(path.suffix.lower()):
        return known
    if is_tar(path) or head[_TAR_MAGIC] == b"ustar":
        return Format.WEBDATASET
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    if head.startswith(SIGNATURES):
        raise FormatError("is an image: `clipsearch add` adds it")
    if head.lstrip().startswith((b"{", b"[")):
        return Format.JSONL if _starts_with_a_row(path) else Format.COCO
    if b"\0" in head:
        raise FormatError("is of no kind that is known; --format tells which it is")
    return Format.TEXT


def _holds_only_tars(folder: Path) -> bool:
    """Whether there are tars in a folder, and neither images nor other folders."""
    return bool(tars_in(folder)) and not any(
        path.is_dir() or is_image_name(path.name) for path in folder.iterdir()
    )


def _starts_with_a_row(file: Path) -> bool:
    """Whether the first line is a JSON object that is no COCO annotations file by itself."""
    try:
        first = json.loads(next(read_lines(file), ""))
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and not isinstance(first.get("images"), list)
