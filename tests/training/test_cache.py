"""`crossres cache`: the teacher's outputs are there before the first training, whoever computed them."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from crossres.config.experiment import Cache, Distill
from crossres.core.errors import CrossresError
from crossres.models.cache import TeacherCache
from crossres.training.cache import fill_cache
from tests.training.test_processes import alone, started

#: What both processes run: shards of 16 rows, each printed by the process that computes it.
SCRIPT = """
import os, sys
import torch
torch.set_num_threads(1)
from crossres.commands.main import main
from crossres.models import cache, filling

cache.ROWS, filling.BATCH, filling.LOOK_EVERY = 16, 8, 0.05
written = cache.ShardFile.written

def told(file, tensors):
    print(f"<{os.environ['RANK']} {file.digest} {file.first}>", flush=True)
    return written(file, tensors)

cache.ShardFile.written = told
sys.exit(main(sys.argv[1:]))
"""


def filling_of(config: Distill, **options: Any) -> Cache:
    """Return the options that fill the cache of a distillation."""
    return Cache(**{each.name: getattr(config, each.name) for each in fields(config)} | options)


def states(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_a_training_finds_what_was_filled(make: Any, prepared: Any) -> None:
    config = make(losses={"ce": {"weight": 1.0}, "kd": {"weight": 1.0}, "at": {"weight": 1.0}})
    folder = config.folder.parent / "cache"
    assert fill_cache(filling_of(config), quiet=True) == {"cache_dir": str(folder), "images": 88}
    before = states(folder)
    assert len(before) == 2
    assert not config.folder.exists()
    run, _ = prepared(config)
    assert isinstance(run.cache, TeacherCache)
    assert len(run.cache.maps) == 3
    assert states(folder) == before


def test_options_without_a_cache_are_refused(make: Any, tmp_path: Path) -> None:
    config = filling_of(make())
    for options in ({"teacher": None, "losses": {"ce": {"weight": 1.0}}}, {"teacher_cache": False}):
        with pytest.raises(CrossresError, match=r"^no training with these options reads a cache: give --teacher, "):
            fill_cache(replace(config, **options))
    with pytest.raises(CrossresError, match="holds embeddings already; train with it"):
        fill_cache(replace(config, teacher=str(tmp_path / "rows.npy")))


def test_two_processes_fill_disjoint_shares(drawn: Path, drawn_teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = ["cache", str(drawn), f"--teacher={drawn_teacher}", "--runs=runs", "--hr_size=16", "--method=kd"]
    words += ["--device=cpu", "--precision=float32", "--model.name=resnet8"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "script.py")]
    with started([sys.executable, *launch, *words], env=alone(), cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[:4000]
    wrote = re.findall(r"<(\d) (\w+) (\d+)>", output)
    assert {rank for rank, *_ in wrote} == {"0", "1"}
    assert len(wrote) == len({(view, first) for _, view, first in wrote}) == 2 * 6
    assert output.count("outputs of") == 1
    for record in (tmp_path / "runs" / "cache").glob("*/cache.json"):
        assert json.loads(record.read_text())["rows"] == 16
        assert len(list(record.parent.glob("*.safetensors"))) == 6


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function: this is the first of two processes, which meet at a port of this machine."""

    def begin(port: int) -> None:
        group = {"RANK": 0, "LOCAL_RANK": 0, "NODE_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
        for name, value in {**group, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))

    return begin


def test_processes_that_cannot_meet_end_in_a_line(make: Any, grouped: Callable[[int], None]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        grouped(other.getsockname()[1])
        with pytest.raises(CrossresError, match=r"^the run's processes cannot meet: 127\.0\.0\.1:\d+ is in use; "):
            fill_cache(filling_of(make()), quiet=True)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_fills_it(make: Any, prepared: Any) -> None:
    config = make()
    assert fill_cache(filling_of(config, engine="ray"))["images"] == 88
    with pytest.raises(CrossresError, match=r"^[^\n]*nowhere[^\n]*$"):
        fill_cache(filling_of(config, engine="ray", data="nowhere"))
    before = states(config.folder.parent / "cache")
    assert len(before) == 2
    prepared(config)
    assert states(config.folder.parent / "cache") == before
