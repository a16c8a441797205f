"""Does auto_cut tell queries that something matches from those that nothing does?

Asks for the demo's 1,884 sample pictures by the queries of the model's own scores
(clipsearch_export/demo/queries.py), which say which pictures are right; then again with all of
these taken away; and by texts about what no picture shows. Compares the rule that is built in with
the same by other measures of the spread, and with the largest gap between the first scores.

    python bench/auto_cut.py
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clipsearch_export.demo.queries import FREE_QUERIES, SYNONYMS
from clipsearch_server.auto_cut import SAMPLE_SIZE, cut_off_score
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.image import decode_image
from clipsearch_server.model import open_model_folder
from clipsearch_server.ports import Embeddings
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.text import Tokenizer

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"
GAP_DEPTH = 100
BATCH = 32

# Written before the first result was seen.
NOTHING_SHOWS = (
    "quarterly revenue growth of the company",
    "an x-ray of a broken knee",
    "the declaration of independence",
    "a screenshot of a spreadsheet",
    "how to configure a router",
    "a black and white portrait of my grandfather",
    "the philosophy of Immanuel Kant",
    "satellite image of the Amazon delta",
    "terms and conditions apply",
    "a lecture on linear algebra",
    "a marble statue of a Roman emperor",
    "wallpaper with a floral pattern",
    "a macro shot of a circuit board",
    "the result of the election",
    "handwritten notes from the meeting",
    "asdf qwer zxcv",
    "a blurry photo of an empty corridor",
    "interest rates of the central bank",
    "an aerial view of a suburb",
    "a carpet in a hotel lobby",
)

Rule: TypeAlias = Callable[[NDArray[np.float32]], float]  # scores (n,) -> the score to cut at


@dataclass(frozen=True, slots=True)
class Case:
    """A query's scores (n,), and which of the pictures are right."""

    scores: NDArray[np.float32]
    right: NDArray[np.bool_]


def sample_of(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.random.default_rng(0).permutation(scores)[:SAMPLE_SIZE]


def built_in(scores: NDArray[np.float32]) -> float:
    return cut_off_score(sample_of(scores), len(scores))


def by_standard_deviation(scores: NDArray[np.float32]) -> float:
    sample = sample_of(scores)
    return float(sample.mean() + sample.std() * np.sqrt(2 * np.log(len(scores))))


def by_median_absolute_deviation(scores: NDArray[np.float32]) -> float:
    sample = sample_of(scores)
    middle = np.median(sample)
    deviation = np.median(np.abs(sample - middle)) / 0.6745  # that of a normal distribution is 1
    return float(middle + deviation * np.sqrt(2 * np.log(len(scores))))


def largest_gap(scores: NDArray[np.float32]) -> float:
    """Cuts at the largest gap between neighbours among the first scores, as Weaviate's autocut of
    1 does with the first jump."""
    first = np.sort(scores)[::-1][:GAP_DEPTH]
    return float(first[(first[:-1] - first[1:]).argmax()])


RULES: dict[str, Rule] = {
    "built in": built_in,
    "standard deviation": by_standard_deviation,
    "median absolute deviation": by_median_absolute_deviation,
    "largest gap": largest_gap,
    "no cut: the first 5": lambda scores: float(np.sort(scores)[-5]),
}


async def main() -> None:
    console = Console()
    with (PICTURES / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    queries = (*FREE_QUERIES, *SYNONYMS)
    images, texts = await embed(
        [PICTURES / row["file"] for row in rows],
        [*(query.text for query in queries), *NOTHING_SHOWS],
    )
    scores = texts @ images.T
    right = np.array([[query.accepts(row["name"]) for row in rows] for query in queries])
    asked = scores[: len(queries)]
    matching = [Case(*case) for case in zip(asked, right, strict=True)]
    removed = [Case(case.scores[~case.right], np.zeros(0, bool)) for case in matching]
    nothing = [Case(some, np.zeros(0, bool)) for some in scores[len(queries) :]]
    table = Table(title=f"{len(rows)} pictures, {len(queries)} queries with right pictures")
    for column in (
        "rule", "precision", "recall", "right first kept", "hits (most)",
        "empty: right ones removed", "empty: nothing shows it",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "rule" else "right")
    for name, rule in RULES.items():
        table.add_row(name, *cells(rule, matching), share_empty(rule, removed),
                      share_empty(rule, nothing))  # fmt: skip
    console.print(table)


def cells(rule: Rule, cases: list[Case]) -> Iterator[str]:
    """Precision (of the queries with hits) and recall, each the mean over the queries; of the
    queries whose first picture is right, how many keep it; and the median number of hits."""
    kept = [case.scores >= rule(case.scores) for case in cases]
    good = [int((it & case.right).sum()) for it, case in zip(kept, cases, strict=True)]
    hits = [int(it.sum()) for it in kept]
    precisions = [good / hits for good, hits in zip(good, hits, strict=True) if hits]
    yield f"{np.mean(precisions):.2f}"
    yield f"{np.mean([n / case.right.sum() for n, case in zip(good, cases, strict=True)]):.2f}"
    firsts = [int(case.scores.argmax()) for case in cases]
    first_kept = [
        it[first] for it, case, first in zip(kept, cases, firsts, strict=True) if case.right[first]
    ]
    yield f"{sum(first_kept)} of {len(first_kept)}"
    yield f"{np.median(hits):.0f} ({max(hits)})"


def share_empty(rule: Rule, cases: list[Case]) -> str:
    empty = sum(case.scores.max() < rule(case.scores) for case in cases)
    return f"{empty} of {len(cases)}"


async def embed(files: list[Path], texts: list[str]) -> tuple[Embeddings, Embeddings]:
    """Embeds pictures and texts with the demo model, as a server does."""
    model = await asyncio.to_thread(open_model_folder, DEMO_MODEL_DIR)
    card = model.card
    tokenizer = Tokenizer(
        model.tokenizer_path,
        max_tokens=card.max_tokens,
        start_token_id=card.start_token_id,
        end_token_id=card.end_token_id,
    )
    async with OnnxEncoder(model) as encoder:
        batches = []
        for start in track(range(0, len(files), BATCH), "embedding pictures"):
            decoded = [
                decode_image(
                    file.read_bytes(),
                    size_px=card.image_size_px,
                    resize_px=card.resize_px,
                    resample=card.resample,
                    max_pixels=10**7,
                )
                for file in files[start : start + BATCH]
            ]
            batches.append(await encoder.encode_image(np.stack([it.pixels for it in decoded])))
        rows = [await encoder.encode_text(tokenizer.tokenize(it).token_ids[None]) for it in texts]
    return np.concatenate(batches), np.concatenate(rows)


if __name__ == "__main__":
    asyncio.run(main())
