"""The training loop, the tokenizer and the augmentation, each on the smallest input."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
progress = pytest.importorskip("rich.progress")

from clipsearch_export.demo.architecture import IMAGE_SIZE  # noqa: E402
from clipsearch_export.demo.augment import augment  # noqa: E402
from clipsearch_export.demo.training import Plan, run  # noqa: E402


def _plan(steps: int) -> Plan:
    return Plan(name="line", steps=steps, learning_rate=0.1, weight_decay=0.0, warmup_steps=10)


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    plan = _plan(110)
    assert plan.rate_at(0) == pytest.approx(0.01)
    assert plan.rate_at(9) == pytest.approx(0.1)
    assert plan.rate_at(60) == pytest.approx(0.05)
    assert plan.rate_at(110) == pytest.approx(0.0)


def test_a_run_learns_and_one_that_is_done_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def loss_of(_: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        points = torch.randn(32, 2, generator=generator)
        wanted = points.sum(dim=1, keepdim=True)
        return {"square": (model(points) - wanted).square().mean()}

    with progress.Progress(disable=True) as bars:
        run(model, _plan(120), loss_of, tmp_path, bars)
        learned = model.weight.detach().clone()
        assert torch.allclose(learned, torch.ones(1, 2), atol=0.05)
        torch.nn.init.zeros_(model.weight)
        run(model, _plan(120), loss_of, tmp_path, bars)  # reads its checkpoint, has nothing to do
    assert torch.equal(model.weight, learned)
    assert "line step 120/120  square" in (tmp_path / "log.txt").read_text("utf-8")


def test_augmentation_depends_on_its_generator_alone() -> None:
    drawings = torch.randint(
        0, 256, (4, 96, 96, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    first = augment(drawings, torch.Generator().manual_seed(7))
    again = augment(drawings, torch.Generator().manual_seed(7))
    other = augment(drawings, torch.Generator().manual_seed(8))
    assert first.shape == (4, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
