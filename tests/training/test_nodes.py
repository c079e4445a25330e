"""Two machines under torchrun: network namespaces where the system lets us make them, else two agents on this one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import crossres
from crossres.commands.main import main
from tests.training.test_processes import NETWORK, SCRIPT, alone, second_of, started, state, until_epoch

#: a student with batch norm; biases before it would take what rounding leaves of a gradient of 0
NORMED = """
def normed(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.GELU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
    )
"""
PAIRS = {
    "plain": [
        "--method=kd",
        "--losses.crrcd_paper.weight=1",
        "--losses.crrcd_paper.anchors=5",
        "--losses.crrcd_paper.width=16",
    ],
    "normed": ["--method=labels", "--model.name=two_nets:normed", "--train.learning_rate=0.01"],
    "accumulated": ["--method=kd", "--train.accumulate=2", "--train.batch_size=12"],
    "validated": ["--method=kd", "--train.val_fraction=0.25", "--train.epochs=2", "--train.ema=0.9"],
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, dict[str, str], list[str]]]]:
    """Yield address, environment and what stands before a command, of two machines."""
    names = [f"crossres-{os.getpid()}-{side}" for side in "ab"]
    links = [f"cr{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.77.0.1", "10.77.0.2"]
    resolver = tmp_path_factory.mktemp("namespaces") / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")  # no answer comes from another: it would be waited for
    steps = [["netns", "add", name] for name in names]
    steps.append(["link", "add", links[0], "netns", names[0], "type", "veth", "peer", links[1], "netns", names[1]])
    for name, link, address in zip(names, links, addresses, strict=True):
        steps.append(["-n", name, "addr", "add", f"{address}/24", "dev", link])
        steps += [["-n", name, "link", "set", device, "up"] for device in ("lo", link)]
    try:
        usable = shutil.which("ip") is not None and all(
            subprocess.run(["ip", *step], capture_output=True).returncode == 0 for step in steps
        )
        if not usable:
            warnings.warn("no network namespaces here: two agents on one address", stacklevel=1)
            yield [("127.0.0.1", {}, [])] * 2
            return
        mounted = f'mount --bind {resolver} /etc/resolv.conf; exec "$@"'
        enter = [["ip", "netns", "exec", name, "sh", "-c", mounted, "-"] for name in names]
        interfaces = [{"GLOO_SOCKET_IFNAME": link} for link in links]
        yield list(zip(addresses, interfaces, enter, strict=True))
    finally:
        if shutil.which("ip") is not None:
            for name in names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Agents:
    """torchrun on two machines, each in a folder of its own."""

    def __init__(self, root: Path, processes: list[subprocess.Popen[bytes]]) -> None:
        self.root, self.processes = root, processes

    def wait(self) -> list[int]:
        return [process.wait(timeout=90) for process in self.processes]

    def output(self, node: int) -> str:
        return (self.root / f"node{node}.log").read_text()


@pytest.fixture
def agents(machines: Any, drawn: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a context: torchrun on both machines with the same words, in folders that hold the images ``shapes``."""
    for node in (0, 1):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "shapes").symlink_to(drawn)
    (tmp_path / "two_nets.py").write_text(NETWORK + NORMED)

    @contextmanager
    def start(*words: str, each: int = 1) -> Iterator[Agents]:
        port, processes = free_port(), []
        for node, (address, environment, enter) in enumerate(machines):
            launch = ["-m", "torch.distributed.run", "--nnodes=2", f"--nproc-per-node={each}"]
            launch += [f"--rdzv-endpoint={machines[0][0]}:{port}", "--rdzv-backend=c10d", f"--local-addr={address}"]
            launch += [f"--rdzv-conf=is_host={1 - node},timeout=60", "--max-restarts=0"]
            path = os.pathsep.join([str(tmp_path), str(Path(crossres.__file__).parents[1])])
            with (tmp_path / f"node{node}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [*enter, sys.executable, *launch, *words],
                        cwd=tmp_path / f"node{node}",
                        env=alone() | environment | {"PYTHONPATH": path},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        try:
            yield Agents(tmp_path, processes)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=60)

    return start


def words_of(runs: Path, name: str, teacher: Path, *options: str) -> list[str]:
    given = {option.partition("=")[0] for option in options}
    base = [
        *(f"--runs={runs}", f"--name={name}", f"--teacher={teacher}", "--model.name=two_nets:plain"),
        *("--hr_size=16", "--lr_size=8", "--train.epochs=5", "--train.batch_size=24", "--train.learning_rate=0.03"),
        *("--train.val_fraction=0", "--device=cpu", "--precision=float32"),
    ]
    return ["distill", "shapes", *(option for option in base if option.partition("=")[0] not in given), *options]


def here(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in one process."""
    monkeypatch.chdir(folder / "node0")
    monkeypatch.syspath_prepend(folder)
    assert main(words) == 0


def demand_equal(one: Path, other: Path) -> None:
    first, second = state(one), state(other)
    assert first["scheduler"]["last_epoch"] == second["scheduler"]["last_epoch"]
    for key, value in first["distiller"].items():
        torch.testing.assert_close(second["distiller"][key], value, rtol=0, atol=1e-5, equal_nan=True, msg=key)
    for ours, theirs in zip(first["rows"], second["rows"], strict=True):
        judged = [name for name in ours if name.startswith("val_")]
        assert [theirs[name] for name in judged] == [ours[name] for name in judged]
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["top1_last"] == results[1]["top1_last"]
    assert results[0]["right_last"] == results[1]["right_last"]


def test_two_nodes_of_two_processes_learn_what_one_learns(
    agents: Any, drawn_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    runs = [[words_of(tmp_path / n, name, drawn_teacher, *PAIRS[name]) for name in PAIRS] for n in ("one", "four")]
    (tmp_path / "four.json").write_text(json.dumps(runs[1]))
    with agents(str(tmp_path / "script.py"), str(tmp_path / "four.json"), each=2) as started:
        for words in runs[0]:
            here(words, tmp_path, monkeypatch)
        assert started.wait() == [0, 0], started.output(0)[-3000:]
    for name in PAIRS:
        demand_equal(tmp_path / "one" / name, tmp_path / "four" / name)
    assert state(tmp_path / "four" / "plain")["scheduler"]["last_epoch"] == 20


@pytest.mark.usefixtures("agents")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes of a process are read from /proc")
def test_a_killed_process_restarts_the_run_which_goes_on(drawn_teacher: Path, tmp_path: Path) -> None:
    # of each process's own folder: the second one never sees the state that the first one writes
    script = tmp_path / "apart.py"
    script.write_text(
        "import os, sys\nfrom crossres.commands.main import main\n"
        "os.chdir(f\"node{os.environ['RANK']}\")\nsys.exit(main(sys.argv[1:]))\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    words = words_of(Path("runs"), "run", drawn_teacher, "--method=kd", "--train.epochs=20")
    metrics = tmp_path / "node0" / "runs" / "run" / "metrics.jsonl"
    # else restarted processes read the addresses of the earlier ones
    own = alone() | {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(crossres.__file__).parents[1])]),
    }
    with started([sys.executable, *launch, str(script), *words], cwd=tmp_path, env=own) as process:
        until_epoch(2, metrics)
        os.kill(second_of(process.pid), signal.SIGKILL)
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 21))
    assert output.count("epoch 1/20") == 1  # it did not begin anew
    assert "restarts may fail to connect" not in output


def test_a_node_with_other_files_is_refused(agents: Any, drawn: Path, drawn_teacher: Path, tmp_path: Path) -> None:
    other = tmp_path / "node1" / "shapes"
    other.unlink()
    shutil.copytree(drawn, other)
    next((other / "train" / "bar").iterdir()).unlink()
    words = words_of(tmp_path / "runs", "run", drawn_teacher, "--method=kd")
    with agents("-m", "crossres.commands.main", *words) as started:
        assert all(started.wait())
    for node in (0, 1):
        assert "does not have the same train images as process 0" in started.output(node)
        assert "Traceback" not in started.output(node).partition("does not have")[0]
    assert not (tmp_path / "runs" / "run").exists()


def test_a_node_without_the_files_ends_the_others(agents: Any, drawn_teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "node1" / "shapes").unlink()
    words = words_of(tmp_path / "runs", "run", drawn_teacher, "--method=kd")
    with agents("-m", "crossres.commands.main", *words) as started:
        assert all(started.wait())  # not after the half hour that a group waits for its processes
    assert "crossres (process 1): there is no data set 'shapes'" in started.output(1)
    assert "crossres: process 1: there is no data set 'shapes'" in started.output(0)
    assert not (tmp_path / "runs" / "run").exists()
