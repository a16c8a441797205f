"""The words of a filter, and what is said of a wrong one."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<operator> [=<>!]+)
      | (?P<mark> [(),])
      | (?P<word> '(?:[^'\\]|\\.)*' | (?!')(?: "(?:[^"\\]|\\.)*" | [^\s"(),=<>!] )+ )
      | (?P<end> $)
    )""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\.)*)\1""", re.DOTALL)


class FilterSyntaxError(ValueError):
    """A filter that cannot be read. ``str(error)`` shows the place, ``position``, in the text."""

    def __init__(self, message: str, text: str, position: int) -> None:
        super().__init__(message, text, position)
        self.message = message
        self.text = text
        self.position = position

    def __str__(self) -> str:
        if not self.text.strip():
            return self.message
        start = max(self.position - 40, 0)
        shown = re.sub(r"[\s\x00-\x1f\x7f-\x9f]", " ", self.text[start : self.position + 20])
        before = "..." if start else ""
        after = "..." if self.position + 20 < len(self.text) else ""
        marker = " " * (len(before) + self.position - start) + "^"
        return f"{self.message}\n  {before}{shown}{after}\n  {marker}"


@dataclass(frozen=True, slots=True)
class Token:
    """A word, an operator, a mark or the end, and where it stands in which text."""

    kind: str
    text: str
    position: int
    source: str

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else self.text

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words

    def unquoted(self) -> str:
        """Returns what the word says. Raises FilterSyntaxError if only a part of it is quoted."""
        if match := _QUOTED.fullmatch(self.text):
            return re.sub(r"""\\(["'\\])""", r"\1", match[2])
        if '"' in self.text:
            raise self.error("quotes go around the whole value")
        return self.text

    def error(self, message: str) -> FilterSyntaxError:
        return FilterSyntaxError(message, self.source, self.position)


def read_tokens(source: str) -> list[Token]:
    """Returns all tokens, the end among them. Raises FilterSyntaxError for an open quote."""
    tokens: list[Token] = []
    position = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(source, position)
        if match is None or match.lastgroup is None:
            position = len(source) - len(source[position:].lstrip())
            raise FilterSyntaxError("this quote is not closed", source, position)
        kind = match.lastgroup
        tokens.append(Token(kind, match[kind], match.start(kind), source))
        position = match.end()
    return tokens
