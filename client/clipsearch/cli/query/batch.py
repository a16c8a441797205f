"""A file of texts, one a line -> what was found for each."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from clipsearch import SearchClient, TextResult
from clipsearch.cli.output import show_json
from clipsearch.cli.query.search import Options
from clipsearch.cli.query.show import show_texts
from clipsearch.cli.sources import UnreadableError, explain, printable


def query_file(
    client: SearchClient,
    file: Path,
    options: Options,
    prompt_templates: Sequence[str] | None,
    *,
    as_json: bool,
) -> int:
    """Shows what is found for each line of a file, ``-`` being stdin; returns how many lines were
    refused. Raises UnreadableError if the file cannot be read."""
    results = client.query_texts(_lines(file), prompt_templates=prompt_templates, **options)
    return _write_json(results) if as_json else show_texts(results)


def _lines(file: Path) -> Iterator[str]:
    """Yields the lines that are not blank."""
    is_stdin = str(file) == "-"
    try:
        with nullcontext(sys.stdin.buffer) if is_stdin else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = line.decode("utf-8-sig").strip()
                except UnicodeDecodeError as error:
                    name = printable(str(file))
                    raise UnreadableError(f"{name}: line {number} is not UTF-8") from error
                if text:
                    yield text
    except OSError as error:
        raise UnreadableError(f"{printable(str(file))}: {explain(error)}") from error


def _write_json(results: Iterable[TextResult]) -> int:
    refused = 0
    for found in results:
        error = found.error
        refused += error is not None
        show_json(
            {
                "text": found.text,
                "result": found.result,
                "error": error
                and {"message": str(error), "code": error.code.name, "reason": error.reason},
            }
        )
    return refused
