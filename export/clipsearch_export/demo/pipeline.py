"""The commands' work, stage after stage. Each stage keeps its result in the work folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
    """How many steps each tower learns for."""

    text: int
    vision: int


def train(work_dir: Path, out: Path, steps: Steps, progress: Progress) -> None:
    """From nothing to the checkpoint in ``out``."""
    collection = collect(work_dir, progress)
    emoji, styles = collection.emoji, [*collection.styles(), *collection.inked()]
    wordnet = read_wordnet(collection.sources / "wordnet/usr/share/wordnet")
    gathered = phrases.gather(emoji, wordnet, SEED)
    tokenizer = vocabulary.build_once(work_dir / "tokenizer.json", gathered)
    lessons = teach(work_dir / "teacher", gathered, vocabulary.spellings(tokenizer), progress)
    towers = work_dir / "towers"

    plan = training.Plan(
        name="text", steps=steps.text, learning_rate=1e-3, weight_decay=0.01, seed=SEED
    )
    text = text_tower.train(towers, lessons, tokenizer, plan, progress)

    read = partial(text_tower.encode, text, tokenizer)
    aims = vision_tower.targets(read, emoji, wordnet.common)
    plan = training.Plan(
        name="vision", steps=steps.vision, learning_rate=1e-3, weight_decay=0.05, seed=SEED
    )
    vision = vision_tower.new(styles, emoji, SEED)
    vision_tower.train(vision, towers, styles, emoji, aims, plan, progress)
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
