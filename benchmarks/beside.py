"""What a training on a CPU costs beside another one: two on all threads each, two that look at the cores first, two
whose threads wait without spinning.

    python benchmarks/beside.py

Each trains resnet8x4 on 8x8 images from labels alone for some seconds; nothing else should run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.devices import commit, machine, resolve_device, versions
from crossres.core.files import write_json

SECONDS = 20.0
#: Jobs, and what is in their environment: with OMP_NUM_THREADS the threads stay, without it a job looks at the cores.
THREADS = {"OMP_NUM_THREADS": str(os.cpu_count())}
PASSIVE = {**THREADS, "OMP_WAIT_POLICY": "PASSIVE"}
KINDS: dict[str, tuple[int, dict[str, str]]] = {
    "alone": (1, THREADS),
    "alone, looks first": (1, {}),
    "alone, waits passively": (1, PASSIVE),
    "two, all threads each": (2, THREADS),
    "two that look first": (2, {}),
    "two that wait passively": (2, PASSIVE),
}


def job(seconds: float) -> None:
    """Train for so many seconds; print the end of each step and its milliseconds as JSON."""
    from steps import CLASSES, IMAGES, Step

    from crossres.config.experiment import Distill
    from crossres.config.reading import read
    from crossres.core.cores import keeping_freed_memory
    from crossres.core.devices import sharing_cores
    from crossres.data.images import ArrayItems, ImageSet

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(ArrayItems(pixels), np.arange(IMAGES) % len(CLASSES), CLASSES, "noise")
    with sharing_cores(lambda line: print(line, file=sys.stderr)), keeping_freed_memory():
        step = Step("resnet8x4", 8, read(Distill, {"method": "labels", "lr_size": 8}), images)
        step()
        end, times = time.perf_counter() + seconds, []
        while time.perf_counter() < end:
            milliseconds = step()[0]
            times.append((time.perf_counter(), milliseconds))
    print(json.dumps(times))


def measure(jobs: int, variables: dict[str, str]) -> dict[str, Any]:
    """Run jobs side by side, the second a quarter of the time after the first; return the steps while all ran."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | variables
    running = []
    for _ in range(jobs):
        command = [sys.executable, __file__, "--job", str(SECONDS)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        time.sleep(SECONDS / 4)
    steps = [json.loads(process.communicate()[0]) for process in running]
    # one clock for all processes; a step counts that began while all ran
    start, end = max(each[0][0] for each in steps), min(each[-1][0] for each in steps)
    times = [[took for at, took in each if start <= at - took / 1e3 < end] for each in steps]
    if not all(times):
        sys.exit("the jobs did not run at one time: try again on an idle machine")
    return {
        "jobs": jobs,
        "median_ms": [round(float(np.median(each)), 1) for each in times],
        "worst_ms": [round(max(each), 1) for each in times],
        "steps_per_second": round(sum(1e3 * len(each) / sum(each) for each in times), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/bench/beside.json"), help="where it is written")
    parser.add_argument("--job", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        job(chosen.job)
        return
    # what one job costs is a difference of some hundredths: in turns, the middle of three
    names = [*[name for name, (jobs, _) in KINDS.items() if jobs == 1] * 2, *KINDS]
    runs = [(name, measure(*KINDS[name])) for name in names]
    result = {}
    for kind in KINDS:
        rows = sorted((row for name, row in runs if name == kind), key=itemgetter("steps_per_second"))
        result[kind] = rows[len(rows) // 2]
    facts = {"cores": os.cpu_count(), "machine": machine(resolve_device()), "commit": commit()}
    write_json(chosen.out, {**facts, "versions": versions(), "kinds": result})
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
