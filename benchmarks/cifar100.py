"""Run the CIFAR-100 recipes and collect their result.json under results/cifar100/.

What is there already is skipped and an interrupted run is resumed, so the command can be given again at any time.
Runs go side by side, each pinned to its own core and with one thread, which on a CPU does as much as one run with
all cores. CROSSRES_DATA is the folder that holds cifar100/.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path

RECIPES = Path("recipes/cifar100")
METHODS = ("ce", "kd", "crd", "crrcd", "crrcd-without-kd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="LR sizes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--students", nargs="+", default=["resnet8x4"], help="backbones")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="recipes")
    parser.add_argument("--teacher", default="results/cifar100/teacher", help="the trained teacher")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)), help="to pin to")
    parser.add_argument("--out", type=Path, default=Path("results/cifar100"), help="where result files are collected")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    chosen = parser.parse_args()
    if "CROSSRES_DATA" not in os.environ:
        sys.exit("CROSSRES_DATA is not set; it is the folder that holds cifar100/")
    jobs: queue.Queue[tuple[str, list[str]]] = queue.Queue()
    for seed in chosen.seeds:
        for size in chosen.sizes:
            for student in chosen.students:
                for method in chosen.methods:
                    name = f"{student}-{size}x{size}-{method}-seed{seed}"
                    if (chosen.out / f"{name}.json").exists():
                        continue
                    words = ["--config", str(RECIPES / f"student-{method}.yaml")]
                    words += ["--data", os.environ["CROSSRES_DATA"] + "/cifar100", "--name", name]
                    words += ["--runs", str(chosen.runs), "--lr_size", str(size), "--model.name", student]
                    words += ["--train.seed", str(seed)]
                    if method != "ce":
                        words += ["--teacher", chosen.teacher]
                    jobs.put((name, words))
    print(f"{jobs.qsize()} runs to do", flush=True)
    workers = [threading.Thread(target=_work, args=(jobs, core, chosen)) for core in chosen.cores]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _work(jobs: queue.Queue[tuple[str, list[str]]], core: int, chosen: argparse.Namespace) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while True:
        try:
            name, words = jobs.get_nowait()
        except queue.Empty:
            return
        run = chosen.runs / name
        if (run / "state.pt").exists():
            words = ["--resume", str(run)]
        run.mkdir(parents=True, exist_ok=True)
        with (run / "log.txt").open("a") as log:
            code = subprocess.call(
                ["taskset", "-c", str(core), sys.executable, "-m", "crossres.cli", "distill", *words],
                stderr=log,
                env=environment,
            )
        if code:
            print(f"{name}: failed, see {run / 'log.txt'}", flush=True)
            continue
        chosen.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "result.json", chosen.out / f"{name}.json")
        result = json.loads((run / "result.json").read_text())
        print(f"{name}: top-1 {result['top1_last']:.2f} in {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
