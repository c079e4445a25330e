"""``crossres methods``."""

from __future__ import annotations

import json

import pytest

from crossres.commands.main import main
from crossres.commands.methods import methods
from crossres.config.methods import FACE_METHODS, METHODS


def test_a_line_for_each_method_and_one_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(METHODS) + 1]] == list(METHODS)
    assert main(["methods", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert printed.err == ""
    assert {name: method["losses"] for name, method in document["methods"].items()} == METHODS
    assert {name: method["losses"] for name, method in document["face_methods"].items()} == FACE_METHODS
    assert document["columns"] == ["8x8, 100 classes", "8x8, 25 classes", "16x16, 25 classes"]
    ours = document["methods"]["crrcd"]
    assert ours["top1"].keys() == ours["seeds"].keys() <= set(document["columns"])
    assert ours["top1"]
    assert document["methods"]["labels"]["step_cost"] == 1
    lines = lines[: lines.index("of faces:")]
    (line,) = (line for line in lines if line.startswith("crrcd  "))
    for value in (*ours["top1"].values(), ours["step_cost"]):
        assert f" {value:.2f} " in line
    assert line.endswith("  ce 1 + crrcd_images 4 (tau 0.1) + crrcd_maps 16 (tau 0.1)")
    nst = document["methods"]["nst"] | {"top1": {}}
    monkeypatch.setitem(METHODS, "new", METHODS["nst"])  # not in the file of what is measured
    assert methods()["methods"]["new"] == nst | {"seeds": {}, "step_cost": None}
