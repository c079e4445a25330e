"""Which weight of a rival stands beside crrcd in the README's table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from crossres.bench.comparison import Comparison, compare_methods

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import grid_tables

#: Method and seed to accuracy on validation and on test images; ce has one weight, review none of the published one.
RUNS = {
    **{("ce", seed): (50, 50) for seed in (0, 1)},
    ("kd (fading)", 0): (60, 55),
    ("kd (fading, weight 4)", 0): (59, 58),
    ("kd (fading, weight 4)", 1): (70, 58),
    ("crd", 0): (61, 57),
    ("crd (weight 0.4)", 0): (62, 56),
    ("review (weight 20)", 0): (65, 60),
    ("fskd", 0): (63, 60),
    ("fskd (weight 320)", 1): (62, 60),
    ("crrcd", 0): (66, 61),
}


def result(method: str, seed: int, validation: float, top1: float) -> dict[str, Any]:
    return {
        **{"task": "distill", "grid": {"method": method}, "method": "ce", "losses": {"ce": {}}, "seed": seed},
        **{"student": {"name": "resnet8"}, "lr_size": 8, "top1_last": top1},
        **{"val_top1_last": validation, "images": {"test": 100}, "images_per_second": 100.0, "config": {}},
    }


def test_validation_images_choose_a_rivals_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [result(*run, *accuracies) for run, accuracies in RUNS.items()]
    comparison = Comparison("ce", compare_methods(results, "ce"), results, [])
    monkeypatch.setattr(grid_tables, "comparison_of", lambda _: (None, comparison))
    chosen = {name: row.method for name, row in grid_tables.leading(Path("recipe.yaml"), 8).items()}
    assert chosen == {
        "ce": "ce",
        "kd (fading)": "kd (fading)",  # on the seed that both have, whatever the test images say
        "crd": "crd (weight 0.4)",
        "fskd": "fskd",  # no seed is common to both: the published weight
        "review": "review (weight 20)",
        "crrcd": "crrcd",
    }
