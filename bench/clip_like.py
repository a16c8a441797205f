"""Synthetic embeddings that are clustered like CLIP's: images to store, texts and images to ask.

No embeddings of a million photographs are at hand, and uniform random vectors are nobody's data: a
graph finds little in them. These are a mixture on the unit sphere that imitates what is known of
CLIP, deterministic by seed, and the first n of a million are the first n of any other number:

* Each modality lies in a narrow cone around a mean of its own, and the cones are apart, by a vector
  orthogonal to what the images differ in [1, 2]. Cosine 0.5 between two images, 0.17 between a text
  and an image that has nothing to do with it. A few coordinates make much of the gap [3], which is
  what a scalar quantiser, with one range for all coordinates, may stumble on.
* Concepts are long-tailed [4]: 20,000 of them, as many as ImageNet-21k has classes, with a
  Zipf-Mandelbrot law. A concept makes 30 to 80 % of what tells its images from others.
* Few directions hold most of the variance: the spectrum of the contents falls as (i + 12)^-1.5, so
  that it has a participation ratio of 65 in 510 dimensions. The dimension that a search meets is
  local, and what recall depends on [5]; ``describe`` measures it by the estimator of [6].
* Texts are near concepts, and not copies of images: a text shares with the images that it describes
  their concept only (cosine 0.3), and the rest of it is in directions of its own. Such queries are
  harder for a graph than those from among the stored vectors [7], so both are measured.

[1] Liang et al., Mind the Gap, NeurIPS 2022, arXiv:2203.02053.
[2] Levi and Gilboa, The Double-Ellipsoid Geometry of CLIP, ICML 2025, arXiv:2411.14517; Chowers et
    al., Is the Modality Gap a Bug or a Feature?, 2026, arXiv:2603.29080 (the orthogonality).
[3] Schrodi et al., Two Effects, One Trigger, ICLR 2025, arXiv:2404.07983.
[4] Udandarao et al., No "Zero-Shot" Without Exponential Data, NeurIPS 2024, arXiv:2404.04125.
[5] Elliott and Clark, The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in
    Hierarchical Navigable Small Worlds, ICTIR 2024, arXiv:2405.17813.
[6] Levina and Bickel, Maximum Likelihood Estimation of Intrinsic Dimension, NeurIPS 2004.
[7] Jaiswal et al., OOD-DiskANN, 2022, arXiv:2211.12850.

The figures without a source are our choice: what one sees of ViT-B/32, to a digit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.ports import Embeddings

DIM = 512
BLOCK = 10_000  # images that are drawn from one seed

_CONCEPTS = 20_000
_CONE = 0.5  # mean cosine between two of one modality
_GAP_COSINE = 0.17  # mean cosine between a text and an image
_NAMED = 0.38  # cosine of what a text says and its concept

_IMAGES, _IMAGE_QUERIES, _TEXT_QUERIES = range(3)  # streams of random numbers


class ClipLike:
    """The one world that all embeddings of a seed are from."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        random = np.random.default_rng(seed)
        spectrum = (np.arange(DIM - 2) + 12.0) ** -1.5
        self._scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
        # Cubes of normal numbers: the largest five of 512 hold almost a third of the squares.
        axes = random.standard_normal((DIM, DIM))
        axes[:, :2] **= 3
        basis, _ = np.linalg.qr(axes)
        self._basis = basis.T.astype(np.float32)  # rows: two axes of the cones, then the contents'
        self._centres = self._contents(random, _CONCEPTS)
        self._weight = random.uniform(0.3, 0.8, _CONCEPTS).astype(np.float32)
        popularity = 1 / (np.arange(_CONCEPTS) + 10.0)
        self._popularity = random.permutation(popularity / popularity.sum())

    def images(self, block: int) -> Embeddings:
        """Images number block * BLOCK and on: (BLOCK, DIM)."""
        random = np.random.default_rng([self._seed, _IMAGES, block])
        return self._in_cone(0.0, self._pictured(random, self._some_concepts(random, BLOCK)))

    def image_queries(self, n: int) -> Embeddings:
        """Images that are like the stored ones and none of them: (n, DIM)."""
        random = np.random.default_rng([self._seed, _IMAGE_QUERIES])
        return self._in_cone(0.0, self._pictured(random, self._some_concepts(random, n)))

    def text_queries(self, n: int) -> tuple[Embeddings, Embeddings]:
        """Texts, and an image for each that it describes, which is not stored: (n, DIM) each."""
        random = np.random.default_rng([self._seed, _TEXT_QUERIES])
        concepts = self._some_concepts(random, n)
        own = _unit(random.standard_normal((n, DIM - 2), dtype=np.float32))
        contents = _NAMED * self._centres[concepts] + np.float32(np.sqrt(1 - _NAMED**2)) * own
        angle = np.arccos(_GAP_COSINE / _CONE)
        described = self._pictured(random, concepts)
        return self._in_cone(angle, _unit(contents)), self._in_cone(0.0, described)

    def _contents(self, random: np.random.Generator, n: int) -> Embeddings:
        """Unit vectors of the spectrum: (n, DIM - 2)."""
        return _unit(random.standard_normal((n, DIM - 2), dtype=np.float32) * self._scale)

    def _some_concepts(self, random: np.random.Generator, n: int) -> NDArray[np.int64]:
        return random.choice(_CONCEPTS, n, p=self._popularity)

    def _pictured(self, random: np.random.Generator, concepts: NDArray[np.int64]) -> Embeddings:
        """Contents of an image of each concept."""
        weight: Embeddings = self._weight[concepts, None]
        own = self._contents(random, len(concepts))
        own *= np.sqrt(1 - weight)
        return _unit(np.sqrt(weight) * self._centres[concepts] + own)

    def _in_cone(self, angle: float, contents: Embeddings) -> Embeddings:
        """Puts unit contents around the axis that is at an angle to the images'."""
        axis = np.sqrt(_CONE) * np.array([np.cos(angle), np.sin(angle)])
        axes = np.broadcast_to(axis.astype(np.float32), (len(contents), 2))
        rest = np.float32(np.sqrt(1 - _CONE)) * contents
        return _unit(np.hstack([axes, rest]) @ self._basis)


def describe(world: ClipLike, nearest: NDArray[np.float32]) -> dict[str, float]:
    """What the embeddings are like, to be held against real ones.

    ``nearest`` is (queries, k): the cosines of the k stored vectors nearest to image queries,
    descending.
    """
    images = world.images(0)
    texts, described = world.text_queries(1000)
    between = images[:1000] @ images[1000:2000].T
    across = texts @ images[:1000].T
    variances = np.linalg.eigvalsh(np.cov(images, rowvar=False))
    distances = np.sqrt(2 - 2 * nearest.astype(np.float64))
    local = 1 / np.mean(np.log(distances[:, -1:] / distances[:, :-1]), axis=1)
    return {
        "cosine of two images, mean": float(between.mean()),
        "cosine of two images, 99th percentile": float(np.percentile(between, 99)),
        "cosine of an image and its nearest stored one, median": float(np.median(nearest[:, 0])),
        "cosine of a text and an image, mean": float(across.mean()),
        "cosine of a text and an image, standard deviation": float(across.std()),
        "cosine of a text and an image that it describes, mean": float(
            np.einsum("nd,nd->n", texts, described).mean()
        ),
        "distance of the mean text and the mean image": float(
            np.linalg.norm(texts.mean(axis=0) - images.mean(axis=0))
        ),
        "participation ratio of the images' variances": float(
            variances.sum() ** 2 / (variances**2).sum()
        ),
        "local intrinsic dimension, median": float(np.median(local)),
    }


def _unit(vectors: Embeddings) -> Embeddings:
    lengths: Embeddings = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
