"""A comparison as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossres.bench.comparison import compare_methods
from crossres.bench.figures import draw_comparison


def result(method: str, size: int, degradation: str, top1: float) -> dict[str, Any]:
    return {
        "name": method,
        "student": {"name": "resnet8"},
        "lr_size": size,
        "grid": {"method": method, "degradation": degradation},
        "seed": 0,
        "images": {"test": 40},
        "top1_last": top1,
        "images_per_second": 1000.0,
        "val_top1_by_epoch": [10.0, 20.0],
    }


def test_a_figure_for_each_question(tmp_path: Path) -> None:
    results = [
        result(method, size, kind, top1)
        for size, kind, scores in (
            (8, "clean", (50, 55, 60)),
            (16, "clean", (75, 85, 80)),
            (16, "hard", (20, 20, 30)),
        )
        for method, top1 in zip(("ce", "a", "b"), scores, strict=True)
    ]
    files = draw_comparison(compare_methods(results, costs={("resnet8", 8, "a"): 1.5}), "ce", tmp_path)
    assert [path.name for path in files] == ["accuracy.png", "cost.png", "curves.png"]
    for path in files:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[0] > 300
        assert (pixels < 128).mean() > 0.002
    assert draw_comparison([], "ce", tmp_path) == []
