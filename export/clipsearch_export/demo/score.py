"""Honest numbers about a checkpoint: by name, by carrier, by synonym, by free query.

Everything is measured through the checkpoint as a user of transformers would load it, on drawings
put over white and resized as CLIP's own image processor does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil, CLIPModel

from clipsearch_export.demo.emoji import Emoji
from clipsearch_export.demo.phrases import spoken
from clipsearch_export.demo.pictures import Pixels, Style
from clipsearch_export.demo.queries import (
    FREE_QUERIES,
    HELD_OUT_CARRIERS,
    SYNONYMS,
    Query,
)
from clipsearch_export.demo.text_tower import token_ids

_DEPTHS = (1, 5, 10)
_TOP_FREE = 3
_TOP_SYNONYM = 5
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How often the picture asked for by name is among the first 1, 5, 10 of a style's pictures.

    ``random`` is what guessing would give: depth over the number of emoji drawn.
    """

    style: str
    pictures: int
    trained: bool
    at: dict[int, float]
    random: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A query, the names of its first pictures, and which of them are right."""

    text: str
    names: list[str]
    right: list[bool]
    precision: float  # right ones among the first, over as many as could be right
    seen: bool  # whether the text is a word of some name or keyword in the training


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that scores.json holds."""

    parameters: int
    bytes: int  # of the weights file
    by_name: list[Recall]
    by_carrier: dict[str, dict[str, float]]  # carrier -> style -> recall at 10
    synonyms: list[Answer]
    free: dict[str, list[Answer]]  # style -> answers

    def as_json(self) -> str:
        """The whole report."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """The tables of docs/demo-model.md."""
        parts = [
            self._summary(),
            _recall_table(self.by_name),
            _carrier_table(self.by_carrier),
            *(_answer_table(style, answers) for style, answers in self.free.items()),
            _synonym_table(self.synonyms),
        ]
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> str:
        unseen = [answer.precision for answer in self.synonyms if not answer.seen]
        every = [answer.precision for answer in self.synonyms]
        lines = [
            f"- {self.parameters / 1e6:.2f} million parameters, {self.bytes / 1e6:.1f} MB",
            f"- synonyms, precision@{_TOP_SYNONYM}: {np.mean(every):.2f} over all {len(every)}",
            f"- of these, {np.mean(unseen):.2f} over the {len(unseen)} in no name or keyword",
        ]
        for style, answers in self.free.items():
            good = sum(any(answer.right) for answer in answers)
            lines.append(
                f"- free queries on {style}: {good} of {len(answers)} have a right picture "
                f"among the first {_TOP_FREE}"
            )
        return "\n".join(lines)


class Scorer:
    """A loaded checkpoint, and the emoji it is asked for."""

    def __init__(self, checkpoint: Path, emoji: list[Emoji]) -> None:
        self._model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
        self._weights = checkpoint / "model.safetensors"
        self._emoji = {e.code: e for e in emoji}

    def report(
        self, trained: Iterable[Style], unseen: Style, shown: str, progress: Progress
    ) -> Report:
        """Measure every style by name; carriers and queries on ``shown`` and ``unseen``."""
        trained = list(trained)
        styles = [*trained, unseen]
        task = progress.add_task("look at pictures", total=len(styles))
        seen = {}
        for style in styles:
            seen[style.name] = self._pictures(style)
            progress.advance(task)
        asked = [style for style in styles if style.name in (shown, unseen.name)]
        words = {
            word
            for e in self._emoji.values()
            for text in (spoken(e.name), *e.keywords)
            for word in text.lower().split()
        }
        return Report(
            parameters=sum(p.numel() for p in self._model.parameters()),
            bytes=self._weights.stat().st_size,
            by_name=[
                self._by_name(style, seen[style.name], trained=style is not unseen)
                for style in styles
            ],
            by_carrier={
                carrier: {
                    style.name: self._recall(style, seen[style.name], carrier)[10]
                    for style in asked
                }
                for carrier in HELD_OUT_CARRIERS
            },
            synonyms=[
                self._answer(query, asked[0], seen[asked[0].name], _TOP_SYNONYM, words)
                for query in SYNONYMS
            ],
            free={
                style.name: [
                    self._answer(query, style, seen[style.name], _TOP_FREE, words)
                    for query in FREE_QUERIES
                ]
                for style in asked
            },
        )

    def _by_name(self, style: Style, pictures: Tensor, *, trained: bool) -> Recall:
        count = len(style.codes)
        return Recall(
            style=style.name,
            pictures=count,
            trained=trained,
            at=self._recall(style, pictures, "{}"),
            random={depth: depth / count for depth in _DEPTHS},
        )

    def _recall(self, style: Style, pictures: Tensor, carrier: str) -> dict[int, float]:
        """Ask for each drawn emoji once; a second drawing of it is as right as the first."""
        codes = np.asarray(style.codes)
        asked = list(dict.fromkeys(style.codes))
        texts = self._texts([carrier.format(spoken(self._emoji[code].name)) for code in asked])
        nearest = (texts @ pictures.T).topk(max(_DEPTHS), dim=1).indices.numpy()
        hits = codes[nearest] == np.asarray(asked)[:, None]
        return {depth: float(hits[:, :depth].any(axis=1).mean()) for depth in _DEPTHS}

    def _answer(
        self, query: Query, style: Style, pictures: Tensor, depth: int, words: set[str]
    ) -> Answer:
        nearest = (self._texts([query.text]) @ pictures.T)[0].topk(depth).indices.tolist()
        names = [self._emoji[style.codes[place]].name for place in nearest]
        right = [query.accepts(name) for name in names]
        possible = sum(query.accepts(self._emoji[code].name) for code in style.codes)
        return Answer(
            text=query.text,
            names=names,
            right=right,
            precision=sum(right) / min(depth, possible),
            seen=query.text in words,
        )

    @torch.inference_mode()
    def _texts(self, texts: list[str]) -> Tensor:
        vectors = []
        for start in range(0, len(texts), _BATCH):
            ids = token_ids(self._tokenizer, texts[start : start + _BATCH])
            found = self._model.get_text_features(input_ids=ids)
            vectors.append(normalize(getattr(found, "pooler_output", found), dim=-1))
        return torch.cat(vectors)

    @torch.inference_mode()
    def _pictures(self, style: Style) -> Tensor:
        vectors = []
        for start in range(0, len(style.codes), _BATCH):
            images = [over_white(pixels) for pixels in style.pixels[start : start + _BATCH]]
            inputs = self._processor(images, return_tensors="pt")
            found = self._model.get_image_features(**inputs)
            vectors.append(normalize(getattr(found, "pooler_output", found), dim=-1))
        return torch.cat(vectors)


def over_white(pixels: Pixels) -> Image.Image:
    """(h, w, 4) RGBA -> an RGB picture, as the server shows transparency."""
    drawing = Image.fromarray(pixels, "RGBA")
    page = Image.new("RGBA", drawing.size, "white")
    return Image.alpha_composite(page, drawing).convert("RGB")


def _recall_table(rows: list[Recall]) -> str:
    lines = ["| style | pictures | R@1 | R@5 | R@10 | random R@10 |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        name = row.style if row.trained else f"**{row.style} (never seen)**"
        at = " | ".join(f"{row.at[depth]:.3f}" for depth in _DEPTHS)
        lines.append(f"| {name} | {row.pictures} | {at} | {row.random[10]:.3f} |")
    return "\n".join(lines)


def _carrier_table(carriers: dict[str, dict[str, float]]) -> str:
    styles = list(next(iter(carriers.values())))
    lines = [
        "| asked as | " + " | ".join(f"{style} R@10" for style in styles) + " |",
        "|---|" + "--:|" * len(styles),
    ]
    for carrier, scores in carriers.items():
        cells = " | ".join(f"{scores[style]:.3f}" for style in styles)
        lines.append(f"| {carrier.format('…')} | {cells} |")
    return "\n".join(lines)


def _answer_table(style: str, answers: list[Answer]) -> str:
    lines = [f"| query ({style}) | first {_TOP_FREE} pictures |", "|---|---|"]
    lines += [f"| {answer.text} | {_marked(answer)} |" for answer in answers]
    return "\n".join(lines)


def _synonym_table(answers: list[Answer]) -> str:
    lines = ["| synonym | seen | P@5 | first 5 pictures |", "|---|---|--:|---|"]
    for answer in answers:
        seen = "yes" if answer.seen else "no"
        lines.append(f"| {answer.text} | {seen} | {answer.precision:.2f} | {_marked(answer)} |")
    return "\n".join(lines)


def _marked(answer: Answer) -> str:
    """The names, right ones in bold."""
    pairs = zip(answer.names, answer.right, strict=True)
    return ", ".join(f"**{name}**" if right else name for name, right in pairs)
