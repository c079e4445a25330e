"""Values that no run can mean are refused by name, with their range."""

from __future__ import annotations

import os
from typing import Any

import pytest

from crossres import CrossresError, Distill, Faces, Teach
from crossres.config.check import RANGES
from crossres.config.reading import from_config, read


def refusal(kind: type[Teach], tree: dict[str, Any], **words: str) -> str:
    """Return the line that options are refused with."""
    with pytest.raises(CrossresError) as caught:
        read(kind, tree, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("train.epochs", 0, "train.epochs: 0 is outside 1..1e+06"),
        ("train.batch_size", 0, "train.batch_size: 0 is outside 1.."),
        ("train.images_per_class", 129, "train.images_per_class: 129 is outside 0..128"),
        ("train.learning_rate", 0, "train.learning_rate: 0 is outside"),
        ("train.learning_rate", float("nan"), "train.learning_rate: nan is outside"),
        ("train.momentum", 1, "train.momentum: 1 is outside"),
        ("train.weight_decay", -1, "train.weight_decay: -1 is outside"),
        ("train.val_fraction", 1, "train.val_fraction: 1 is outside"),
        ("train.ema", 1, "train.ema: 1 is outside"),
        ("train.devices", 0, "train.devices: 0 is outside"),
        ("train.seed", -1, "train.seed: -1 is outside"),
        ("train.milestones", [0.5, 2], "train.milestones: 2 is outside 0..1"),
        ("images.test_fraction", 0, "images.test_fraction: 0 is outside"),
        ("images.memory_mb", -1, "images.memory_mb: -1 is outside"),
        ("images.workers", -1, "images.workers: -1 is outside"),
        ("augment.shift", -1, "augment.shift: -1 is outside"),
        ("augment.zoom", 1, "augment.zoom: 1 is outside 0..0.9"),
        ("augment.colour", 2, "augment.colour: 2 is outside 0..1"),
        ("hr_size", 0, "hr_size: 0 is outside"),
        ("model.input_size", 0, "model.input_size: 0 is outside"),
        ("model.embedding_dim", 0, "model.embedding_dim: 0 is outside"),
        ("losses.ce.weight", 0, "losses: every weight is 0; give at least one term a weight"),
        ("losses.ce.weight", -1, "losses.ce.weight: -1.0 is negative or not finite"),
        ("losses.ce.weight", float("inf"), "losses.ce.weight: inf is negative or not finite"),
        ("losses.ce.warm_up", 2, "losses.ce.warm_up: 2 is outside 0..1"),
        ("losses.ce.label_smoothing", 1, "losses.ce: CE: label_smoothing is 1.0, expected 0 <= label_smoothing < 1"),
        ("name", "", "name: '' is not a folder's name"),
        ("name", ".", "name: '.' is not a folder's name"),
        ("name", "..", "name: '..' is not a folder's name"),
        ("name", "a/b", "name: 'a/b' is not a folder's name; the run is written to RUNS/NAME"),
    ],
)
def test_ranges(option: str, value: Any, line: str) -> None:
    assert refusal(Teach, {option: value}).startswith(line)


@pytest.mark.parametrize("option", [name for name in RANGES if name not in ("val_pairs", "natural_share")])
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(option: str) -> None:
    low, high = RANGES[option]
    whole = isinstance(low, int) and high >= 1e4
    others = {"train.batch_size": int(1e7)} if option != "train.batch_size" else {}
    for value in (low, high):
        read(Teach, {**others, option: int(value) if whole else value})
    assert f"{option}: " in refusal(Teach, {**others, option: int(high + 1) if whole else high * 1.01})


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"lr_size": 0}, "lr_size 0: an image has at least 1 pixel"),
        ({"lr_size": -3}, "lr_size -3: an image has at least 1 pixel"),
        ({"lr_size": [8, 4]}, "lr_size (8, 4): the range is empty"),
        ({"hr_size": 8, "lr_size": 16}, "lr_size 16 is larger than hr_size 8; choose lr_size <= 8"),
        ({"degradation": {"jpeg": [0, 50]}}, "degradation.jpeg: quality starts at 1"),
        ({"degradation": {"noise": [0, 2]}}, "degradation.noise: (0.0, 2.0) is not a range within 0..1"),
        ({"degradation": {"blur": [3, 1]}}, "degradation.blur: (3.0, 1.0) is not a range within 0..16"),
        (
            {"losses": {"crrcd_paper": {"weight": 1, "tau": 0}}},
            "losses.crrcd_paper: CRRCDPaper: tau is 0.0, expected tau > 0",
        ),
        ({"teacher": None, "losses": {"kd": {}}}, "losses.kd needs a teacher; give --teacher, or losses.kd.weight 0"),
        (
            {"teacher": None, "teacher_name": "resnet20"},
            "teacher_name names the architecture of a plain checkpoint: ",
        ),
        ({"teacher_top_k": -1}, "teacher_top_k: -1 is outside 0..1e+06"),
        ({"teacher_top_k": 5, "teacher_cache": False}, "teacher_top_k is of the cache: "),
    ],
)
def test_of_a_distillation(tree: dict[str, Any], line: str) -> None:
    assert refusal(Distill, {"teacher": "t", **tree}).startswith(line)


def test_of_natural_images() -> None:
    for share in (0.0, 1.0):
        assert refusal(Distill, {"natural_share": share}) == f"natural_share: {share:g} is outside 0.001..0.999"


def test_of_faces() -> None:
    assert refusal(Faces, {"val_pairs": 19}) == "val_pairs: 19 is outside 20..1e+07"
    # people held out choose the threshold
    assert refusal(Faces, {"train": {"val_fraction": 0}}) == "train.val_fraction: 0 is outside 0.001..0.9"


def test_a_loss_with_attention_heads_is_checked_at_a_width_that_they_divide() -> None:
    read(Distill, {"teacher": "t", "losses": {"askd": {}, "horkd": {}, "review": {}}})


def test_a_config_built_in_python_is_checked_as_one_from_a_file() -> None:
    with pytest.raises(CrossresError, match=r"^unknown loss 'crrd'; did you mean 'crd'\?$"):
        from_config(Distill(teacher="t", losses={"crrd": {"weight": 1.0}}))
    with pytest.raises(CrossresError, match=r"^lr_size 0: an image has at least 1 pixel$"):
        from_config(Distill(lr_size=0))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file's name is always Unicode")
@pytest.mark.parametrize("option", ["data", "runs", "name", "model.weights"])
def test_paths_that_are_not_utf8(option: str) -> None:
    line = refusal(Teach, {option: os.fsdecode(b"caf\xe9")})
    assert line == f"{option} 'caf\\udce9' is not UTF-8; rename it"
