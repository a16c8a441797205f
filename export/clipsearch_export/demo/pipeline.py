"""The commands' work, stage after stage. Each stage keeps its result in the work folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from clipsearch_export.demo import (
    checkpoint,
    phrases,
    text_tower,
    training,
    vision_tower,
    vocabulary,
)
from clipsearch_export.demo.collect import NOTO, collect
from clipsearch_export.demo.samples import write_samples
from clipsearch_export.demo.score import Report, Scorer
from clipsearch_export.demo.teacher import teach
from clipsearch_export.demo.wordnet import read_wordnet

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How many steps each tower learns for, and both together."""

    text: int
    vision: int
    align: int


def train(
    work_dir: Path,
    out: Path,
    steps: Steps,
    only: Literal["text", "vision"] | None,
    progress: Progress,
) -> None:
    """From nothing to the checkpoint in ``out``; or ``only`` one tower's training, and no more.

    The towers learn apart from each other, so that two processes may train one each.
    """
    collection = collect(work_dir, progress)
    emoji, styles = collection.emoji, collection.styles()
    wordnet = read_wordnet(collection.sources / "wordnet/usr/share/wordnet")
    gathered = phrases.gather(emoji, wordnet, SEED)
    tokenizer = vocabulary.build_once(work_dir / "tokenizer.json", gathered)
    lessons = teach(work_dir / "teacher", gathered, vocabulary.spellings(tokenizer), progress)
    towers = work_dir / "towers"

    vision = vision_tower.new(styles, emoji, SEED)
    if only != "text":
        aims = vision_tower.targets(lessons.read, emoji, wordnet.common)
        plan = training.Plan(
            name="vision", steps=steps.vision, learning_rate=1e-3, weight_decay=0.05, seed=SEED
        )
        vision_tower.train(
            vision, towers, styles, emoji, aims, plan, steps.vision * 2 // 5, progress
        )
    if only != "vision":
        plan = training.Plan(
            name="text", steps=steps.text, learning_rate=1e-3, weight_decay=0.01, seed=SEED
        )
        text = text_tower.train(towers, lessons, tokenizer, plan, progress)
    if only is not None:
        return
    checkpoint.save(out, text, vision, tokenizer)  # usable already; the rest is refinement

    aims = vision_tower.targets(partial(text_tower.encode, text, tokenizer), emoji, wordnet.common)
    plan = training.Plan(
        name="align", steps=steps.align, learning_rate=2e-4, weight_decay=0.05, seed=SEED + 1
    )
    vision_tower.train(vision, towers, styles, emoji, aims, plan, 0, progress)
    checkpoint.save(out, text, vision, tokenizer)


def score(work_dir: Path, folder: Path, progress: Progress) -> Report:
    """Measure the checkpoint in ``folder`` on every style."""
    collection = collect(work_dir, progress)
    scorer = Scorer(folder, collection.emoji)
    return scorer.report(collection.styles(), collection.unseen(), NOTO, progress)


def samples(work_dir: Path, out: Path, progress: Progress) -> None:
    """Cut the sample pictures that ship with the repository."""
    collection = collect(work_dir, progress)
    write_samples(out, collection.emoji, collection.noto, progress)
