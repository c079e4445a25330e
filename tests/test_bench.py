"""A grid of real runs: done once, gone on with, and a failure that stays one row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossres.bench import bench
from crossres.cli import main
from crossres.errors import CrossresError
from crossres.grid import read_grid, runs_of


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
    runs = list(runs_of(read_grid(written(grid, tmp_path)), runs="elsewhere"))
    configs = [run.config for run in runs]
    assert runs[-1].place == {"method": "kd", "degradation": "hard"}
    assert len(configs) == len({config.name for config in configs}) == 16
    assert [config.train.seed for config in configs] == [0] * 8 + [1] * 8
    last = configs[-1]
    assert last.name == "resnet8-4x4-8x8-hard-kd-seed1"
    assert (last.lr_size, last.degradation.preset, last.losses["kd"]["weight"]) == ((4, 8), "realistic", 0.5)
    assert (last.runs, last.train.epochs, last.hr_size) == ("elsewhere", 1, 16)
    assert {config.teacher is None for config in configs if config.losses.keys() == {"ce"}} == {True}


def test_weights_are_tried_at_every_factor_but_of_labels(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["factors"] = [0.5, 4]
    runs = list(runs_of(read_grid(written(grid, tmp_path))))
    assert [run.config.name for run in runs] == [
        *("resnet8-8x8-ce-seed0", "resnet8-8x8-kd-times-0.5-seed0", "resnet8-8x8-kd-times-4-seed0")
    ]
    assert [run.place.get("factor") for run in runs] == [None, 0.5, 4]
    assert [run.config.losses["kd"]["weight"] for run in runs[1:]] == [0.25, 2]
    assert {run.config.losses["ce"]["weight"] for run in runs} == {1}


def test_done_once_failed_again_and_gone_on_with(
    grid: dict[str, Any], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid["transfer"] = {"again": {"data": str(drawn), "label_column": "label"}}
    grid["unseen"] = {"harsh": "preset=realistic,kernel=area"}
    grid["pairs"].append({"teacher": str(tmp_path / "nowhere"), "student": "resnet8x4"})
    path = written(grid, tmp_path)
    assert main(["bench", str(path), "--parallel", "2"]) == 2
    said = capsys.readouterr()
    assert "| resnet8 8x8 | kd |" in said.out
    assert "kd (resnet8 8x8): " in said.out
    assert {path.name for path in (tmp_path / "results").iterdir() if path.suffix != ".json"} == {
        *("comparison.md", "comparison.tex", "comparison.csv", "comparison.txt", "cost.png", "curves.png")
    }
    assert said.err.splitlines()[-1].startswith("crossres: 1 of 4 runs failed, first resnet8x4-8x8-kd-seed0; see ")
    failed = json.loads((tmp_path / "results" / "resnet8x4-8x8-kd-seed0.json").read_text())
    assert "there is no folder" in failed["error"]
    done = tmp_path / "results" / "resnet8-8x8-kd-seed0.json"
    document = json.loads(done.read_text())
    assert document["grid"] == {"method": "kd"}
    assert document["transfer"]["again"]["classes"] == 4
    assert document["unseen"]["harsh"]["degradation"]["preset"] == "realistic"
    before = (done.read_bytes(), done.stat().st_mtime_ns)
    lines: list[str] = []
    with pytest.raises(CrossresError, match=r"^resnet8-8x8-x-seed0: unknown key 'losses.ceee.weight'"):
        bench(read_grid(written({**grid, "methods": {"x": {"ceee": {}}}}, tmp_path)), say=lines.append)
    grid["pairs"].pop()
    bench(read_grid(written(grid, tmp_path)), say=lines.append)
    assert lines == ["shapes: 2 runs, 2 of them done"]
    assert before == (done.read_bytes(), done.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"method": {}}, r"unknown key 'method'; did you mean 'methods'"),
        ({"pairs": []}, r"has no 'pairs'"),
        ({"seeds": []}, r"seeds is \[\], expected a list of numbers, as \[0, 1, 2\]"),
        ({"lr_sizes": 8}, r"lr_sizes is 8, expected a list of sides, as \[8, 16\]"),
        ({"transfer": {"other": {"folder": "x"}}}, r"transfer.other has no 'data'"),
        (
            {"transfer": {"other": {"data": "$NOT_SET/x"}}},
            r"transfer.other.data is \$NOT_SET/x; set that",
        ),
        ({"pairs": [{"teacher": "x"}]}, r"pairs are a list of 'teacher: ..., student: ...'"),
    ],
)
def test_no_grid(change: dict[str, Any], line: str, grid: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=line):
        read_grid(written({**grid, **change}, tmp_path))


def test_an_option_that_came_later_does_not_undo_a_result(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["methods"] = {"ce": {"ce": {}}}
    parsed = read_grid(written(grid, tmp_path))
    bench(parsed, say=lambda _: None)
    path = tmp_path / "results" / "resnet8-8x8-ce-seed0.json"
    document = json.loads(path.read_text())
    del document["config"]["stages"], document["config"]["images"]["classes"]
    document["config_sha256"] = "of another version"
    path.write_text(json.dumps(document))
    lines: list[str] = []
    bench(parsed, say=lines.append)
    assert lines == ["shapes: 1 runs, 1 of them done"]
    parsed.base["train"]["epochs"] = 2
    bench(parsed, say=lines.append)
    assert lines[1] == "shapes: 1 runs, 0 of them done"
    assert json.loads(path.read_text())["epochs"] == 2


def test_over_a_local_ray(grid: dict[str, Any], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    parsed = read_grid(written(grid, tmp_path))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        over_ray = bench(parsed, engine="ray", say=lambda _: None)
    finally:
        ray.shutdown()
    assert [document["grid"]["method"] for document in over_ray] == ["ce", "kd"]
    parsed.out, parsed.base["runs"] = str(tmp_path / "local"), str(tmp_path / "local-runs")
    local = bench(parsed, say=lambda _: None)
    assert [document["top1_last"] for document in over_ray] == [document["top1_last"] for document in local]
