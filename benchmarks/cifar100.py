"""Run the CIFAR-100 recipes and collect their result.json under results/cifar100/.

What is there already is skipped and an interrupted run is resumed, so the command can be given again at any time.
Runs go side by side, each pinned to its own core and with one thread, which on a CPU does as much as one run with
all cores. CROSSRES_DATA is the folder that holds cifar100/.

    python benchmarks/cifar100.py teacher         # train it, store it under results/, judge it on enlarged images
    python benchmarks/cifar100.py students        # methods x sizes x seeds
    python benchmarks/cifar100.py sensitivity     # crrcd's options one at a time, judged on validation
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from crossres.core.files import write_json
from crossres.models.pretrained import from_pretrained, save_pretrained

RECIPES = Path("recipes/cifar100")

#: The grid of students.
METHODS = ("ce", "kd", "kd-decays", "crd", "crrcd", "crrcd-without-kd")
#: Changes to sensitivity.yaml (alpha is kd's weight, beta crrcd's), the ones that decide first.
VARIANTS = {
    "base": [],
    "alpha-0.25": ["--losses.kd.weight", "0.25"],
    "alpha-0.25-beta-4-tau-0.2": [
        *("--losses.kd.weight", "0.25"),
        *("--losses.crrcd.weight", "4", "--losses.crrcd.tau", "0.2"),
    ],
    "kd-alone": ["--losses.crrcd.weight", "0"],
    "kd-alone-alpha-0.25": ["--losses.crrcd.weight", "0", "--losses.kd.weight", "0.25"],
    "alpha-decays": ["--losses.kd.decay", "true"],
    "alpha-0.25-decays": ["--losses.kd.weight", "0.25", "--losses.kd.decay", "true"],
    "alpha-decays-beta-4-tau-0.2": [
        *("--losses.kd.decay", "true"),
        *("--losses.crrcd.weight", "4", "--losses.crrcd.tau", "0.2"),
    ],
    "kd-alone-alpha-decays": ["--losses.crrcd.weight", "0", "--losses.kd.decay", "true"],
    "without-kd": ["--losses.kd.weight", "0"],
    "without-kd-beta-4-tau-0.2": [
        *("--losses.kd.weight", "0"),
        *("--losses.crrcd.weight", "4", "--losses.crrcd.tau", "0.2"),
    ],
    "alpha-0.5": ["--losses.kd.weight", "0.5"],
    "alpha-2": ["--losses.kd.weight", "2"],
    "beta-4-tau-0.2": ["--losses.crrcd.weight", "4", "--losses.crrcd.tau", "0.2"],
    "beta-4": ["--losses.crrcd.weight", "4"],
    "beta-0.25": ["--losses.crrcd.weight", "0.25"],
    "beta-decays": ["--losses.crrcd.decay", "true"],
    "tau-0.2": ["--losses.crrcd.tau", "0.2"],
    "tau-0.05": ["--losses.crrcd.tau", "0.05"],
    "sigmoid-critic": ["--losses.crrcd.critic", "sigmoid"],
    "same-class-negatives": ["--losses.crrcd.same_class_negatives", "true"],
    "anchors-64": ["--losses.crrcd.anchors", "64"],
    "anchors-4": ["--losses.crrcd.anchors", "4"],
    "width-256": ["--losses.crrcd.width", "256"],
    "width-32": ["--losses.crrcd.width", "32"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=["teacher", "students", "sensitivity"], help="which runs")
    parser.add_argument("--sizes", type=int, nargs="+", help="LR sizes (students: 8 16; sensitivity: 8)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds (students: 0 1 2; sensitivity: 0)")
    parser.add_argument("--students", nargs="+", default=["resnet8x4"], help="backbones (resnet8x4)")
    parser.add_argument("--methods", nargs="+", help="recipes, or variants of the sensitivity grid (all)")
    parser.add_argument("--teacher", default="results/cifar100/teacher", help="trained teacher (%(default)s)")
    parser.add_argument(
        "--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)), help="to pin to (all)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (%(default)s)")
    chosen = parser.parse_args()
    if "CROSSRES_DATA" not in os.environ:
        sys.exit("CROSSRES_DATA is not set; it is the folder that holds cifar100/")
    data = ["--data", os.environ["CROSSRES_DATA"] + "/cifar100", "--runs", str(chosen.runs)]
    out = Path("results/cifar100")
    if chosen.grid == "teacher":
        _teacher(data, chosen.runs, out)
        return
    jobs: queue.Queue[tuple[str, list[str]]] = queue.Queue()
    tuning = chosen.grid == "sensitivity"
    out = out / "sensitivity" if tuning else out
    for seed in chosen.seeds or ([0] if tuning else [0, 1, 2]):
        for size in chosen.sizes or ([8] if tuning else [8, 16]):
            for student in chosen.students:
                for method in chosen.methods or (VARIANTS if tuning else METHODS):
                    name = f"{student}-{size}x{size}-{method}-seed{seed}"
                    recipe = "sensitivity.yaml" if tuning else f"student-{method}.yaml"
                    words = ["--config", str(RECIPES / recipe), *data, "--name", name]
                    words += ["--lr_size", str(size), "--model.name", student, "--train.seed", str(seed)]
                    if method != "ce":
                        words += ["--teacher", chosen.teacher]
                    _add(jobs, out, name, words + (VARIANTS[method] if tuning else []))
    print(f"{jobs.qsize()} runs to do", flush=True)
    failed: list[str] = []
    workers = [threading.Thread(target=_work, args=(jobs, core, chosen.runs, out, failed)) for core in chosen.cores]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


def _teacher(data: list[str], runs: Path, out: Path) -> None:
    """Train the teacher's two parts and store it small enough for the repository: matrices as float16."""
    for part in ("teacher", "teacher-finish"):
        run = runs / f"cifar100-{part}"
        words = ["--config", str(RECIPES / f"{part}.yaml"), *data]
        if part == "teacher-finish":
            words += ["--model.weights", str(runs / "cifar100-teacher" / "model")]
        if (run / "state.pt").exists():
            words = ["--resume", str(run)]
        subprocess.check_call([sys.executable, "-m", "crossres.commands.main", "teach", *words])
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{part}.json", json.loads((run / "result.json").read_text()))
    encoder = from_pretrained(run)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half()
    save_pretrained(encoder, out / "teacher", info={**encoder.info, "matrices_stored_as": "float16"})
    words = [str(out / "teacher"), data[1], "--label_column", "fine_label", "--sizes", "4,8,16,32", "--json"]
    said = subprocess.check_output([sys.executable, "-m", "crossres.commands.main", "evaluate", *words])
    write_json(out / "teacher-enlarged.json", json.loads(said))


def _add(jobs: queue.Queue[tuple[str, list[str]]], out: Path, name: str, words: list[str]) -> None:
    if not (out / f"{name}.json").exists():
        jobs.put((name, words))


def _work(jobs: queue.Queue[tuple[str, list[str]]], core: int, runs: Path, out: Path, failed: list[str]) -> None:
    while True:
        try:
            name, words = jobs.get_nowait()
        except queue.Empty:
            return
        run = runs / name
        if (run / "state.pt").exists():
            words = ["--resume", str(run)]
        run.mkdir(parents=True, exist_ok=True)
        with (run / "log.txt").open("a") as log:
            code = subprocess.call(
                ["taskset", "-c", str(core), sys.executable, "-m", "crossres.commands.main", "distill", *words],
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        if code:
            failed.append(name)
            print(f"{name}: failed, see {run / 'log.txt'}", flush=True)
            continue
        result = json.loads((run / "result.json").read_text())
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", result)
        print(f"{name}: top-1 {result['top1_last']:.2f} in {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
