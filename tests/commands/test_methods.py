"""``crossres methods``."""

from __future__ import annotations

import json

import pytest

from crossres.commands.main import main
from crossres.config.methods import FACE_METHODS, METHODS


def test_every_method_with_its_losses_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    document = json.loads(printed.out)
    assert document["methods"].keys() == METHODS.keys()
    assert document["face_methods"].keys() == FACE_METHODS.keys()
    for name, method in document["methods"].items():
        assert method["losses"] == METHODS[name]
        assert set(method["top1"]) <= set(document["columns"])
        assert method["top1"].keys() == method["seeds"].keys()
        assert all(1 < accuracy < 100 for accuracy in method["top1"].values())
        assert method["step_cost"] is None or method["step_cost"] > 0
    # the default is better than labels alone wherever both were measured
    top1 = {name: method["top1"] for name, method in document["methods"].items()}
    for column, accuracy in top1["crrcd"].items():
        assert accuracy > top1["labels"].get(column, 0)
    assert top1["crrcd"]


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert {*METHODS, *FACE_METHODS} <= set(names)
    (line,) = [line for line in lines if line.startswith("crrcd ") and "kd 1" in line]
    assert "crrcd 4 (tau 0.2, critic softmax, anchors 16)" in line
    assert "kd 1 (temperature 4, decay)" in line
