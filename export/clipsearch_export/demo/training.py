"""One training loop for both towers: warm-up, cosine decay, checkpoints, a log line now and then.

Each step draws its randomness from its own number, so a run that was interrupted goes on as if it
had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor, nn

_CLIP_NORM = 1.0
_CHECKPOINT_EVERY = 100  # steps
_LOG_EVERY = 100  # steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast one tower learns."""

    name: str
    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int = 100
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of ``step`` (from 0): linear warm-up, then a cosine down to nothing."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


# Given a step's number and a generator seeded for it, the parts of its loss by name. Their sum is
# minimised.
LossOf = Callable[[int, torch.Generator], dict[str, Tensor]]


def run(model: nn.Module, plan: Plan, loss_of: LossOf, folder: Path, progress: Progress) -> None:
    """Train ``model`` in place until ``plan.steps``; goes on from ``folder``'s last checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{plan.name}.pt"
    optimizer = torch.optim.AdamW(_groups(model, plan), betas=(0.9, 0.98), fused=True)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    task = progress.add_task(f"train {plan.name}", total=plan.steps, completed=first)
    sums: dict[str, float] = {}
    since = time.monotonic()
    model.train()
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        losses = loss_of(step, torch.Generator().manual_seed(plan.seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        optimizer.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        progress.advance(task)
        done = step + 1
        if done % _LOG_EVERY == 0 or done == plan.steps:
            count = (step - first) % _LOG_EVERY + 1
            means = "  ".join(f"{name} {total / count:.4f}" for name, total in sums.items())
            elapsed = (time.monotonic() - since) / count
            line = f"{plan.name} step {done}/{plan.steps}  {means}  {elapsed:.2f} s/step"
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(line + "\n")
            sums, since = {}, time.monotonic()
        if done % _CHECKPOINT_EVERY == 0 or done == plan.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": done,
            }
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint)
    model.eval()


def _groups(model: nn.Module, plan: Plan) -> list[dict[str, object]]:
    """Matrices decay; biases, gains and the class token do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
