"""Options as they are written down: YAML, what may be published, and the hash of what decides the numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import yaml

from crossres import Distill
from crossres.config.options import Augment, Images, Model, Train
from crossres.config.record import base_name, network_name, portable, sha256, to_dict, to_yaml
from crossres.data.degradation import Degradation

FULL = Distill(
    data="folder",
    name="everything",
    runs="elsewhere",
    hr_size=24,
    images=Images(image_column="img", test_fraction=0.3, fit="pad", corrupt="skip", download=True, root="/r"),
    augment=Augment(shift=2, flip=False),
    model=Model(name="resnet8", embedding_dim=32, input_size=16, small_input="no", weights="w.pt"),
    train=Train(epochs=3, optimizer="adamw", learning_rate=1e-3, schedule="step", milestones=[0.5], seed=7),
    precision="float32",
    teacher="runs/teacher",
    lr_size=(4, 8),
    degradation=Degradation(preset="realistic", kernel="area", blur=(0.0, 1.5), jpeg=(30.0, 90.0)),
    teacher_cache=False,
    cache_dir="c",
    losses={"ce": {"weight": 0.5, "decay": False, "warm_up": 0.0, "label_smoothing": 0.1}},
)


def options(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a config by its full name, with its value."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from options(value, f"{prefix}{field.name}.")
        elif field.name != "losses":
            yield f"{prefix}{field.name}", value


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return [0.1] if isinstance(value, list) else "another"


def test_the_hash_is_of_what_decides_the_numbers() -> None:
    base = replace(FULL, data="sets/shapes")
    same = sha256(base)
    assert re.fullmatch(r"[0-9a-f]{64}", same)
    moved = replace(
        base, name="b", runs="/b", cache_dir="/b", data="/mnt/sets/shapes/", teacher="/b/teacher", engine="ray"
    )
    assert sha256(replace(moved, images=replace(base.images, root="/elsewhere"))) == same
    seen = {same}
    for option, value in options(base):
        if option in ("name", "runs", "cache_dir", "engine", "images.root"):
            continue
        group, _, key = option.rpartition(".")
        ranges = option.startswith("degradation.") and key not in ("preset", "kernel", "share")
        other = (0.5, 0.75) if ranges else changed(value)
        other = {"degradation.jpeg": (20.0, 30.0), "degradation.share": 0.5}.get(option, other)
        part = replace(getattr(base, group), **{key: other}) if group else other
        seen.add(sha256(replace(base, **{group or key: part})))
    assert len(seen) == 1 + len(list(options(base))) - 5
    losses = {"ce": {**base.terms["ce"], "label_smoothing": 0.2}}
    assert sha256(replace(base, losses=losses)) not in seen


def test_a_published_config_names_no_folder_of_this_machine() -> None:
    home = replace(FULL, data="/home/me/sets/shapes", teacher="/home/me/teacher", runs="/home/me/runs")
    model = replace(FULL.model, name="onnx:/home/me/net.onnx", weights="/home/me/start.pt")
    tree = portable(replace(home, model=model))
    assert "/" not in yaml.safe_dump(tree)
    assert (tree["data"], tree["teacher"], tree["runs"]) == ("shapes", "teacher", "runs")
    assert (tree["model"]["name"], tree["model"]["weights"]) == ("onnx:net.onnx", "start.pt")


def test_yaml_is_plain_and_leaves_a_method_out_that_was_resolved() -> None:
    tree = yaml.safe_load(to_yaml(FULL))
    assert tree == to_dict(FULL)
    assert tree["lr_size"] == [4, 8]
    assert list(tree)[:3] == ["data", "name", "runs"]
    assert "method" not in tree
    assert to_dict(Distill(method="crd"))["method"] == "crd"


@pytest.mark.parametrize(("path", "name"), [("a/b", "b"), ("a/b/", "b"), ("b", "b"), ("/a/../b/.", "b")])
def test_the_last_part_of_a_path(path: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert base_name(path) == name
    monkeypatch.chdir(tmp_path)
    assert base_name(".") == tmp_path.name


def test_a_network_s_name_has_no_folder() -> None:
    assert network_name("onnx:/a/b.onnx") == "onnx:b.onnx"
    assert network_name("package.module:make") == "package.module:make"
