"""A grid of labels alone on the drawn shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossres.config.judging import Bench


@pytest.fixture(scope="session")
def shapes_grid(drawn: Path) -> Callable[[Path], dict[str, Any]]:
    """Return a function that returns a grid whose runs and results lie in a folder."""

    def grid(folder: Path) -> dict[str, Any]:
        return {
            "name": "shapes",
            "methods": {"ce": "labels"},
            "pairs": [{"teacher": "of nobody here", "student": "resnet8"}],
            "base": {
                "data": str(drawn),
                "runs": str(folder / "runs"),
                "hr_size": 16,
                "train": {"epochs": 1, "batch_size": 24},
                "precision": "float32",
                "device": "cpu",
            },
            "out": str(folder / "results"),
        }

    return grid


@pytest.fixture
def grid(shapes_grid: Callable[[Path], dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """That grid, in the test's own folder."""
    return shapes_grid(tmp_path)


@pytest.fixture(scope="session")
def written() -> Callable[[dict[str, Any]], Bench]:
    """Return a function that writes such a grid and returns the options that do it."""

    def write(grid: dict[str, Any]) -> Bench:
        path = Path(grid["out"]).parent / "grid.yaml"
        path.write_text(yaml.safe_dump(grid, sort_keys=False))
        return Bench(grid=str(path))

    return write
