"""What happens to a drawing before the vision tower sees it while learning.

The tower has to recognise drawings by hands it never met, so everything that a style decides is
made to vary: position, proportions, colours, background, outlines, flatness, sharpness. Nothing
is mirrored: left and right matter to arrows and flags.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, max_pool2d

from clipsearch_export.demo.architecture import IMAGE_SIZE, MEAN, STD

_LUMA = torch.tensor([0.299, 0.587, 0.114])  # of R, G, B: ITU-R BT.601


def normalise(rgb: Tensor) -> Tensor:
    """(n, 3, h, w) float32 in 0..1 -> what the tower takes."""
    return (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def plain(rgba: Tensor) -> Tensor:
    """(n, h, w, 4) uint8 drawings over white, resized, normalised: as they come in use."""
    layers = rgba.permute(0, 3, 1, 2).float() / 255
    alpha = layers[:, 3:]
    picture = layers[:, :3] * alpha + 1 - alpha
    return normalise(interpolate(picture, size=IMAGE_SIZE, mode="bilinear", antialias=True))


def augment(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """(n, h, w, 4) uint8 drawings -> (n, 3, IMAGE_SIZE, IMAGE_SIZE) float32, normalised."""
    dice = _Dice(len(rgba), generator)
    layers = rgba.permute(0, 3, 1, 2).float() / 255
    layers = torch.cat([layers[:, :3] * layers[:, 3:], layers[:, 3:]], dim=1)  # premultiplied
    layers = grid_sample(layers, _warp(dice), align_corners=False)
    alpha = layers[:, 3:]
    colour = layers[:, :3] / alpha.clamp(min=1e-3)
    colour = _flatten(_recolour(colour, dice), dice)
    background = _background(dice)
    picture = colour * alpha + background * (1 - alpha)
    some = dice.rows(0.5)
    picture[some] = _outline(picture[some], alpha[some], _Dice(len(some), generator))
    picture = _hide(picture, background, dice)
    some = dice.rows(0.15)
    picture[some] = avg_pool2d(picture[some], 3, 1, 1, count_include_pad=False)
    return normalise(picture)


class _Dice:
    """Random numbers, one an image, shaped (n, 1, 1, 1)."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def between(self, low: float, high: float, channels: int = 1) -> Tensor:
        shape = (self.count, channels, 1, 1)
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        return self.between(0.0, 1.0) < probability

    def rows(self, probability: float) -> Tensor:
        """Which images are chosen, (m,) int64: for what costs too much to do to all of them."""
        return self.chance(probability).flatten().nonzero().flatten()


def _warp(dice: _Dice) -> Tensor:
    """Where each output pixel looks, (n, IMAGE_SIZE, IMAGE_SIZE, 2): affine, and a little bent."""
    angle = dice.between(-1, 1) ** 3 * math.radians(30)
    zoom = torch.exp(dice.between(-0.25, 0.6))  # > 1: smaller; some sets leave wide margins
    stretch = torch.exp(dice.between(-0.18, 0.18))
    shear = dice.between(-0.15, 0.15)
    shift = dice.between(-0.12, 0.12, channels=2)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.cat([zoom * stretch * cos, zoom * (shear - sin), shift[:, :1]], dim=3),
        torch.cat([zoom * sin, zoom / stretch * cos, shift[:, 1:]], dim=3),
    ]
    grid = affine_grid(
        torch.cat(rows, dim=2).squeeze(1),
        [dice.count, 1, IMAGE_SIZE, IMAGE_SIZE],
        align_corners=False,
    )
    bumps = torch.randn((dice.count, 2, 4, 4), generator=dice.generator)
    bend = interpolate(bumps, size=IMAGE_SIZE, mode="bicubic", align_corners=True)
    strength = dice.between(0.0, 0.05)
    return grid + (bend * strength).permute(0, 2, 3, 1)


def _recolour(colour: Tensor, dice: _Dice) -> Tensor:
    """Saturation (some grey), brightness, contrast, and a tint; hues stay what they are called."""
    luma = (colour * _LUMA.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    grey = dice.chance(0.05)
    saturation = torch.where(grey, 0.0, dice.between(0.5, 1.5))
    colour = luma + saturation * (colour - luma)
    contrast = dice.between(0.7, 1.3)
    brightness = dice.between(-0.12, 0.12)
    tint = dice.between(-0.06, 0.06, channels=3)
    return ((colour - 0.5) * contrast + 0.5 + brightness + tint).clamp(0, 1)


def _flatten(colour: Tensor, dice: _Dice) -> Tensor:
    """Reduce some pictures to a few levels a channel: gradients become flat areas."""
    levels = dice.between(3, 6).round()
    return torch.where(dice.chance(0.25), (colour * levels).round() / levels, colour)


def _background(dice: _Dice) -> Tensor:
    """Mostly white, as transparent pictures are shown; else near black or any colour."""
    colour = dice.between(0.0, 1.0, channels=3)
    dark = dice.between(0.0, 0.15, channels=3)
    chosen = torch.where(dice.chance(0.2), dark, colour)
    return torch.where(dice.chance(0.8), torch.ones_like(colour), chosen)


def _outline(picture: Tensor, alpha: Tensor, dice: _Dice) -> Tensor:
    """Draw dark lines where colours meet, as comics do; some then lose their colours."""
    painted = torch.cat([picture, alpha], dim=1)
    line = ((_contrast(painted) - dice.between(0.1, 0.3)) / 0.25).clamp(0, 1)
    line = torch.where(dice.chance(0.3), max_pool2d(line, 3, stride=1, padding=1), line)
    ink = dice.between(0.0, 0.2)
    bleached = torch.where(dice.chance(0.2), 1 - 0.15 * (1 - picture), picture)
    return bleached * (1 - line) + ink * line


def _contrast(layers: Tensor) -> Tensor:
    """Largest less smallest value around each pixel, the most of any channel: (n, 1, h, w)."""
    top = max_pool2d(layers, 3, stride=1, padding=1)
    bottom = -max_pool2d(-layers, 3, stride=1, padding=1)
    return (top - bottom).amax(dim=1, keepdim=True)


def _hide(picture: Tensor, background: Tensor, dice: _Dice) -> Tensor:
    """Cover a rectangle of some pictures with the background, so that no single part decides."""
    axis = torch.linspace(0, 1, IMAGE_SIZE)
    width, height = dice.between(0.15, 0.4), dice.between(0.15, 0.4)
    left, top = dice.between(0.0, 0.85), dice.between(0.0, 0.85)
    across = (axis.view(1, 1, 1, -1) >= left) & (axis.view(1, 1, 1, -1) < left + width)
    down = (axis.view(1, 1, -1, 1) >= top) & (axis.view(1, 1, -1, 1) < top + height)
    return torch.where(across & down & dice.chance(0.2), background, picture)
