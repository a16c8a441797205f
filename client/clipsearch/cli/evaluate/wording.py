"""Figures as people read them."""

from __future__ import annotations

from clipsearch.cli.evaluate.evaluation import Variant
from clipsearch.cli.evaluate.metrics import RECALL_AT, Estimate

FIGURE_COLUMNS = (*(f"R@{k}" for k in RECALL_AT), "median rank", "mean rank", "MRR")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def variant_name(variant: Variant) -> str:
    """Returns what a variant is called in a table."""
    if len(variant.templates) > 1:
        return f"all {len(variant.templates)} together"
    return variant.templates[0] if variant.templates else "none"
