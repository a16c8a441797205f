"""What the command line asks for -> the terms of a query."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipsearch import QueryTerm
from clipsearch.cli.sources import URL, Source, UnreadableError, printable

# `::0.5` at the end, as Midjourney's users write it. Texts, files and URLs do not end so.
_WEIGHT = re.compile(r"(.*?)\s*::\s*(-?(?:\d+\.?\d*|\.\d+))", re.DOTALL | re.ASCII)
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Term:
    """A text, or an image by its id, URL or file, and how much it counts."""

    name: str
    weight: float = 1.0
    is_image: bool = False

    @property
    def path(self) -> Path | None:
        """The file to send, if it is one."""
        is_file = self.is_image and not (_ID.fullmatch(self.name) or URL.match(self.name))
        return Path(self.name) if is_file else None

    @property
    def is_url(self) -> bool:
        return self.is_image and URL.match(self.name) is not None

    def resolve(self, max_bytes: int) -> QueryTerm:
        """Returns the term to send, with the content of its file.

        Raises UnreadableError if the file cannot be read, or has more than ``max_bytes``.
        """
        if not self.is_image:
            return QueryTerm(text=self.name, weight=self.weight)
        if self.is_url:
            return QueryTerm(image_url=self.name, weight=self.weight)
        if self.path is None:
            return QueryTerm(image_id=self.name, weight=self.weight)
        try:
            item = Source(self.name, path=self.path).read("", {}, max_bytes)
        except UnreadableError as error:
            raise UnreadableError(f"{printable(self.name)}: {error}") from error
        return QueryTerm(image_content=item.content, weight=self.weight)

    def __str__(self) -> str:
        if not self.is_image:
            return f'"{self.name}"'
        return self.name if self.path is None else PurePosixPath(printable(self.name)).name


def parse_term(argument: str, *, is_image: bool = False, sign: int = 1) -> Term:
    """Reads ``NAME`` or ``NAME::WEIGHT``."""
    if match := _WEIGHT.fullmatch(argument):
        return Term(match[1], sign * float(match[2]), is_image)
    return Term(argument, float(sign), is_image)


def describe(terms: Sequence[Term]) -> str:
    """Returns the query for a person: ``"a cat" + hat.jpg x 0.5 - "a dog"``, or just the text."""
    match terms:
        case [Term(name, 1.0, False)]:
            return name
    words: list[str] = []
    for term in terms:
        size = abs(term.weight)
        amount = "" if size == 1 else f" x {size:g}"
        sign = "-" if term.weight < 0 else "+"
        if words or sign == "-":
            words.append(sign)
        words.append(f"{term}{amount}")
    return " ".join(words)
