"""What there is to know: each emoji with its English name and keywords, from Unicode's CLDR."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_VARIATION_SELECTOR = "\ufe0f"  # asks for the colour form; the same emoji with or without it


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji. ``code`` is its code points in lower-case hex joined by ``-``, without fe0f."""

    code: str
    name: str
    keywords: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The name as a file name: ``black cat`` -> ``black-cat``."""
        return slugify(self.name) or self.code


def slugify(name: str) -> str:
    """Plain lower-case letters and digits of ``name``, single hyphens between words."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def code_of(text: str) -> str:
    """The code (see :class:`Emoji`) of a string of characters."""
    return "-".join(f"{ord(character):x}" for character in text.replace(_VARIATION_SELECTOR, ""))


def read_emoji(cldr: Path, cldr_derived: Path, drawn: Iterable[str]) -> list[Emoji]:
    """The emoji with an English name whose code is in ``drawn``, skin tones dropped, by code.

    ``cldr`` and ``cldr_derived`` are the unpacked npm packages of the same names.
    """
    annotations: dict[str, Any] = {}
    for folder, part in ((cldr, "annotations"), (cldr_derived, "annotationsDerived")):
        file = folder / "package" / part / "en" / "annotations.json"
        annotations |= json.loads(file.read_text("utf-8"))[part]["annotations"]
    wanted = set(drawn)
    found = [
        Emoji(code=code_of(text), name=entry["tts"][0], keywords=tuple(entry.get("default", ())))
        for text, entry in annotations.items()
        if "tts" in entry and not _SKIN_TONES.search(text)
    ]
    return sorted({e.code: e for e in found if e.code in wanted}.values(), key=lambda e: e.code)
