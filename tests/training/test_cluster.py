"""A training over a Ray cluster of one machine, whose processes are one group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossres import Train, distill
from crossres.core.errors import CrossresError
from tests.training.test_processes import state


@pytest.mark.usefixtures("cluster")
def test_it_trains_in_one_group_and_its_error_is_a_line(make: Any, refused: Any, drawn: Path, tmp_path: Path) -> None:
    train = Train(epochs=1, batch_size=16, devices=2)
    config = make(engine="ray", train=train, name="student", losses={"ce": {"weight": 1.0}})
    result = distill(config, quiet=True)
    assert result["machine"]["processes"] == 2
    assert result == json.loads((config.folder / "result.json").read_text())
    assert state(config.folder)["epoch"] == 1
    assert distill(config, resume=True, quiet=True) == result
    with pytest.raises(CrossresError, match="holds a run already"):
        distill(config)
    words = ["distill", drawn, f"--runs={tmp_path}", "--engine=ray", "--train.devices=2", "--train.batch_size=23"]
    line = refused(*words, "--device=cpu")
    assert line == "train.batch_size 23 does not divide over 2 processes; choose a multiple of 2"
    assert refused(*words, "--device=cpu", "--train.devices=3") == (
        "3 processes on each machine of the cluster: one has 2 cores for Ray"
    )
