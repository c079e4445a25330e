"""Two processes with half of each batch learn what one process learns with the whole (gloo, on the CPU)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from crossres.commands.main import main
from crossres.training.processes import leave_group

EPOCHS = 3
STEPS = 12  # 96 images, none for validation, 24 a batch

# What both processes run: each config in turn, in one process group.
SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from crossres.commands.main import main

for words in json.load(open(sys.argv[1])):
    if main(words):
        sys.exit(f"failed: {words}")
"""

# A student of the user's own, without batch norm: its outputs do not depend on who shares its batch. Its activation
# is smooth: at the edge of a relu the last bit of a sum, which may depend on where memory lies, decides a gradient.
NETWORK = """
from torch import nn

def plain(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.GELU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.GroupNorm(4, 24), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
    )
"""

KD = ["--losses.kd.weight=1"]
CRRCD = ["--losses.crrcd_paper.weight=1", "--losses.crrcd_paper.anchors=5", "--losses.crrcd_paper.width=16"]
CRD = ["--losses.crd.weight=1", "--losses.crd.width=16"]

#: each over the method labels, which is ce alone
RUNS: dict[str, list[str]] = {
    "crrcd": [*KD, *CRRCD, "--augment.shift=1", "--train.ema=0.9"],
    "crd-batch": CRD,
    "crd-bank": [*CRD, "--losses.crd.form=bank", "--losses.crd.negatives=32"],
    "live-noise": [*KD, *CRRCD, "--teacher_cache=false", "--degradation.preset=realistic", "--lr_size=[6,8]"],
    # no loss reads the classifier: DDP must neither wait for its gradient nor let it decay
    "embedding-only": [
        "--losses.ce.weight=0",
        *CRRCD,
        "--train.optimizer=adamw",
        "--train.learning_rate=0.003",
        "--train.weight_decay=0.5",
    ],
    "no-teacher": ["--images.memory_mb=0", "--images.workers=0"],
    # of 3 epochs fsp trains alone for the first
    "maps-staged": [
        "--losses.fsp.weight=5",
        "--losses.fsp.pretrain=0.3",
        "--losses.sp.weight=10",
        "--stages.teacher=layer1,layer2",
        "--stages.student=2,5",
    ],
    "crrcd-of-images-and-maps": [
        "--losses.crrcd_images.weight=4",
        "--losses.crrcd_maps.weight=4",
        "--losses.crrcd_maps.group=4",
        "--stages.teacher=layer1,layer2",
        "--stages.student=2,5",
        "--augment.shift=1",
    ],
    # of the processes' shares the shrunk images and the natural ones are apart: the order of a batch is another
    "natural": [
        *KD,
        "--losses.crrcd_maps.weight=4",
        "--losses.crrcd_maps.group=0",
        "--stages.teacher=layer1,layer2",
        "--stages.student=2,5",
        "--natural=DRAWN",
    ],
    "margin-by-class": [
        "--losses.adaface.weight=1",
        "--losses.cosface.weight=1",
        "--train.images_per_class=3",
    ],
    "bfloat16": [*KD, *CRRCD, "--precision=bfloat16"],
}
Folders = tuple[dict[int, Path], str]


@pytest.fixture(scope="module")
def folders(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Run everything with 1 and with 2 processes; return the folders of the runs and what 2 processes printed."""
    root = tmp_path_factory.mktemp("distributed")
    (root / "plain_net.py").write_text(NETWORK)
    (root / "script.py").write_text(SCRIPT)
    words = {
        processes: [
            [
                "distill",
                str(drawn),
                f"--runs={root / str(processes)}",
                f"--name={name}",
                f"--teacher={drawn_teacher}",
                "--method=labels",
                "--model.name=plain_net:plain",
                "--hr_size=16",
                "--lr_size=8",
                f"--train.epochs={EPOCHS}",
                "--train.batch_size=24",
                "--train.learning_rate=0.03",
                "--train.val_fraction=0",
                "--device=cpu",
                "--precision=float32",
                *(option.replace("DRAWN", str(drawn)) for option in options),
            ]
            for name, options in RUNS.items()
        ]
        for processes in (1, 2)
    }
    (root / "2.json").write_text(json.dumps(words[2]))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    how = {"env": alone() | {"PYTHONPATH": path}, "cwd": root}
    with started([sys.executable, *launch, str(root / "script.py"), str(root / "2.json")], **how) as process:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(root)
            assert [main(each) for each in words[1]] == [0] * len(RUNS)
        torch.set_num_threads(threads)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return {processes: root / str(processes) for processes in (1, 2)}, output


def alone() -> dict[str, str]:
    """Return this environment without a process group, with one thread to a process and no GPU."""
    others = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return others | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@contextmanager
def started(command: list[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process and let it end with the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # and not kill: torchrun then ends its workers
            process.communicate(timeout=60)


def second_of(parent: int) -> int:
    """Return the process of local rank 1 that a process starts, once it is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():  # imports start some, too
            with suppress(OSError):
                if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes():
                    return int(pid)
    raise TimeoutError("no second process was started")


def until_epoch(number: int, metrics: Path) -> None:
    """Wait until a run's file of metrics has so many lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= number):
        time.sleep(0.02)


def state(folder: Path) -> dict[str, Any]:
    whole: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return whole


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_learns(folders: Folders, name: str) -> None:
    one, two = (state(folders[0][processes] / name) for processes in (1, 2))
    assert one["distiller"].keys() == two["distiller"].keys()
    for key, value in one["distiller"].items():
        other = two["distiller"][key]
        if not value.is_floating_point():  # counts
            assert torch.equal(other, value), key
        elif name == "bfloat16":  # the halves' gradients are rounded, each by up to one part in 256, and added
            assert (other - value).norm() <= 0.02 * value.norm(), key
        else:
            torch.testing.assert_close(other, value, rtol=0, atol=1e-5, equal_nan=True, msg=key)
    averages = [of_one.get("average") or {} for of_one in (one, two)]
    assert bool(averages[0]) == (name == "crrcd")
    assert averages[0].keys() == averages[1].keys()
    for key, value in averages[0].items():
        torch.testing.assert_close(averages[1][key], value, rtol=0, atol=1e-5, msg=key)


def test_it_was_trained_at_all(folders: Folders) -> None:
    for name in RUNS:
        states = [state(folders[0][processes] / name) for processes in (1, 2)]
        steps = [s["scheduler"]["last_epoch"] for s in states]
        assert steps == [STEPS * (2 if name == "natural" else 1)] * 2, name
        rows = states[1]["rows"]
        # of losses that are still on: one with a stage of its own is over, and the others began after it
        on = [loss for loss, value in rows[-1]["losses"].items() if value]
        sums = [sum(row["losses"][loss] for loss in on) for row in rows]
        assert sums[-1] < max(sums), name


@pytest.mark.parametrize("name", [name for name in RUNS if name != "bfloat16"])
def test_the_metrics_are_of_the_whole_batch(folders: Folders, name: str) -> None:
    one, two = (state(folders[0][processes] / name)["rows"] for processes in (1, 2))
    assert len(one) == len(two) == EPOCHS
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["losses"] == pytest.approx(ours["losses"], abs=1e-4)
        assert theirs["train_top1"] == pytest.approx(ours["train_top1"], abs=1e-9)
    results = [json.loads((folders[0][p] / name / "result.json").read_text()) for p in (1, 2)]
    assert results[0]["top1_last"] == results[1]["top1_last"]
    assert [r["machine"]["processes"] for r in results] == [1, 2]


def test_one_process_speaks_and_writes_for_all(folders: Folders) -> None:
    output = folders[1]
    assert output.count(f"epoch {EPOCHS}/{EPOCHS}") == len(RUNS)
    for name in RUNS:
        lines = (folders[0][2] / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))


def test_a_group_of_gloo_is_left_before_the_end(tmp_path: Path) -> None:
    leave_group()  # without a group there is nothing to leave
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    leave_group()
    assert not distributed.is_initialized()


def test_an_error_of_one_process_ends_all_without_a_stack_trace(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # only the first process writes, and it cannot
    words = ["teach", str(drawn), "--train.epochs=1", "--train.devices=2", "--device=cpu", "--runs=file"]
    command = [sys.executable, "-m", "crossres.commands.main", *words]
    run = subprocess.run(command, cwd=tmp_path, env=alone(), capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    lines = run.stderr.splitlines()
    assert "crossres: cannot write file/teacher/config.yaml: Not a directory; nothing was changed" in lines
    assert all(line.startswith(("crossres", "validation is small")) or line.endswith(" images") for line in lines)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes of a process are read from /proc")
def test_a_killed_process_ends_the_others_in_seconds_and_the_run_goes_on(drawn: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crossres.commands.main"]
    words = ["teach", str(drawn), "--train.epochs=12", "--train.devices=2", "--device=cpu", "--model.name=resnet8"]
    how: dict[str, Any] = {"cwd": tmp_path, "env": alone()}
    with started([*command, *words], **how) as process:
        metrics = tmp_path / "runs" / "teacher" / "metrics.jsonl"
        until_epoch(1, metrics)
        os.kill(second_of(process.pid), signal.SIGKILL)
        output, _ = process.communicate(timeout=30)
    line = "another process of the run ended early (see its own message; it has none if it was killed); go on with"
    if process.returncode == -signal.SIGKILL:  # a busy machine: the watcher of child processes came first
        assert f"crossres: {line} --resume, or give the same command again" in output.splitlines()
    else:
        assert process.returncode == 2
        assert output.splitlines()[-1] == f"crossres: {line}: crossres teach --resume runs/teacher"
    assert "Traceback" not in output
    run = subprocess.run([*command, "teach", "--resume", "runs/teacher"], **how, capture_output=True, timeout=120)
    assert run.returncode == 0
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 13))
    assert b"epoch 1/12" not in run.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes of a process are read from /proc")
def test_a_process_that_is_lost_while_nobody_asks_for_it_is_told(drawn: Path, tmp_path: Path) -> None:
    words = ["teach", str(drawn), "--train.devices=2", "--device=cpu"]
    with started([sys.executable, "-m", "crossres.commands.main", *words], cwd=tmp_path, env=alone()) as process:
        os.kill(second_of(process.pid), signal.SIGKILL)  # the first one waits for it to join
        output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert output.splitlines()[-1].startswith("crossres: another process of the run ended early (")
