"""A grid's YAML, and the runs and judgements it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossres.bench.grid import judgements_of, read_grid, runs_of
from crossres.config.judging import Evaluate, EvaluateFaces, Transfer
from crossres.config.methods import METHODS
from crossres.config.reading import read
from crossres.config.record import portable, sha256
from crossres.core.errors import CrossresError


@pytest.fixture
def grid(tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "shapes",
        "methods": {"ce": "labels", "kd": {"ce": {}, "kd": {"weight": 0.5}}},
        "pairs": [{"teacher": "runs/teacher", "student": "resnet8"}],
        "lr_sizes": [8],
        "seeds": [0],
        "base": {"data": "shapes", "runs": str(tmp_path / "runs"), "hr_size": 16, "train": {"epochs": 1}},
    }


def written(tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_runs_of_a_grid(grid: dict[str, Any], tmp_path: Path) -> None:
    grid |= {"lr_sizes": [8, [4, 8]], "seeds": [0, 1], "degradations": {"clean": {}, "hard": {"preset": "realistic"}}}
    runs = list(runs_of(read_grid(written(grid, tmp_path), runs="elsewhere", data=None)))
    configs = [run.config for run in runs]
    assert runs[-1].place == {"method": "kd", "degradation": "hard"}
    assert len(configs) == len({config.name for config in configs}) == 16
    assert [config.train.seed for config in configs] == [0] * 8 + [1] * 8
    last = configs[-1]
    assert last.name == "resnet8-4x4-8x8-hard-kd-seed1"
    assert (last.lr_size, last.degradation.preset, last.terms["kd"]["weight"]) == ((4, 8), "realistic", 0.5)
    assert (last.data, last.runs, last.train.epochs, last.hr_size) == ("shapes", "elsewhere/shapes", 1, 16)
    assert {config.teacher is None for config in configs if config.terms.keys() == {"ce"}} == {True}


def test_a_method_by_its_name_and_losses_over_it(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["methods"] = {
        "ce": "labels",
        "ours": "crrcd-paper",
        "colder": {
            "method": "crrcd-paper",
            "crrcd_paper": {"tau": 0.1},
            "rkd": {},
            "options": {"teacher_views": "mirrored"},
        },
    }
    labels, ours, colder = (run.config for run in runs_of(read_grid(written(grid, tmp_path))))
    assert (labels.teacher, ours.teacher, ours.teacher_views, colder.teacher_views) == (
        *(None, "runs/teacher", "own", "mirrored"),
    )
    given = {
        name: {key: ours.terms[name][key] for key in options} for name, options in METHODS["crrcd-paper"].items()
    }
    assert given == METHODS["crrcd-paper"]
    assert colder.terms["crrcd_paper"] == ours.terms["crrcd_paper"] | {"tau": 0.1}
    assert colder.terms["rkd"]["weight"] == 1
    grid |= {"baseline": "x", "methods": {"x": "crrdc"}}
    with pytest.raises(CrossresError, match=r"resnet8-8x8-x-seed0: unknown method 'crrdc'; did you mean 'crrcd'\?$"):
        read_grid(written(grid, tmp_path))


def test_weights_are_tried_at_every_factor_but_of_labels(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["factors"] = [0.5, 4]
    runs = list(runs_of(read_grid(written(grid, tmp_path))))
    assert [run.config.name for run in runs] == [
        *("resnet8-8x8-ce-seed0", "resnet8-8x8-kd-times-0.5-seed0", "resnet8-8x8-kd-times-4-seed0")
    ]
    assert [run.place.get("factor") for run in runs] == [None, 0.5, 4]
    assert [run.config.terms["kd"]["weight"] for run in runs[1:]] == [0.25, 2]
    assert {run.config.terms["ce"]["weight"] for run in runs} == {1}


def test_a_run_of_whole_numbers_is_the_one_that_its_own_file_describes(grid: dict[str, Any], tmp_path: Path) -> None:
    grid |= {"factors": [1, 4], "seeds": [0, 1], "methods": {"ce": {"ce": {}}, "sp": {"ce": {}, "sp": {"weight": 2}}}}
    runs = list(runs_of(read_grid(written(grid, tmp_path))))
    assert [run.config.terms["sp"]["weight"] for run in runs if "sp" in run.config.terms] == [2, 8, 2, 8]
    for run in runs:
        again = read(type(run.config), portable(run.config))
        assert sha256(again) == sha256(run.config), run.config.name


def test_a_methods_own_options_and_teachers_apart(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["methods"]["kd"]["options"] = {"teacher_views": "mirrored"}
    grid["pairs"].append({"teacher": str(tmp_path / "other"), "student": "resnet8"})
    runs = list(runs_of(read_grid(written(grid, tmp_path))))
    assert [run.config.name for run in runs] == [
        f"resnet8-{name}-8x8-{method}-seed0" for name in ("teacher", "other") for method in ("ce", "kd")
    ]
    assert [run.config.teacher_views for run in runs] == ["own", "mirrored"] * 2
    assert runs[-1].place == {"method": "kd", "teacher": "other", "options": ["teacher_views"]}
    assert {run.config.runs for run in runs} == {str(tmp_path / "runs" / "shapes")}
    assert {run.config.cache_dir for run in runs} == {str(tmp_path / "runs" / "cache")}
    grid["methods"]["kd (a)"] = grid["methods"]["kd a"] = {"ce": {}}
    with pytest.raises(CrossresError, match=r"two runs would be named .*-kd-a-seed0; rename a teacher or"):
        read_grid(written(grid, tmp_path))


def test_what_a_method_gives_of_a_group_leaves_the_rest_of_it(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["base"]["degradation"] = {"kernel": "area"}
    grid["base"]["images"] = {"memory_mb": 7}
    grid["base"]["train"]["batch_size"] = 24
    own = {"train": {"epochs": 3, "seed": 9}, "model": {"embedding_dim": 5}, "images": {"fit": "pad"}}
    grid["methods"]["own"] = {"ce": {}, "options": {**own, "degradation": {"blur": [1.0, 1.0]}}}
    *_, run = runs_of(read_grid(written(grid, tmp_path)))
    config = run.config
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (3, 24, 0)  # the seed is the grid's
    assert (config.model.name, config.model.embedding_dim) == ("resnet8", 5)
    assert (config.images.fit, config.images.memory_mb) == ("pad", 7)
    assert (config.degradation.kernel, config.degradation.blur) == ("area", (1.0, 1.0))
    assert {"train.epochs", "model.embedding_dim", "degradation.blur"} < set(run.place["options"])


def test_a_teacher_that_is_a_plain_checkpoint_is_not_that_of_labels(grid: dict[str, Any], tmp_path: Path) -> None:
    grid["base"]["teacher_name"] = "resnet20"
    labels, taught = (run.config for run in runs_of(read_grid(written(grid, tmp_path))))
    assert (labels.teacher, labels.teacher_name) == (None, None)
    assert (taught.teacher, taught.teacher_name) == ("runs/teacher", "resnet20")


def test_what_a_run_is_judged_by(grid: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", str(tmp_path))
    grid["base"] |= {"device": "cpu", "images": {"label_column": "fine", "classes": ["bar", "disc"]}}
    grid["transfer"] = {"other": {"data": "$ELSEWHERE/x", "images": {"label_column": "label"}}}
    grid["natural"] = {"far": {"data": "$ELSEWHERE/far"}}
    grid["methods"]["kd"]["options"] = {"natural": "$ELSEWHERE/far"}
    grid["unseen"] = {"hard": {"kernel": "area", "blur": [1, 1]}}
    parsed = read_grid(written(grid, tmp_path))
    (_, _, transfer), (_, _, natural), (part, name, unseen) = judgements_of(parsed, next(runs_of(parsed)))
    assert isinstance(natural, Evaluate)
    assert natural.natural == [f"{tmp_path}/far"]
    model = str(tmp_path / "runs/shapes/resnet8-8x8-ce-seed0/model")
    assert isinstance(transfer, Transfer)
    assert (transfer.model, transfer.data, transfer.device) == (model, f"{tmp_path}/x", "cpu")
    assert (transfer.images.label_column, transfer.degradation) == ("label", None)
    assert isinstance(unseen, Evaluate)
    assert (part, name, unseen.model, unseen.data) == ("unseen", "hard", model, "shapes")
    assert (unseen.images.label_column, unseen.images.classes) == ("fine", ["bar", "disc"])
    assert unseen.degradation is not None
    assert (unseen.degradation.preset, unseen.degradation.blur) == ("clean", (1.0, 1.0))
    assert not unseen.trust_code
    assert [run.config.natural for run in runs_of(parsed)] == [None, f"{tmp_path}/far"]


def test_the_protocols_of_faces_share_the_gallerys_cache(grid: dict[str, Any], tmp_path: Path) -> None:
    grid |= {"task": "faces", "methods": {"ce": "cosface", "own": "cosine"}}
    grid["protocols"] = {"lr": {"data": "faces"}, "teacher's": {"data": "faces", "gallery": "runs/teacher"}}
    parsed = read_grid(written(grid, tmp_path))
    *_, run = runs_of(parsed)
    judgements = {name: options for _, name, options in judgements_of(parsed, run)}
    assert all(isinstance(options, EvaluateFaces) for options in judgements.values())
    assert [options.cache_dir for options in judgements.values()] == [None, str(tmp_path / "runs" / "cache")]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"method": {}}, r"unknown option 'method'; did you mean 'methods'"),
        ({"pairs": []}, r"pairs: expected a list of 'teacher: ..., student: ...', got \[\]"),
        ({"pairs": [{"teacher": "x"}]}, r"pairs: expected a list of 'teacher: ..., student: ...', got"),
        ({"pairs": [{"teacher": "x", "student": 3}]}, r"pairs: expected a list"),
        ({"name": "../x"}, r"name: expected a name of letters, digits, dots and dashes, got '../x'"),
        ({"methods": {}}, r"methods: expected 'NAME: crrcd' or 'NAME: {ce: {weight: 1}}' for each method, got {}"),
        ({"methods": {"ce": None}}, r"methods.ce: expected its options as 'key: value', got None"),
        ({"methods": {"ce": {}}}, r"resnet8-8x8-ce-seed0: a method is a name, as 'NAME: crrcd', or losses"),
        ({"methods": {"ce": {"ce": 3}}}, r"resnet8-8x8-ce-seed0: losses.ce: expected its options as"),
        ({"methods": {"ce": {"ce": {"weight": "a"}}}}, r"resnet8-8x8-ce-seed0: losses.ce.weight: expected a number"),
        ({"methods": {"ce": {"ceee": {}}}}, r"resnet8-8x8-ce-seed0: unknown loss 'ceee'; did you mean 'ce'"),
        ({"methods": {"ce": "labels", 3: {"ce": {}}}}, r"methods.3: expected its options as 'key: value', got"),
        ({"baseline": "kdd"}, r"baseline: expected one of the methods: ce, kd, got 'kdd'"),
        ({"seeds": []}, r"seeds: expected a list of different numbers, as \[0, 1, 2\], got \[\]"),
        ({"seeds": [0, 0]}, r"seeds: expected a list of different numbers"),
        ({"lr_sizes": 8}, r"lr_sizes: expected a list such as \[a, b\] of a whole number or \[.*\], got 8"),
        ({"lr_sizes": [8.5]}, r"lr_sizes: expected a list such as"),
        ({"factors": [0]}, r"factors: expected a list of numbers above 0, as \[0.25, 1, 4\], got \[0.0\]"),
        (
            {"factors": [1, 2], "base": {"train": {"val_fraction": 0}}},
            r"resnet8-8x8-ce-seed0: factors are chosen on validation",
        ),
        ({"degradations": {"clean": "x"}}, r"degradations.clean: expected its options as 'key: value', got 'x'"),
        ({"base": {"train": 3}}, r"resnet8-8x8-ce-seed0: train: expected its options as 'key: value', got 3"),
        ({"base": {"losses": {}}}, r"base.losses: that is what a grid varies; leave it out"),
        ({"transfer": {"other": {"folder": "x"}}}, r"transfer.other: unknown option 'folder'"),
        ({"transfer": {"other": {}}}, r"transfer.other: DATA is required; see crossres transfer --help"),
        ({"transfer": {"other": {"data": "x", "splits": "y"}}}, r"transfer.other: unknown option 'splits'"),
        (
            {"transfer": {"other": {"data": "x", "degradation": {"kernal": "area"}}}},
            r"transfer.other: unknown option 'degradation.kernal'; did you mean",
        ),
        (
            {"unseen": {"hard": "preset=hard"}},
            r"unseen.hard: expected its options as 'key: value', got 'preset=hard'",
        ),
        ({"unseen": {"hard": {"preset": "hard"}}}, r"unseen.hard: degradation.preset: expected clean or realistic"),
        ({"protocols": {"own": {"data": "x"}}}, r"protocols: does not apply to task distill; leave it out"),
        ({"out": 5}, r"out: expected a text or null, got 5"),
    ],
)
def test_what_is_not_a_grid(change: dict[str, Any], line: str, grid: dict[str, Any], tmp_path: Path) -> None:
    path = written({**grid, **change}, tmp_path)
    with pytest.raises(CrossresError, match=rf"^{path}: {line}[^\n]*$"):
        read_grid(path)


def test_what_is_not_a_file_of_yaml(tmp_path: Path) -> None:
    for content, line in (
        ("a: [", "not YAML: "),
        ("- a", "holds no options"),
        ("name: x", "METHODS and PAIRS are required"),
    ):
        (tmp_path / "g.yaml").write_text(content)
        with pytest.raises(CrossresError, match=rf"g.yaml: {line}"):
            read_grid(tmp_path / "g.yaml")
    with pytest.raises(CrossresError, match=r"no such file: .*none.yaml$"):
        read_grid(tmp_path / "none.yaml")
