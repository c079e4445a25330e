"""A training over a Ray cluster of one machine, whose processes are one group."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossres import Train, distill
from crossres.core.errors import CrossresError
from crossres.training import cluster as over
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


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_cannot_do_it_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    config = replace(make(engine="ray"), device="auto")

    def refuses(nodes: list[Any] | None, message: str) -> None:
        with monkeypatch.context() as patch:
            if nodes is not None:
                patch.setattr(ray, "nodes", lambda: nodes)
            with pytest.raises(CrossresError, match=message):
                distill(config, quiet=True)

    def machine(gpus: int, cores: int = 2) -> dict[str, Any]:
        return {**ray.nodes()[0], "NodeID": "ab" * 28, "Resources": {"CPU": cores, "GPU": gpus}}

    refuses([], "^no machine of the cluster has a core for Ray; ")
    # a head without a GPU takes no part
    refuses([machine(0), machine(2), machine(4)], "^the machines of the cluster have from 2 to 4 GPUs; ")
    refuses([machine(0, cores=1), machine(4)], "^4 processes on each machine of the cluster: one has 2 cores")
    refuses([machine(0)], "^The actor is not schedulable: [^\n]*$")  # it is gone since
    monkeypatch.setattr(over, "START", 1.0)
    job = ray.remote(num_cpus=2)(lambda: time.sleep(60)).remote()
    refuses(None, "^0 of 1 processes began within 1 s; free in the cluster: 0 of 2 CPUs; wait until ")
    ray.cancel(job, force=True)
