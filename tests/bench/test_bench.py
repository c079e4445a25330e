"""A grid of real runs: done once, gone on with, and a failure that stays one row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crossres.bench.bench import _files_sha256, bench
from crossres.bench.grid import Run, read_grid, runs_of
from crossres.commands.main import main
from crossres.config import options as configs
from crossres.config.reading import from_dict
from crossres.core.errors import CrossresError


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
    assert (last.runs, last.train.epochs, last.hr_size) == ("elsewhere/shapes", 1, 16)
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


def test_a_run_of_whole_numbers_is_the_one_that_its_own_file_describes(grid: dict[str, Any], tmp_path: Path) -> None:
    grid |= {"factors": [1, 4], "seeds": [0, 1], "methods": {"ce": {"ce": {}}, "sp": {"ce": {}, "sp": {"weight": 2}}}}
    runs = list(runs_of(read_grid(written(grid, tmp_path))))
    assert [run.config.losses["sp"]["weight"] for run in runs if "sp" in run.config.losses] == [2, 8, 2, 8]
    for run in runs:
        again = from_dict(type(run.config), configs.portable(run.config))
        assert configs.sha256(again) == configs.sha256(run.config), run.config.name


def test_done_once_failed_again_and_gone_on_with(
    grid: dict[str, Any], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid["transfer"] = {"again": {"data": str(drawn), "label_column": "label"}}
    grid["unseen"] = {"harsh": "preset=realistic,kernel=area"}
    grid["methods"]["bad"] = {"ce": {}, "options": {"images": {"classes": ["star"]}}}
    path = written(grid, tmp_path)
    assert main(["bench", str(path), "--parallel", "2"]) == 2
    said = capsys.readouterr()
    assert "| resnet8 8x8 | kd |" in said.out
    assert "kd (resnet8 8x8): " in said.out
    assert {path.name for path in (tmp_path / "results").iterdir() if path.suffix != ".json"} == {
        *("comparison.md", "comparison.tex", "comparison.csv", "comparison.txt", "cost.png", "curves.png", ".lock"),
        "transfer.md",
    }
    assert said.err.splitlines()[-1].startswith("crossres: 1 of 3 runs failed, first resnet8-8x8-bad-seed0; see ")
    failed = json.loads((tmp_path / "results" / "resnet8-8x8-bad-seed0.json").read_text())
    assert "shapes has no class 'star'" in failed["error"]
    done = tmp_path / "results" / "resnet8-8x8-kd-seed0.json"
    document = json.loads(done.read_text())
    elsewhere = (tmp_path / "results" / "transfer.md").read_text()
    assert elsewhere.startswith("| method | again, probe | again, kNN | shapes | harsh |")
    assert f"| kd | {document['transfer']['again']['probe_top1']:.2f} |" in elsewhere
    assert document["grid"]["method"] == "kd"
    assert set(document["grid"]["asked"]) == {"data", "teacher", "transfer", "unseen"}
    assert document["transfer"]["again"]["classes"] == 4
    assert document["unseen"]["harsh"]["degradation"]["preset"] == "realistic"
    before = (done.read_bytes(), done.stat().st_mtime_ns)
    lines: list[str] = []
    with pytest.raises(CrossresError, match=r"^resnet8-8x8-x-seed0: unknown key 'losses.ceee.weight'"):
        bench(
            read_grid(written({**grid, "baseline": "x", "methods": {"x": {"ceee": {}}}}, tmp_path)), say=lines.append
        )
    del grid["methods"]["bad"]
    bench(read_grid(written(grid, tmp_path)), say=lines.append)
    assert lines == ["shapes: 2 runs, 2 of them done"]
    assert before == (done.read_bytes(), done.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"method": {}}, r"unknown key 'method'; did you mean 'methods'"),
        ({"pairs": []}, r"has no 'pairs'"),
        ({"pairs": [{"teacher": "x"}]}, r"pairs is .*, expected a list of 'teacher: ..., student: ...'"),
        ({"pairs": [{"teacher": "x", "student": 3}]}, r"pairs is .*, expected a list of 'teacher"),
        ({"name": "../x"}, r"name is '../x', expected a name of letters"),
        ({"methods": {"ce": None}}, r"methods is .*, expected 'NAME: {ce: {weight: 1}}' for each method"),
        ({"methods": {"ce": {"ce": 3}}}, r"methods is .*, expected 'NAME"),
        ({"methods": {"ce": {"ce": {"weight": "a"}}}}, r"methods is .*, expected 'NAME"),
        ({"methods": {3: {"ce": {}}}}, r"methods is .*, expected 'NAME"),
        ({"baseline": "kdd"}, r"baseline is 'kdd', expected one of the methods: ce, kd"),
        ({"seeds": []}, r"seeds is \[\], expected a list of different numbers, as \[0, 1, 2\]"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\], expected a list of different numbers"),
        ({"lr_sizes": 8}, r"lr_sizes is 8, expected a list of sides, as \[8, 16\]"),
        ({"lr_sizes": [8.5]}, r"lr_sizes is \[8.5\], expected a list of sides"),
        ({"factors": [0]}, r"factors is \[0\], expected a list of numbers above 0"),
        (
            {"factors": [1, 2], "base": {"train": {"val_fraction": 0}}},
            r"factors are chosen on validation",
        ),
        ({"degradations": {"clean": "x"}}, r"degradations is .*, expected 'NAME: {preset: realistic}' for each"),
        ({"base": {"train": 3}}, r"base is .*, expected options of crossres distill"),
        ({"base": {"losses": {}}}, r"base.losses: that is what a grid varies; leave it out"),
        ({"transfer": {"other": {"folder": "x"}}}, r"transfer is .*, expected 'NAME: {data: ...}' for each data set"),
        (
            {"unseen": {"hard": "preset=hard"}},
            r"unseen.hard: degradation: preset is 'hard', exp",
        ),
        ({"out": 5}, r"out is 5, expected a folder"),
    ],
)
def test_no_grid(change: dict[str, Any], line: str, grid: dict[str, Any], tmp_path: Path) -> None:
    path = written({**grid, **change}, tmp_path)
    with pytest.raises(CrossresError, match=rf"^{path}: {line}[^\n]*$"):
        read_grid(path)


def test_what_is_no_file_of_yaml(tmp_path: Path) -> None:
    for content, line in (("a: [", "not YAML: "), ("- a", "holds no grid; its keys are name, methods, pairs")):
        (tmp_path / "g.yaml").write_text(content)
        with pytest.raises(CrossresError, match=rf"g.yaml: {line}"):
            read_grid(tmp_path / "g.yaml")
    with pytest.raises(CrossresError, match=r"none.yaml: No such file"):
        read_grid(tmp_path / "none.yaml")


def test_a_methods_own_options_and_teachers_apart(grid: dict[str, Any], drawn_teacher: Path, tmp_path: Path) -> None:
    grid["methods"]["kd"]["options"] = {"teacher_views": "mirrored"}
    other = tmp_path / "other"
    grid["pairs"].append({"teacher": str(other), "student": "resnet8"})
    runs = list(runs_of(read_grid(written(grid, tmp_path))))
    assert [run.config.name for run in runs] == [
        f"resnet8-{name}-8x8-{method}-seed0" for name in (drawn_teacher.name, "other") for method in ("ce", "kd")
    ]
    assert [run.config.teacher_views for run in runs] == ["own", "mirrored"] * 2
    assert runs[-1].place == {"method": "kd", "teacher": "other", "options": ["teacher_views"]}
    assert {run.config.runs for run in runs} == {str(tmp_path / "runs" / "shapes")}
    assert {run.config.cache_dir for run in runs} == {str(tmp_path / "runs" / "cache")}
    grid["methods"]["kd (a)"] = grid["methods"]["kd a"] = {"ce": {}}
    with pytest.raises(CrossresError, match=r"^two runs of the grid would be named .*-kd-a-seed0; name teachers or"):
        list(runs_of(read_grid(written(grid, tmp_path))))


def test_what_a_method_says_of_a_part_leaves_the_rest_of_it(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["base"]["degradation"] = {"kernel": "area"}
    grid["base"]["images"] = {"memory_mb": 7}
    own = {"train": {"epochs": 3, "seed": 9}, "model": {"embedding_dim": 5}, "images": {"fit": "pad"}}
    grid["methods"]["own"] = {"ce": {}, "options": {**own, "degradation": {"blur": [1.0, 1.0]}}}
    *_, run = runs_of(read_grid(written(grid, tmp_path)))
    config = run.config
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (3, 24, 0)  # the seed is the grid's
    assert (config.model.name, config.model.embedding_dim) == ("resnet8", 5)
    assert (config.images.fit, config.images.memory_mb) == ("pad", 7)
    assert (config.degradation.kernel, config.degradation.blur) == ("area", (1.0, 1.0))


def test_a_run_that_diverged_is_not_begun_anew(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["methods"] = {"ce": {"ce": {}}}
    grid["base"]["train"] |= {"epochs": 3, "learning_rate": 1e6, "optimizer": "sgd"}
    parsed = read_grid(written(grid, tmp_path))
    for _ in range(2):
        (document,) = bench(parsed, say=lambda _: None)
        assert "start anew with --overwrite" in document["error"]
    log = (tmp_path / "runs" / "shapes" / "resnet8-8x8-ce-seed0" / "log.txt").read_text()
    assert log.count("start anew") == 2


def test_a_judgement_that_fails_leaves_what_was_measured(
    grid: dict[str, Any], drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid["methods"] = {"ce": {"ce": {}}}
    (first,) = bench(read_grid(written(grid, tmp_path)), say=lambda _: None)
    grid["transfer"] = {"other": {"data": str(drawn)}}
    path = written(grid, tmp_path)
    monkeypatch.setattr(
        "crossres.bench.engines._one", lambda _g, run, *_: {"name": run.config.name, "error": "no space"}
    )
    (failed,) = bench(read_grid(path), say=lambda _: None)
    assert (failed["error"], failed["top1_last"]) == ("no space", first["top1_last"])
    monkeypatch.undo()
    (again,) = bench(read_grid(path), say=lambda _: None)
    assert "error" not in again
    assert "other" in again["transfer"]


def test_what_transfer_cannot_do_is_said_before_the_first_run(grid: dict[str, Any], tmp_path: Path) -> None:
    for options, line in (
        ({"data": "$NOT_SET/x"}, r"there is no data set '\$NOT_SET/x'; set that environment variable$"),
        ({"data": "digits", "splits": "x"}, r"unknown option --splits"),
        ({"data": "digits", "degradation": "kernal=area"}, r"degradation: unknown option 'kernal'; did you mean"),
    ):
        with pytest.raises(CrossresError, match=rf"^transfer.other: {line}"):
            bench(read_grid(written({**grid, "transfer": {"other": options}}, tmp_path)))
    assert not (tmp_path / "runs").exists()


def test_a_failure_around_a_run_is_that_runs_end(
    grid: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crossres.bench.engines._one", full)
    documents = bench(read_grid(written(grid, tmp_path)), say=lambda _: None)
    assert [document["error"] for document in documents] == ["[Errno 28] No space left on device"] * 2


def test_a_second_bench_on_a_grid_is_refused(grid: dict[str, Any], tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no file locks here")
    (tmp_path / "results").mkdir()
    with (tmp_path / "results" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CrossresError, match=r"^another bench works on .*results; wait for it, or give this grid"):
            bench(read_grid(written(grid, tmp_path)), say=lambda _: None)


def test_an_interrupted_run_goes_on_and_a_changed_one_begins_anew(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["methods"] = {"ce": {"ce": {}}}
    grid["base"]["train"]["epochs"] = 2
    parsed = read_grid(written(grid, tmp_path))
    bench(parsed, say=lambda _: None)
    folder = tmp_path / "runs" / "shapes" / "resnet8-8x8-ce-seed0"
    whole = json.loads((folder / "result.json").read_text())
    rows = (folder / "metrics.jsonl").read_text()
    # cut off after its last epoch, before it was judged
    (folder / "result.json").unlink()
    (tmp_path / "results" / "resnet8-8x8-ce-seed0.json").unlink()
    (again,) = bench(parsed, say=lambda _: None)
    assert again["top1_last"] == whole["top1_last"]
    assert (folder / "metrics.jsonl").read_text() == rows
    # its images changed: it cannot be gone on with
    (folder / "result.json").unlink()
    state = torch.load(folder / "state.pt", weights_only=True)
    state["given"]["train images"] = "others"
    torch.save(state, folder / "state.pt")
    (tmp_path / "results" / "resnet8-8x8-ce-seed0.json").unlink()
    (anew,) = bench(parsed, say=lambda _: None)
    assert anew["top1_last"] == whole["top1_last"]
    assert "changed since the run began" in (folder / "log.txt").read_text()


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end at once, with their options as the only result."""

    def ended(_grid: Any, run: Run, *_: Any) -> dict[str, Any]:
        return {"name": run.config.name, "config": configs.portable(run.config), "top1_last": 50.0}

    monkeypatch.setattr("crossres.bench.engines._one", ended)


@pytest.mark.usefixtures("no_training")
def test_other_data_undo_a_result(grid: dict[str, Any], drawn: Path, tmp_path: Path) -> None:
    grid["methods"] = {"ce": {"ce": {}}}
    copy = tmp_path / "copy" / drawn.name
    shutil.copytree(drawn, copy)
    lines: list[str] = []
    for data in (drawn, copy):
        bench(read_grid(written(grid, tmp_path)), say=lines.append, data=str(data))
    next(copy.rglob("*.png")).unlink()
    _files_sha256.cache_clear()
    bench(read_grid(written(grid, tmp_path)), say=lines.append, data=str(copy))
    assert [line for line in lines if line.startswith("shapes")] == [
        *("shapes: 1 runs, 0 of them done", "shapes: 1 runs, 1 of them done", "shapes: 1 runs, 0 of them done")
    ]


@pytest.mark.usefixtures("no_training")
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
    assert json.loads(path.read_text())["config"]["train"]["epochs"] == 2


def test_over_a_local_ray(grid: dict[str, Any], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    grid["methods"] = {"ce": {"ce": {}}, "bad": {"ce": {}, "options": {"images": {"classes": ["star"]}}}}
    parsed = read_grid(written(grid, tmp_path))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        over_ray = bench(parsed, engine="ray", say=lambda _: None)
    finally:
        ray.shutdown()
    assert [document["grid"]["method"] for document in over_ray] == ["ce", "bad"]
    assert "shapes has no class 'star'" in over_ray[1]["error"]
    del parsed.methods["bad"]
    parsed.out, parsed.base["runs"] = str(tmp_path / "local"), str(tmp_path / "local-runs")
    (local,) = bench(parsed, say=lambda _: None)
    assert over_ray[0]["top1_last"] == local["top1_last"]
