"""What the text tower reads while it learns: phrases about emoji, and English at large.

Only CLDR names and keywords and WordNet go in. Carriers ("a picture of a {}") are not phrases of
their own: the text tower learns that a carrier leaves the meaning of what it carries alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from clipsearch_export.demo.emoji import Emoji
from clipsearch_export.demo.wordnet import WordNet

# Trained on. Those that score.py asks with (queries.HELD_OUT_CARRIERS) are not among them.
CARRIERS = (
    "a {}",
    "the {}",
    "an image of {}",
    "a picture of a {}",
    "picture of the {}",
    "an emoji of a {}",
    "{} emoji",
    "a drawing of {}",
    "drawing of the {}",
    "an icon of a {}",
    "{} icon",
    "an illustration of {}",
    "a cartoon of a {}",
    "a photograph of the {}",
    "photo with a {}",
    "find me {}",
    "i am looking for a {}",
    "something like a {}",
    "there is a {}",
    "pictures of {}",
)
_COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
    "grey", "golden", "colorful",
)  # fmt: skip
_QUALITIES = (
    "big", "small", "happy", "sad", "angry", "old", "young", "cute", "funny", "hot", "cold",
    "broken", "fresh", "fast", "heavy", "tasty", "sleepy", "scary", "beautiful", "tired",
)  # fmt: skip
_ACTORS = ("someone", "a person", "a man", "a woman", "people", "a child", "a couple")
_LINKS = ("{} {}", "{} and {}", "{} with {}", "{} of {}", "{} or {}")


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Lists of phrases by kind; each kind is sampled with its own share (text_tower.SHARES)."""

    names: list[str]  # names[i] belongs to emoji[i]
    keywords: list[str]
    pairs: list[str]  # two keywords of one emoji, or its name and a keyword
    described: list[str]  # a colour or quality before a name or keyword; someone doing something
    words: list[str]
    definitions: list[str]
    examples: list[str]

    def kinds(self) -> dict[str, list[str]]:
        """The lists by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def spoken(name: str) -> str:
    """A CLDR name as one would say it: ``flag: Japan`` -> ``flag of Japan``."""
    if name.startswith("flag: "):
        return "flag of " + name.removeprefix("flag: ")
    if re.match(r"(man|woman|person): ", name):
        return name.replace(": ", " with ", 1).replace(", ", " and ")
    return name.replace(": ", " ").replace(", ", " and ")


def gather(emoji: list[Emoji], wordnet: WordNet, seed: int) -> Phrases:
    """All phrases, the same for the same seed."""
    rng = random.Random(seed)
    keywords = sorted({keyword for e in emoji for keyword in e.keywords})
    nouns = sorted({spoken(e.name) for e in emoji if not e.name.startswith("flag")} | {*keywords})
    return Phrases(
        names=[spoken(e.name) for e in emoji],
        keywords=keywords,
        pairs=sorted(set(_pairs(emoji, rng))),
        described=sorted(set(_described(nouns, wordnet, rng))),
        words=sorted(_everyday(wordnet)),
        definitions=[text for text in wordnet.definitions if len(text.split()) <= 9],
        examples=[text for text in wordnet.examples if len(text.split()) <= 10],
    )


def _pairs(emoji: list[Emoji], rng: random.Random) -> Iterable[str]:
    for e in emoji:
        parts = [spoken(e.name), *e.keywords]
        for _ in range(min(14, 3 * len(parts))):
            first, second = rng.choice(parts), rng.choice(parts)
            if first != second:
                yield rng.choice(_LINKS).format(first, second)


def _described(nouns: list[str], wordnet: WordNet, rng: random.Random) -> Iterable[str]:
    for noun in nouns:
        for describing in (*rng.sample(_COLOURS, 2), *rng.sample(_QUALITIES, 2)):
            yield f"{describing} {noun}"
    doing = sorted({word for word in wordnet.common if re.fullmatch(r"[a-z]+ing", word)})
    for action in doing:
        yield f"{rng.choice(_ACTORS)} {action}"
    for noun in nouns:
        if noun.endswith("ing"):
            yield from (f"{actor} {noun}" for actor in _ACTORS)


def _everyday(wordnet: WordNet) -> set[str]:
    """Single words, and the longer ones that people met; not Latin species nor chemistry."""
    single = {word for word in wordnet.words if re.fullmatch(r"[a-z]{2,14}", word)}
    return single | set(wordnet.common)
