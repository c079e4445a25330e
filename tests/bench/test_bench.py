"""A grid of runs: done once, judged, gone on with, and a failure that stays one row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossres import load
from crossres.bench.bench import run_bench
from crossres.bench.grid import read_grid, runs_of
from crossres.commands.main import main
from crossres.config.judging import Bench
from crossres.config.record import portable, to_yaml
from crossres.core.errors import CrossresError
from crossres.core.files import decode_bits
from crossres.models.pretrained import save_pretrained

RUN = "resnet8-8x8-ce-seed0"
Grid = dict[str, Any]
Written = Callable[[Grid], Bench]


@pytest.fixture(scope="module")
def benched(
    drawn: Path,
    shapes_grid: Callable[[Path], Grid],
    written: Written,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Grid]:
    """A folder in which a grid of labels alone was done, with both judgements; and the grid."""
    folder = tmp_path_factory.mktemp("benched")
    grid = shapes_grid(folder)
    grid["transfer"] = {"again": {"data": str(drawn), "images": {"label_column": "label"}}}
    grid["natural"] = {"small": {"data": str(drawn)}}
    grid["unseen"] = {"harsh": {"preset": "realistic", "kernel": "area"}}
    run_bench(written(grid), say=lambda _: None)
    return folder, grid


@pytest.fixture
def copied(benched: tuple[Path, Grid], tmp_path: Path) -> Grid:
    """The same in a folder that a test may change, without the judgements."""
    folder, grid = benched
    for name in ("runs", "results"):
        shutil.copytree(folder / name, tmp_path / name)
    base = {**grid["base"], "runs": str(tmp_path / "runs")}
    changed = {"methods": dict(grid["methods"]), "base": base, "out": str(tmp_path / "results")}
    return {**grid, **changed, "transfer": {}, "natural": {}, "unseen": {}}


def test_a_result_has_its_judgements_and_is_not_done_again(benched: tuple[Path, Grid], written: Written) -> None:
    folder, grid = benched
    done = folder / "results" / f"{RUN}.json"
    document = json.loads(done.read_text())
    assert document["grid"]["method"] == "ce"
    assert set(document["grid"]["inputs"]) == {"data", "transfer", "natural", "natural.small"}
    row = document["natural"]["small"]
    assert row.keys() == {
        *("name", "images", "groups", "top1", "class_mean", "commonest", "drop", "interval"),
        "right",
    }
    assert decode_bits(row["right"], row["images"]).mean() * 100 == pytest.approx(row["top1"])
    assert f"| ce | {row['top1']:.2f} |" in (folder / "results" / "natural.md").read_text()
    assert document["transfer"]["again"]["classes"] == 4
    assert document["unseen"]["harsh"]["degradation"]["preset"] == "realistic"
    assert set(document["unseen"]["harsh"]) == {"degradation", "top1", "top5", "curve"}
    elsewhere = (folder / "results" / "transfer.md").read_text()
    assert elsewhere.startswith(
        "| setting | method | again, probe | again, kNN | shapes | small | drop to small | harsh |"
    )
    assert f"| ce | {document['transfer']['again']['probe_top1']:.2f} |" in elsewhere
    before = (done.read_bytes(), done.stat().st_mtime_ns)
    lines: list[str] = []
    run_bench(written(grid), say=lines.append)
    assert lines == ["shapes: 1 runs, 1 of them done"]
    assert before == (done.read_bytes(), done.stat().st_mtime_ns)
    # as an earlier version recorded it: the degradation as a text
    document["grid"]["asked"] = document["grid"].pop("inputs") | {"unseen": {"harsh": "preset=realistic,kernel=area"}}
    done.write_text(json.dumps(document))
    run_bench(written(grid), say=lines.append)
    assert lines[1:] == ["shapes: 1 runs, 1 of them done"]
    # before a degradation had colours
    for name in ("brightness", "contrast", "saturation"):
        del document["unseen"]["harsh"]["degradation"][name]
    done.write_text(json.dumps(document))
    run_bench(written(grid), say=lines.append)
    assert lines[2:] == ["shapes: 1 runs, 1 of them done"]
    done.write_bytes(before[0])


def test_a_failure_is_a_row_and_the_rest_is_tabulated(
    copied: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: Written
) -> None:
    results = tmp_path / "results"
    # a student of another method, done already
    kd = {"ce": {"weight": 1.0}, "kd": {"weight": 0.5}}
    copied["methods"] |= {"kd": kd, "bad": {"ce": {}, "options": {"images": {"classes": ["star"]}}}}
    options = written(copied)
    runs = {run.place["method"]: run for run in runs_of(read_grid(options.grid))}
    document = json.loads((results / f"{RUN}.json").read_text())
    document |= {"name": runs["kd"].config.name, "config": portable(runs["kd"].config), "grid": {"method": "kd"}}
    (results / f"{document['name']}.json").write_text(json.dumps(document))
    assert main(["bench", options.grid, "--parallel", "2"]) == 2
    printed = capsys.readouterr()
    assert "| resnet8 8x8 | kd |" in printed.out
    assert "kd (resnet8 8x8): +0.00 points against ce" in printed.out
    assert printed.out.splitlines()[-1] == f"tables and figures: {results}"
    assert {path.name for path in results.iterdir() if path.suffix != ".json"} == {
        *(
            "comparison.md",
            "comparison.tex",
            "comparison.csv",
            "comparison.txt",
            "accuracy.png",
            "cost.png",
            "curves.png",
            ".lock",
        ),
        "transfer.md",
        "natural.md",
    }
    assert "shapes: 3 runs, 1 of them done" in printed.err
    assert printed.err.splitlines()[-1].startswith("crossres: 1 of 3 runs failed, first resnet8-8x8-bad-seed0; see ")
    failed = json.loads((results / "resnet8-8x8-bad-seed0.json").read_text())
    assert "shapes has no class 'star'" in failed["error"]


def test_a_judgement_that_fails_leaves_what_was_measured(
    copied: Grid, drawn: Path, tmp_path: Path, written: Written
) -> None:
    first = json.loads((tmp_path / "results" / f"{RUN}.json").read_text())
    other = tmp_path / "other"
    (other / "train").mkdir(parents=True)  # no images yet
    copied["transfer"] = {"other": {"data": str(other)}}
    (failed,) = run_bench(written(copied), say=lambda _: None)
    assert failed["error"].startswith("transfer.other: exit code 2: crossres: ")
    assert failed["top1_last"] == first["top1_last"]
    shutil.copytree(drawn, other, dirs_exist_ok=True)
    (again,) = run_bench(written(copied), say=lambda _: None)
    assert "error" not in again
    assert "other" in again["transfer"]


def test_files_that_are_not_there_are_refused_before_the_first_run(
    grid: Grid, tmp_path: Path, written: Written
) -> None:
    for options, line in (
        ({"data": "$NOT_SET/x"}, r"there is no data set '\$NOT_SET/x'; set that environment variable$"),
        ({"data": "nowhere"}, r"there is no data set 'nowhere'$"),
    ):
        for part in ("transfer", "natural"):
            with pytest.raises(CrossresError, match=rf"^{part}.other: {line}"):
                run_bench(written({**grid, part: {"other": options}}))
    with pytest.raises(CrossresError, match=r"^parallel: expected 1 or more, got 0$"):
        run_bench(Bench(grid=written(grid).grid, parallel=0))
    assert not (tmp_path / "runs").exists()


def test_a_second_bench_on_a_grid_is_refused(grid: Grid, tmp_path: Path, written: Written) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no file locks here")
    (tmp_path / "results").mkdir()
    with (tmp_path / "results" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CrossresError, match=r"^another bench works on .*results; wait for it, or give this grid"):
            run_bench(written(grid), say=lambda _: None)


def end(options: Bench) -> None:
    """Leave the runs of a grid as they end, with their options as the only result: nothing is left to train."""
    for run in runs_of(read_grid(options.grid)):
        run.config.folder.mkdir(parents=True, exist_ok=True)
        (run.config.folder / "config.yaml").write_text(to_yaml(run.config))
        result = {"name": run.config.name, "config": portable(run.config), "top1_last": 50.0}
        (run.config.folder / "result.json").write_text(json.dumps(result))


def test_other_data_undo_a_result(grid: Grid, drawn: Path, tmp_path: Path, written: Written) -> None:
    same, changed = (tmp_path / name / drawn.name for name in ("same", "changed"))
    for copy in (same, changed):
        shutil.copytree(drawn, copy)
    next(changed.rglob("*.png")).unlink()
    end(written(grid))
    lines: list[str] = []
    top1 = []
    for data in (drawn, same, changed):
        (document,) = run_bench(Bench(grid=written(grid).grid, data=str(data)), say=lines.append)
        top1.append(document["top1_last"])
    assert top1[0] == top1[1] == 50.0 != top1[2]  # trained anew
    # a wrong path undoes nothing
    (result,) = tmp_path.rglob("result.json")
    with pytest.raises(CrossresError, match=r"^data: there is no .*/none/shapes, of which there are results$"):
        run_bench(Bench(grid=written(grid).grid, data=str(tmp_path / "none" / drawn.name)), say=lines.append)
    assert result.exists()
    assert [line for line in lines if line.startswith("shapes")] == [
        *("shapes: 1 runs, 0 of them done", "shapes: 1 runs, 1 of them done", "shapes: 1 runs, 0 of them done")
    ]


def test_another_teacher_undoes_a_result(grid: Grid, written: Written, drawn_teacher: Path, tmp_path: Path) -> None:
    grid["methods"] = {"ce": "kd"}
    lines: list[str] = []
    top1 = []
    for name, change in (("first", 1.0), ("same", 1.0), ("other", 0.99)):
        encoder = load(drawn_teacher)
        for weight in encoder.parameters():
            weight.data *= change
        save_pretrained(encoder, tmp_path / name / "teacher")
        grid["pairs"] = [{"teacher": str(tmp_path / name / "teacher"), "student": "resnet8"}]
        end(written(grid))
        (document,) = run_bench(written(grid), say=lines.append)
        assert "error" not in document
        assert set(document["grid"]["inputs"]) == {"data", "teacher", "transfer"}
        top1.append(document["top1_last"])
    assert top1[0] == top1[1] == 50.0 != top1[2]
    assert [line for line in lines if line.startswith("shapes")] == [
        *("shapes: 1 runs, 0 of them done", "shapes: 1 runs, 1 of them done", "shapes: 1 runs, 0 of them done")
    ]


def test_unmoved_maps_of_an_earlier_version_undo_a_result(grid: Grid, written: Written, tmp_path: Path) -> None:
    live = {"method": "review", "options": {"teacher_cache": False}}
    grid["methods"] = {"ce": "kd", "review": "review", "live": live}
    (tmp_path / "teacher").mkdir()
    grid["pairs"] = [{"teacher": str(tmp_path / "teacher"), "student": "resnet8"}]
    end(written(grid))
    documents = run_bench(written(grid), say=lambda _: None)
    assert [document["grid"]["inputs"].get("teacher_maps") for document in documents] == [None, "moved", None]
    path = tmp_path / "results" / f"{documents[1]['name']}.json"
    del documents[1]["grid"]["inputs"]["teacher_maps"]
    path.write_text(json.dumps(documents[1]))
    lines: list[str] = []
    run_bench(written(grid), say=lines.append)
    assert lines[0] == "shapes: 3 runs, 2 of them done"


def test_an_option_that_came_later_does_not_undo_a_result(grid: Grid, tmp_path: Path, written: Written) -> None:
    end(written(grid))
    run_bench(written(grid), say=lambda _: None)
    path = tmp_path / "results" / f"{RUN}.json"
    document = json.loads(path.read_text())
    del document["config"]["stages"], document["config"]["images"]["classes"]
    document["config_sha256"] = "of another version"
    path.write_text(json.dumps(document))
    lines: list[str] = []
    run_bench(written(grid), say=lines.append)
    assert lines == ["shapes: 1 runs, 1 of them done"]
    grid["base"]["train"]["epochs"] = 2
    end(written(grid))
    run_bench(written(grid), say=lines.append)
    assert lines[1] == "shapes: 1 runs, 0 of them done"
    assert json.loads(path.read_text())["config"]["train"]["epochs"] == 2


def test_another_degradation_undoes_a_judgement(grid: Grid, written: Written) -> None:
    end(written(grid))
    grid["unseen"] = {"hard": {"blur": [1.0, 1.0]}}
    folder = next(Path(grid["base"]["runs"]).rglob("result.json")).parent
    document = json.loads((folder / "result.json").read_text())
    degradation = {
        "preset": "clean",
        "kernel": "bicubic",
        "blur": [1.0, 1.0],
        "noise": [0.0, 0.0],
        "jpeg": [0.0, 0.0],
    }
    document["unseen"] = {"hard": {"degradation": degradation, "top1": 1.0, "top5": 1.0, "curve": []}}
    results = Path(grid["out"])
    results.mkdir()
    (results / f"{RUN}.json").write_text(json.dumps(document))
    lines: list[str] = []
    run_bench(written(grid), say=lines.append)
    assert lines == ["shapes: 1 runs, 1 of them done"]
    grid["unseen"] = {"hard": {"blur": [1.0, 2.0]}}
    (folder / "options.yaml").mkdir()  # where the judgement's options should be written
    (failed,) = run_bench(written(grid), say=lines.append)
    assert lines[1] == "shapes: 1 runs, 0 of them done"
    assert failed["error"].startswith("unseen.hard: cannot write ")


def test_an_interrupted_run_goes_on_and_a_changed_one_begins_anew(
    copied: Grid, tmp_path: Path, written: Written
) -> None:
    folder = tmp_path / "runs" / "shapes" / RUN
    whole = json.loads((folder / "result.json").read_text())
    rows = (folder / "metrics.jsonl").read_text()
    # cut off after its last epoch, before it was judged
    (folder / "result.json").unlink()
    (tmp_path / "results" / f"{RUN}.json").unlink()
    (again,) = run_bench(written(copied), say=lambda _: None)
    assert again["top1_last"] == whole["top1_last"]
    assert (folder / "metrics.jsonl").read_text() == rows
    # its images changed: it cannot be gone on with
    (folder / "result.json").unlink()
    state = torch.load(folder / "state.pt", weights_only=True)
    state["given"]["train images"] = "others"
    torch.save(state, folder / "state.pt")
    (tmp_path / "results" / f"{RUN}.json").unlink()
    (anew,) = run_bench(written(copied), say=lambda _: None)
    assert anew["top1_last"] == whole["top1_last"]
    assert "changed since the run began" in (folder / "log.txt").read_text()


def test_a_run_that_diverged_is_not_begun_anew(grid: Grid, tmp_path: Path, written: Written) -> None:
    grid["base"]["train"] |= {"epochs": 3, "learning_rate": 1e6, "optimizer": "sgd"}
    for _ in range(2):
        (document,) = run_bench(written(grid), say=lambda _: None)
        assert "start anew with --overwrite" in document["error"]
    log = (tmp_path / "runs" / "shapes" / RUN / "log.txt").read_text()
    assert log.count("start anew") == 2
