"""A grid of real runs: done once, gone on with, and a failure that stays one row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossres.bench import bench, experiments, read_grid
from crossres.cli import main
from crossres.errors import CrossresError


@pytest.fixture
def grid(drawn: Path, drawn_teacher: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "shapes",
        "methods": {"ce": {"ce": {}}, "kd": {"ce": {}, "kd": {"weight": 0.5}}},
        "pairs": [{"teacher": str(drawn_teacher), "student": "resnet8"}],
        "lr_sizes": [8],
        "seeds": [0],
        "base": {
            "data": str(drawn),
            "runs": str(tmp_path / "runs"),
            "hr_size": 16,
            "train": {"epochs": 1, "batch_size": 24, "precision": "float32", "device": "cpu"},
        },
        "out": str(tmp_path / "results"),
    }


def written(tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_runs_of_a_grid(grid: dict[str, Any], tmp_path: Path) -> None:
    grid |= {"lr_sizes": [8, [4, 8]], "seeds": [0, 1], "degradations": {"clean": {}, "hard": {"preset": "realistic"}}}
    configs = list(experiments(read_grid(written(grid, tmp_path)), runs="elsewhere"))
    assert len(configs) == len({config.name for config in configs}) == 16
    assert [config.train.seed for config in configs] == [0] * 8 + [1] * 8
    last = configs[-1]
    assert last.name == "resnet8-4x4-8x8-hard-kd-seed1"
    assert (last.lr_size, last.degradation.preset, last.losses["kd"]["weight"]) == ((4, 8), "realistic", 0.5)
    assert (last.runs, last.train.epochs, last.hr_size) == ("elsewhere", 1, 16)
    assert {config.teacher is None for config in configs if config.losses.keys() == {"ce"}} == {True}


def test_done_once_failed_again_and_gone_on_with(
    grid: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid["methods"]["fsp"] = {"ce": {}, "fsp": {}}
    grid["pairs"].append({"teacher": str(tmp_path / "nowhere"), "student": "resnet8x4"})
    path = written(grid, tmp_path)
    assert main(["bench", str(path), "--parallel", "2"]) == 2
    said = capsys.readouterr()
    assert "| resnet8 | 8x8 | ce+kd |" in said.out
    assert said.err.splitlines()[-1].startswith("crossres: 2 of 6 runs failed, first resnet8x4-8x8-kd-seed0; see ")
    failed = json.loads((tmp_path / "results" / "resnet8x4-8x8-kd-seed0.json").read_text())
    assert "there is no folder" in failed["error"]
    done = tmp_path / "results" / "resnet8-8x8-kd-seed0.json"
    before = (done.read_bytes(), done.stat().st_mtime_ns)
    lines: list[str] = []
    with pytest.raises(CrossresError, match=r"^resnet8-8x8-x-seed0: unknown key 'losses.ceee.weight'"):
        bench(read_grid(written({**grid, "methods": {"x": {"ceee": {}}}}, tmp_path)), say=lines.append)
    grid["pairs"].pop()
    bench(read_grid(written(grid, tmp_path)), say=lines.append)
    assert lines == ["shapes: 3 runs, 3 of them done"]
    assert before == (done.read_bytes(), done.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"method": {}}, r"unknown key 'method'; did you mean 'methods'"),
        ({"pairs": []}, r"has no 'pairs'"),
        ({"pairs": [{"teacher": "x"}]}, r"pairs are a list of 'teacher: ..., student: ...'"),
    ],
)
def test_no_grid(change: dict[str, Any], line: str, grid: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=line):
        read_grid(written({**grid, **change}, tmp_path))
