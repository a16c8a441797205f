"""The two encoders as they are exported: what a caller sends in, unit vectors out.

They compute what transformers' CLIPModel does, but for what no embedding depends on: the padding of
a text, and of the last layer all but the row that is pooled. Attribute names are CLIPModel's, so
that a weight has one name everywhere: in the checkpoint, in these modules and in the ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

# ONNX Runtime has a kernel of its own for 8-bit weights and a single row, which sums in another
# order: an embedding alone would differ by 1e-7 from the same in a batch.
_ROWS_PER_POOLED = 2


class TextTower(nn.Module):
    """Embeds tokenised texts.

    ``input_ids``: (n, t) int64, start and end token included, padded with the end token; t is at
    least 2 and at most the checkpoint's ``max_position_embeddings``.
    Returns ``text_embeds``: (n, d) float32 of L2 norm 1.

    There is no attention mask: the tower is causal and pooled at the first end token, so what
    follows it changes nothing. Nor does it cost anything but in attention, which is little: between
    attentions, the k tokens that count lie side by side, whichever text they are of.
    """

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.text_projection = model.text_projection

    def forward(self, input_ids: Tensor) -> Tensor:
        tower = self.text_model
        n, t = input_ids.shape
        position = torch.arange(t, device=input_ids.device)
        end = self._end(input_ids)
        counts = (position <= end[:, None]).flatten()  # (n * t,)
        place = counts.nonzero().squeeze(1)  # (k,): of each that counts, among all
        # (n * t,): of each, among those that count. Padding stands for the token before it.
        packed = counts.to(torch.int64).cumsum(0) - 1

        def spread(tokens: Tensor) -> Tensor:  # (1, k, w) -> (n, t, w)
            return tokens.index_select(1, packed).view(n, t, -1)

        def gather(tokens: Tensor, which: Tensor) -> Tensor:  # (n, t, w) -> (1, len(which), w)
            return tokens.view(1, n * t, -1).index_select(1, which)

        dtype = self.text_projection.weight.dtype
        lowest = torch.finfo(dtype).min
        causal = torch.where(position <= position[:, None], 0.0, lowest).to(dtype)
        *layers, last = tower.encoder.layers
        hidden = gather(tower.embeddings(input_ids=input_ids), place)
        for layer in layers:
            attended = _attend(layer, hidden, spread, causal)
            hidden = _feed_forward(layer, hidden, gather(attended, place))
        attended = _attend(last, hidden, spread, causal)
        pooled = (end + torch.arange(n, device=end.device) * t).repeat(_ROWS_PER_POOLED)
        hidden = _feed_forward(
            last, hidden.index_select(1, packed[pooled]), gather(attended, pooled)
        )
        return _unit(self.text_projection(tower.final_layer_norm(hidden[0, :n])))

    def _end(self, input_ids: Tensor) -> Tensor:
        """(n, t) -> (n,): the position at which CLIPModel pools each text."""
        ids = input_ids.to(torch.int32)
        end_token_id = self.text_model.eos_token_id
        # 2 stands in checkpoints of before transformers 4.31, whose end token has the highest id.
        return (ids if end_token_id == 2 else (ids == end_token_id).int()).argmax(dim=-1)


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
        tower = self.vision_model
        *layers, last = tower.encoder.layers
        hidden = tower.pre_layrnorm(tower.embeddings(normalised))
        for layer in layers:
            hidden = _feed_forward(layer, hidden, _attend(layer, hidden))
        attended = _attend(last, hidden)[:, :_ROWS_PER_POOLED]
        hidden = _feed_forward(last, hidden[:, :_ROWS_PER_POOLED], attended)
        return _unit(self.visual_projection(tower.post_layernorm(hidden[:, 0])))


def _attend(
    layer: CLIPEncoderLayer,
    hidden: Tensor,
    spread: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns (n, t, w): what a layer's attention finds for each token, before its output
    projection. ``spread`` makes such a shape of that of ``hidden``; ``mask``, (t, t), is added to
    how much each token attends to each."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    query, key, value = (
        spread(project(normed)).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    # All rows, also of the last layer: the product of a single one is summed in another order if
    # there is more padding, and an embedding would depend on its batch by 3e-8.
    weights: Tensor = query @ key.transpose(-1, -2) * attention.scale
    if mask is not None:
        weights = weights + mask
    attended: Tensor = weights.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return attended.transpose(1, 2).flatten(2)


def _feed_forward(layer: CLIPEncoderLayer, hidden: Tensor, attended: Tensor) -> Tensor:
    """What follows attention in a layer, for as many tokens as come: (m, k, w) -> (m, k, w). Two
    dimensions would become Gemm in ONNX, for which 8-bit weights have no operator."""
    hidden = hidden + layer.self_attn.out_proj(attended)
    expanded: Tensor = layer.mlp(layer.layer_norm2(hidden))
    return hidden + expanded


def _channels(values: tuple[float, float, float]) -> Tensor:
    """Per-channel numbers for the range 0 to 1 -> (3, 1, 1) for the range 0 to 255."""
    return torch.tensor(values, dtype=torch.float32).mul(255.0).reshape(3, 1, 1)


def _unit(embeds: Tensor) -> Tensor:
    # The squares of a float16 embedding can overflow, so its norm is taken in float32.
    return nn.functional.normalize(embeds.to(torch.float32), dim=-1)
