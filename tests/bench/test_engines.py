"""Where the runs of a grid go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossres import Augment, Distill, Model, Train, distill
from crossres.bench.bench import run_bench
from crossres.config.judging import Bench

Grid = dict[str, Any]
Written = Callable[[Grid], Bench]


def block(grid: Grid, name: str) -> None:
    """Put a file where a run's folder should be."""
    folder = Path(grid["base"]["runs"]) / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_a_failure_around_a_run_is_that_runs_end(grid: Grid, written: Written) -> None:
    grid["methods"]["kd"] = "kd"
    names = ["resnet8-8x8-ce-seed0", "resnet8-8x8-kd-seed0"]
    for name in names:
        block(grid, name)
    lines: list[str] = []
    documents = run_bench(replace(written(grid), parallel=2), say=lines.append)
    assert [document["name"] for document in documents] == names
    assert all(document["error"].startswith("cannot write ") for document in documents)
    assert [line.split("  ")[0] for line in lines[1:]] == ["1 of 2", "2 of 2"]


@pytest.mark.usefixtures("cluster")
def test_over_a_local_ray(
    grid: Grid, written: Written, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid["methods"]["kd"] = "kd"
    grid["base"]["runs"] = "runs"  # a worker starts in a folder of its own
    block(grid, "resnet8-8x8-kd-seed0")
    done, failed = run_bench(replace(written(grid), engine="ray"), say=lambda _: None)
    assert failed["error"].startswith("cannot write ")
    assert done["grid"]["method"] == "ce"
    training = Train(epochs=1, batch_size=24)
    how: dict[str, Any] = {"hr_size": 16, "lr_size": 8, "device": "cpu", "precision": "float32"}
    here = distill(
        Distill(data=str(drawn), name="here", model=Model("resnet8"), train=training, augment=Augment(), **how),
        quiet=True,
    )
    assert done["top1_last"] == here["top1_last"]
