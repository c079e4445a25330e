"""Configs, results and recipes of earlier versions are read in today's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossres import CrossresError, Distill, Faces, Teach
from crossres.config.old import RENAMED, upgraded
from crossres.config.reading import kind_of, of_run, read

RESULTS = Path(__file__).parents[2] / "results"


def test_device_and_precision_have_left_train() -> None:
    tree = {"train": {"epochs": 3, "device": "cpu", "precision": "float32"}}
    config = read(Teach, tree)
    assert (config.device, config.precision, config.train.epochs) == ("cpu", "float32", 3)
    assert tree == {"train": {"epochs": 3, "device": "cpu", "precision": "float32"}}  # what is given stays as it was
    assert read(Teach, tree | {"device": "auto"}).device == "auto"  # today's name counts


@pytest.mark.parametrize(
    ("loss", "gone"),
    [
        ("crrcd", {"negatives": "batch", "queue_size": 4096, "unit_embeddings": False}),
        ("crd", {"queue_size": 4096, "critic": "softmax", "reduction": "sum"}),
        ("fitnet", {"match": "pool"}),
        ("review", {"match": "pool"}),
    ],
)
def test_options_that_are_gone_are_dropped_where_they_were_off(loss: str, gone: dict[str, Any]) -> None:
    tree = {"teacher": "t", "losses": {loss: {"weight": 2.0, **gone}}}
    assert read(Distill, tree) == read(Distill, {"teacher": "t", "losses": {loss: {"weight": 2.0}}})


@pytest.mark.parametrize(
    ("loss", "gone", "line"),
    [
        (
            "crrcd",
            {"negatives": "queue"},
            "losses.crrcd.negatives=queue: option was removed; delete it from the file",
        ),
        ("crrcd", {"unit_embeddings": True}, "losses.crrcd.unit_embeddings=True: option was removed"),
        ("at", {"match": "bilinear"}, "losses.at.match=bilinear: option was removed"),
        ("crd", {"critic": "sigmoid"}, "losses.crd.critic=sigmoid: option was removed"),
        ("crd", {"form": "queue"}, "losses.crd.form: expected batch or bank, got 'queue'"),
    ],
)
def test_options_that_are_gone_are_refused_where_they_were_on(loss: str, gone: dict[str, Any], line: str) -> None:
    with pytest.raises(CrossresError) as caught:
        read(Distill, {"teacher": "t", "losses": {loss: {"weight": 1.0, **gone}}})
    assert str(caught.value).startswith(line)


def test_a_loss_that_has_another_name_is_read_by_its_old_one() -> None:
    today = {"teacher": "t", "losses": {"ce": {}, "crrcd_paper": {"weight": 2.0}}}
    assert read(Distill, {"teacher": "t", "losses": {"ce": {}, "crrcd": {"weight": 2.0}}}) == read(Distill, today)
    paper = {"teacher": "t", "method": "crrcd-paper"}
    old, new = (read(Distill, paper | {"losses": {name: {"weight": 2.0}}}) for name in ("crrcd", "crrcd_paper"))
    assert old == new
    line = r"^losses\.crrcd is called losses\.crrcd_paper now; name that one, with a method of its own$"
    for tree in (
        {"losses": {"crrcd": {"weight": 1.0}, "crrcd_paper": {"weight": 2.0}}},
        {"method": "crrcd", "losses": {"crrcd": {"weight": 8.0}}},  # the method has its own losses today
    ):
        with pytest.raises(CrossresError, match=line):
            read(Distill, {"teacher": "t", **tree})
    with pytest.raises(CrossresError, match=r"^unknown loss 'crrcd'; did you mean 'crrcd_images'\?$"):
        read(Distill, {"teacher": "t"}, {"losses.crrcd.weight": "1"})
    with pytest.raises(CrossresError, match=r"^unknown method 'crrcd'; did you mean 'crrcd-images'\?$"):
        read(Faces, {"teacher": "t", "method": "crrcd"})


def test_today_s_options_are_left_alone() -> None:
    tree = {"data": "crops", "train": {"epochs": 3}, "losses": {"crd": {"form": "bank", "negatives": 64}, "kd": None}}
    assert upgraded(tree) == tree
    assert upgraded({"train": 3, "losses": ["ce"]}) == {"train": 3, "losses": ["ce"]}  # refused by name later


def test_the_folder_of_an_earlier_run_is_read(tmp_path: Path) -> None:
    text = (
        "data: crops\nlr_size: 8\nteacher: t\ntrain: {device: cpu}\nlosses: {crd: {weight: 0.8, critic: softmax}}\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    config = of_run(Distill, tmp_path)
    assert (config.device, config.folder, list(config.terms)) == ("cpu", tmp_path, ["crd"])


def test_a_config_says_of_which_command_it_is() -> None:
    assert kind_of({"lr_size": 8, "val_pairs": 60}) is Faces
    assert kind_of({"lr_size": 8}) is Distill
    assert kind_of({"data": "crops"}) is Teach


@pytest.mark.parametrize(
    "grid", sorted({path.parent for path in RESULTS.rglob("*.json")}), ids=lambda path: path.name
)
def test_what_the_recorded_runs_were_trained_with_can_be_read(grid: Path) -> None:
    trees = [json.loads(path.read_text()) for path in sorted(grid.glob("*.json"))]
    configs = [tree["config"] for tree in trees if isinstance(tree, dict) and "config_sha256" in tree]
    seen = set()
    for tree in configs:
        losses = json.dumps(tree["losses"], sort_keys=True)
        if losses in seen or '"negatives": "queue"' in losses:  # the queue is gone
            continue
        seen.add(losses)
        config = read(kind_of(tree), tree)
        assert config.device == tree["train"].get("device", tree.get("device"))
        given = {RENAMED.get(name, name): options for name, options in tree["losses"].items()}
        assert config.terms.keys() == given.keys()
        for name, options in config.terms.items():
            assert all(given[name].get(key, value) == value for key, value in options.items())
