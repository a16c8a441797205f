"""The two encoders as they are exported: what a caller sends in, unit vectors out.

Attribute names follow transformers' CLIPModel, so that a weight has one name everywhere: in the
checkpoint, in these modules and in the ONNX file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPModel


class TextTower(nn.Module):
    """Embeds tokenised texts.

    ``input_ids``: (n, t) int64, start and end token included, padded with the end token; t is at
    least 2 and at most the checkpoint's ``max_position_embeddings``.
    Returns ``text_embeds``: (n, d) float32 of L2 norm 1.

    There is no attention mask: the tower is causal and pooled at the first end token, so what
    follows it changes nothing.
    """

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.text_projection = model.text_projection

    def forward(self, input_ids: Tensor) -> Tensor:
        pooled = self.text_model(input_ids=input_ids).pooler_output
        return _unit(self.text_projection(pooled))


class VisionTower(nn.Module):
    """Embeds images.

    ``pixel_values``: (n, 3, s, s) uint8, RGB, resized and cropped to the checkpoint's image size.
    Returns ``image_embeds``: (n, d) float32 of L2 norm 1.

    ``mean`` and ``std`` are those of the preprocessor, for channels in the range 0 to 1.
    """

    def __init__(
        self,
        model: CLIPModel,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection
        self.register_buffer("mean", _channels(mean), persistent=False)
        self.register_buffer("std", _channels(std), persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, pixel_values: Tensor) -> Tensor:
        # In float32 whatever the tower computes in: float16 would round once more on the way.
        normalised = (pixel_values.to(torch.float32) - self.mean) / self.std
        pooled = self.vision_model(pixel_values=normalised).pooler_output
        return _unit(self.visual_projection(pooled))


def _channels(values: tuple[float, float, float]) -> Tensor:
    """Per-channel numbers for the range 0 to 1 -> (3, 1, 1) for the range 0 to 255."""
    return torch.tensor(values, dtype=torch.float32).mul(255.0).reshape(3, 1, 1)


def _unit(embeds: Tensor) -> Tensor:
    # The squares of a float16 embedding can overflow, so its norm is taken in float32.
    return nn.functional.normalize(embeds.to(torch.float32), dim=-1)
