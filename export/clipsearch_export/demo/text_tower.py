"""The text tower, distilled: a small causal transformer learns to mean what the teacher means."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import kl_div, normalize
from transformers import CLIPTextModelWithProjection

from clipsearch_export.demo import training, vocabulary
from clipsearch_export.demo.architecture import text_config
from clipsearch_export.demo.phrases import CARRIERS
from clipsearch_export.demo.teacher import Lessons

BATCH = 192  # phrases
# How often each kind of phrase is read. Words and examples carry what nobody drew as an emoji.
SHARES = {
    "names": 0.14,
    "keywords": 0.12,
    "pairs": 0.08,
    "described": 0.12,
    "words": 0.28,
    "definitions": 0.10,
    "examples": 0.16,
}
# How often a phrase comes inside a carrier; sentences never do.
_CARRIED = {"names": 0.5, "keywords": 0.5, "pairs": 0.3, "described": 0.4, "words": 0.25}
_TEMPERATURE = 0.05  # of the similarities within a batch
_BUCKET = 8  # batches sorted by length together: less padding, still mixed


def train(
    folder: Path,
    lessons: Lessons,
    tokenizer: Tokenizer,
    plan: training.Plan,
    progress: Progress,
) -> CLIPTextModelWithProjection:
    """Train (or finish training) the text tower.

    Token embeddings begin as the teacher's vectors of the tokens' own spellings, so that a rare
    word starts near its meaning.
    """
    torch.manual_seed(plan.seed)
    config = text_config()
    config._attn_implementation = "eager"  # in bfloat16, faster than fused at these sizes
    model = CLIPTextModelWithProjection(config)
    with torch.no_grad():
        table = model.text_model.embeddings.token_embedding.weight
        # As long as the default initialisation makes them: standard deviation 0.02 an element.
        table[: len(lessons.pieces)] = lessons.pieces * 0.02 * table.shape[1] ** 0.5
    reader = _Reader(lessons, tokenizer)

    def loss_of(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        ids, meaning = reader.batch(generator)
        with torch.autocast("cpu", torch.bfloat16):
            embeds = model(input_ids=ids).text_embeds
        said = normalize(embeds.float(), dim=-1)
        alike = (said @ meaning.T / _TEMPERATURE).log_softmax(dim=-1)
        should = (meaning @ meaning.T / _TEMPERATURE).softmax(dim=-1)
        return {
            "distance": 2 * (1 - (said * meaning).sum(dim=-1).mean()),
            "relations": kl_div(alike, should, reduction="batchmean"),
        }

    training.run(model, plan, loss_of, folder, progress)
    return model


class _Reader:
    """Draws batches: phrases by their shares, some inside a carrier, padded to the longest."""

    def __init__(self, lessons: Lessons, tokenizer: Tokenizer) -> None:
        self._texts = lessons.phrases.kinds()
        self._vectors = lessons.vectors
        self._tokenizer = tokenizer

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Token ids (BATCH, t) int64 and what they mean (BATCH, DIM) float32.

        All phrases of a batch are of about equal length: of several batches' worth, sorted, one
        slice is taken.
        """
        rng = random.Random(generator.initial_seed())
        kinds = rng.choices(list(SHARES), list(SHARES.values()), k=BATCH * _BUCKET)
        drawn = []
        for kind in kinds:
            row = rng.randrange(len(self._texts[kind]))
            text = self._texts[kind][row]
            if rng.random() < _CARRIED.get(kind, 0.0):
                text = rng.choice(CARRIERS).format(text)
            drawn.append((text, kind, row))
        drawn.sort(key=lambda item: len(item[0]))
        start = rng.randrange(_BUCKET) * BATCH
        drawn = drawn[start : start + BATCH]
        ids = token_ids(self._tokenizer, [text for text, _, _ in drawn])
        return ids, torch.stack([self._vectors[kind][row] for _, kind, row in drawn])


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """(n, t) int64: start, tokens, end; shorter texts filled up with the end token.

    The tower is causal and reads its answer at the first end token, so filling changes nothing.
    """
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    longest = max(len(ids) for ids in encoded)
    padded = [ids + [vocabulary.END_ID] * (longest - len(ids)) for ids in encoded]
    return torch.tensor(padded)


@torch.no_grad()
def encode(
    model: CLIPTextModelWithProjection, tokenizer: Tokenizer, texts: list[str], batch: int = 256
) -> Tensor:
    """(n, DIM) float32, L2 = 1, in the order of ``texts``."""
    vectors = [
        normalize(model(input_ids=token_ids(tokenizer, texts[i : i + batch])).text_embeds, dim=-1)
        for i in range(0, len(texts), batch)
    ]
    return torch.cat(vectors)
