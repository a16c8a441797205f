"""The vision tower: a small ViT learns to put each drawing where the finished text tower puts its
words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, normalize, unfold
from transformers import CLIPVisionModelWithProjection

from clipsearch_export.demo import training
from clipsearch_export.demo.architecture import PATCH_SIZE, vision_config
from clipsearch_export.demo.augment import augment, plain
from clipsearch_export.demo.emoji import Emoji
from clipsearch_export.demo.phrases import spoken
from clipsearch_export.demo.pictures import Style

BATCH = 64  # drawings, no two of one emoji
_NAME_TEMPERATURE = 0.05  # names lie close: "man running" is at 0.9 of "person running"
_WORD_TEMPERATURE = 0.05
_WORDS_PER_STEP = 4096
# How many of them are seen as they are; the others are augmented. With none at first, the tower
# had learned nothing after 600 steps; with most to the end, it knew only the styles it had seen.
_PLAIN_AT_FIRST = 48
_PLAIN_LATER = 16
_EASY_SHARE = 0.4  # of the steps are "at first"
_WHITENING_BATCHES = 16  # 65,536 patches for a 192 x 192 covariance
_KEYWORD_WEIGHT = 0.3
_WORD_WEIGHT = 0.3


@dataclass(frozen=True)
class Targets:
    """Where what is said about the pictures lies; frozen. All rows have L2 = 1."""

    names: Tensor  # (n emoji, DIM)
    keywords: Tensor  # (k, DIM)
    has_keyword: Tensor  # (n emoji, k) float32: each row sums to 1, or to 0 without keywords
    centres: Tensor  # (n emoji, DIM): between a name and its keywords
    words: Tensor  # (w, DIM): everyday English, for what no keyword says


def targets(read: Callable[[list[str]], Tensor], emoji: list[Emoji], words: list[str]) -> Targets:
    """Let ``read`` (n texts -> (n, DIM), L2 = 1) read all names, keywords and ``words`` once."""
    names = read([spoken(e.name) for e in emoji])
    vocabulary = sorted({keyword for e in emoji for keyword in e.keywords})
    keywords = read(vocabulary)
    column = {keyword: place for place, keyword in enumerate(vocabulary)}
    has_keyword = torch.zeros(len(emoji), len(vocabulary))
    for row, e in enumerate(emoji):
        for keyword in e.keywords:
            has_keyword[row, column[keyword]] = 1 / len(e.keywords)
    centres = normalize(names + has_keyword @ keywords, dim=-1)
    return Targets(names, keywords, has_keyword, centres, read(words))


def new(styles: list[Style], emoji: list[Emoji], seed: int) -> CLIPVisionModelWithProjection:
    """An untrained tower that sees patches whitened, and their places apart, from its first step.

    By default the many white patches outshout all others, and places begin at 2 % of what a patch
    gives: the tower spends its first thousand steps on learning to look.
    """
    torch.manual_seed(seed)
    config = vision_config()
    config._attn_implementation = "eager"  # in bfloat16, twice as fast as fused at these sizes
    model = CLIPVisionModelWithProjection(config)
    generator = torch.Generator().manual_seed(seed)
    gallery = _Gallery(styles, [e.code for e in emoji])
    pictures = [augment(gallery.batch(generator)[0], generator) for _ in range(_WHITENING_BATCHES)]
    patches = unfold(torch.cat(pictures), PATCH_SIZE, stride=PATCH_SIZE).mT.flatten(0, 1)
    mean = patches.mean(dim=0)
    variances, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        kernel = embeddings.patch_embedding.weight  # (width, 3, PATCH_SIZE, PATCH_SIZE)
        strongest = slice(-len(kernel), None)
        # A tenth of the mean variance is added, so that mere noise is not blown up.
        scale = (variances[strongest] + 0.1 * variances.mean()).rsqrt()
        whitening = (axes[:, strongest] * scale).T
        kernel.copy_(whitening.view_as(kernel))
        places = embeddings.position_embedding.weight
        torch.nn.init.normal_(places, std=0.3)
        places[1:] -= whitening @ mean  # the patch projection has no bias of its own
    return model


def train(
    model: CLIPVisionModelWithProjection,
    folder: Path,
    styles: list[Style],
    emoji: list[Emoji],
    aims: Targets,
    plan: training.Plan,
    progress: Progress,
) -> None:
    """Train (or finish training) ``model`` in place on drawings of ``styles``."""
    easy_steps = int(plan.steps * _EASY_SHARE)
    gallery = _Gallery(styles, [e.code for e in emoji])

    def loss_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawings, rows = gallery.batch(generator)
        known = _PLAIN_AT_FIRST if step < easy_steps else _PLAIN_LATER
        pictures = torch.cat([plain(drawings[:known]), augment(drawings[known:], generator)])
        with torch.autocast("cpu", torch.bfloat16):  # half the time on CPUs that have it
            embeds = model(pixel_values=pictures).image_embeds
        seen = normalize(embeds.float(), dim=-1)
        by_name = cross_entropy(seen @ aims.names.T / _NAME_TEMPERATURE, rows)
        by_keyword = cross_entropy(
            seen @ aims.keywords.T / _WORD_TEMPERATURE, aims.has_keyword[rows]
        )
        centres = aims.centres[rows]
        some = torch.randperm(len(aims.words), generator=generator)[:_WORDS_PER_STEP]
        words = aims.words[some].T / _WORD_TEMPERATURE
        by_word = kl_div(
            (seen @ words).log_softmax(dim=-1),
            (centres @ words).softmax(dim=-1),
            reduction="batchmean",
        )
        return {
            "name": by_name,
            "keyword": _KEYWORD_WEIGHT * by_keyword,
            "centre": 1 - (seen * centres).sum(dim=-1).mean(),
            "words": _WORD_WEIGHT * by_word,
        }

    training.run(model, plan, loss_of, folder, progress)


class _Gallery:
    """Draws batches: emoji evenly, then one of the drawings that any style has of each."""

    def __init__(self, styles: list[Style], codes: list[str]) -> None:
        row_of = {code: row for row, code in enumerate(codes)}
        self._styles = styles
        self._drawings: list[list[tuple[int, int]]] = [[] for _ in codes]
        for number, style in enumerate(styles):
            for place, code in enumerate(style.codes):
                self._drawings[row_of[code]].append((number, place))

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Drawings (BATCH, h, w, 4) uint8 and the rows of their emoji (BATCH,) int64."""
        rows = torch.randperm(len(self._drawings), generator=generator)[:BATCH]
        chosen = torch.rand(BATCH, generator=generator).tolist()
        pixels = np.stack(list(self._pick(rows.tolist(), chosen)))
        return torch.from_numpy(pixels), rows

    def _pick(self, rows: list[int], chosen: list[float]) -> Iterator[np.ndarray]:
        for row, fraction in zip(rows, chosen, strict=True):
            options = self._drawings[row]
            number, place = options[int(fraction * len(options))]
            yield self._styles[number].pixels[place]
