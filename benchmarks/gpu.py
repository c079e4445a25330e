"""Time training steps on a GPU, data and teacher's outputs on the device, with and without torch.compile.

Writes a list of {method, lr_size, compiled, step_ms, images_per_second, waits, ...}; ``waits`` is how often a
step lets the host wait for the device. Meant for five minutes: `--minutes` ends it, the compiled steps last.

    python benchmarks/gpu.py --out results/bench/gpu.json
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps import BATCH, Step, random_images

from crossres.config.experiment import Distill
from crossres.config.reading import read
from crossres.core.devices import commit, machine, resolve_device, versions
from crossres.core.errors import CrossresError
from crossres.core.files import write_json

METHODS = ("labels", "kd", "crd", "crrcd", "review")
#: Steps that are not counted: they allocate, and compile.
WARM = 10


def waits_of(step: Step) -> int:
    """Return how often one step lets the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step.update(step.batch())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def measure(step: Step, steps: int) -> dict[str, Any]:
    """Return the milliseconds of a step in a row of steps, and what it makes the host wait for."""
    for _ in range(WARM):
        step.update(step.batch())
    waits = waits_of(step)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step.update(step.batch())
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps
    return {"step_ms": round(1e3 * seconds, 3), "images_per_second": round(BATCH / seconds), "waits": waits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/bench/gpu.json"), help="where the list is written")
    parser.add_argument("--steps", type=int, default=200, help="timed steps of each method")
    parser.add_argument("--minutes", type=float, default=5, help="after which no other method is begun")
    parser.add_argument("--student", default="resnet8x4", help="backbone")
    chosen = parser.parse_args()
    device = resolve_device()
    if device.torch.type != "cuda":
        sys.exit("no CUDA device is here; the steps of a CPU are what `make bench` times")
    images = random_images(np.random.default_rng(0))
    rows: list[dict[str, Any]] = []
    ends = time.perf_counter() + 60 * chosen.minutes
    # else what is compiled too often runs uncompiled, without a word
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for compiled, size, method in product((False, True), (8, 16), METHODS):
        if time.perf_counter() > ends:
            sys.exit(f"{chosen.minutes:g} minutes are over: {chosen.out} has {len(rows)} of 20 rows")
        config = read(Distill, {"data": "random", "teacher": "random", "lr_size": size, "method": method})
        row: dict[str, Any] = {"method": method, "student": chosen.student, "lr_size": size, "batch": BATCH}
        row |= {"compiled": compiled, "precision": device.precision, "machine": machine(device)}
        torch._dynamo.reset()
        try:
            step = Step(chosen.student, size, config, images)
            if compiled:
                step.distiller.student.compile()
            row |= measure(step, chosen.steps)
        except (RuntimeError, torch._dynamo.exc.FailOnRecompileLimitHit, CrossresError) as error:
            # a method that does not compile is a result, too
            row["error"] = str(error).partition("\n")[0]
        rows.append(row | {"versions": versions(), "commit": commit()})
        write_json(chosen.out, rows)
        line = f"{row['step_ms']:8.2f} ms, {row['waits']} waits" if "step_ms" in row else row["error"]
        print(f"{size:3}x{size:<3} {method:8} {'compiled' if compiled else '':8} {line}", flush=True)


if __name__ == "__main__":
    main()
