"""Time a training step of every method of a grid beside the bare cross-entropy step, in one run.

Writes results/bench/steps.json: a list of {method, student, lr_size, batch, step_ms, ratio_to_ce, ...}. The teacher's
outputs come from a cache, as in a distillation; the methods take turns, so that a slow minute hits all alike.
Beside it, start.json: the seconds from the demo's start to its first training step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossres.bench.grid import read_grid, runs_of
from crossres.config.experiment import Distill
from crossres.config.options import Train
from crossres.core.cores import keeping_freed_memory
from crossres.core.devices import commit, machine, resolve_device, versions
from crossres.core.files import write_json
from crossres.core.types import Batch
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.losses.base import Shape
from crossres.losses.options import reads
from crossres.models.cache import TeacherCache
from crossres.models.encoder import build_encoder
from crossres.models.small_maps import fast_weight_gradients
from crossres.models.stages import capture_maps, paired_stages
from crossres.training.distiller import Distiller, build_losses
from crossres.training.loop import optimizer_of

BATCH = 128
IMAGES = 20_000
CLASSES = [str(i) for i in range(100)]
#: Beside the methods of the grid, as a grid names them.
FORMS: dict[str, Any] = {
    "crrcd-paper (sigmoid critic)": {"method": "crrcd-paper", "crrcd_paper": {"critic": "sigmoid"}},
    "crrcd (no groups)": {"method": "crrcd", "crrcd_maps": {"group": 0}},
    "crd (bank, 16384 negatives)": "crd-bank",
}


def random_images(rng: np.random.Generator) -> ImageSet:
    """Return images of noise, 32x32, with labels."""
    pixels = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    return ImageSet(ArrayItems(pixels), rng.integers(0, len(CLASSES), IMAGES), CLASSES, "random")


@cache
def stored_maps(images: int, shape: Shape, place: torch.device) -> torch.Tensor:
    """Maps of both views, one after the other, shared by all methods."""
    return torch.randn(2 * images, *shape, device=place).half()


class Step:
    """One method's training step, complete: data, augmentation, degradation, forward, backward, update."""

    def __init__(self, student: str, lr_size: int, config: Distill, images: ImageSet) -> None:
        torch.manual_seed(0)
        losses = config.terms
        self.device = resolve_device()
        place = self.device.torch
        self.loader = Loader(images, hr_size=32, lr_size=lr_size, batch_size=BATCH, device=place, shift=4, flip=True)
        encoder = build_encoder(student, classes=CLASSES, input_size=lr_size).to(place)
        encoder = encoder.to(memory_format=torch.channels_last)
        teacher = build_encoder("wrn_16_2", classes=CLASSES, input_size=32)
        maps: tuple[list[Shape], list[Shape]] = ([], [])
        paths: list[str] = []
        if any(reads(name) == "features" for name in losses):
            paths, ours = paired_stages(teacher, encoder, config.stages.teacher, config.stages.student)
            maps = capture_maps(teacher, paths, 32), capture_maps(encoder, ours, lr_size)
        terms = build_losses(losses, teacher, encoder, maps)
        for loss in terms.values():
            loss.to(place).prepare(self.loader.label)
        self.distiller = Distiller(encoder, terms, dict.fromkeys(losses, 1.0))
        self.distiller.progress = 0.5  # past any stage of a loss's own
        self.fast = fast_weight_gradients(self.distiller)
        self.fast.__enter__()  # as the training loop, once an epoch
        self.optimizer = optimizer_of(self.distiller, Train())
        n = len(images)
        features = {
            path: stored_maps(n, (t[0], min(t[1], s[1]), min(t[2], s[2])), place)
            for path, t, s in zip(paths, *maps, strict=True)
        }
        outputs = {
            "embedding": torch.randn(2 * n, teacher.embedding_dim, device=place),
            "logits": torch.randn(2 * n, len(CLASSES), device=place).half(),
        }
        self.cache = TeacherCache([outputs | features], n, place)
        self.batches: Iterator[Batch] = iter(())
        self.number = 0

    def __call__(self) -> tuple[float, float]:
        """Run a step as the training loop does; return the milliseconds of all of it and of its data part."""
        started = self._now()
        batch = self.batch()
        data = self._now()
        self.update(batch)
        return 1e3 * (self._now() - started), 1e3 * (data - started)

    def batch(self) -> Batch:
        """Return the next batch of an endless training."""
        batch = next(self.batches, None)
        if batch is None:
            self.batches = self.loader.epoch(self.number)
            self.number += 1
            batch = next(self.batches)
        return batch

    def update(self, batch: Batch) -> None:
        """Run a step on a batch."""
        teacher = self.cache(batch.index, batch.view, batch.place)
        with self.device.autocast():
            terms, _ = self.distiller(batch.lr, teacher, batch.label, batch.index)
        torch.stack([*terms.values()]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _now(self) -> float:
        if self.device.torch.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def start_up() -> float:
    """Return the seconds from the demo's start to the state it writes before its first training step."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        demo = subprocess.Popen(
            [sys.executable, "-m", "crossres.commands.main", "demo", "--runs", folder], stderr=subprocess.DEVNULL
        )
        try:
            while not (Path(folder) / "teacher" / "state.pt").exists():
                if demo.poll() is not None:
                    sys.exit(f"crossres demo ended with {demo.returncode} before its first step")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            demo.terminate()
            demo.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("results/bench/steps.json"), help="where the list is written"
    )
    parser.add_argument("--grid", default="recipes/cifar100/methods-8x8.yaml", help="grid that names the methods")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each method")
    parser.add_argument("--student", default="resnet8x4", help="backbone")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="LR sizes")
    chosen = parser.parse_args()
    seconds = start_up()
    print(f"start-up to the first step of the demo: {seconds:.2f} s", flush=True)
    write_json(chosen.out.with_name("start.json"), {"seconds": round(seconds, 3), "commit": commit()})
    rng = np.random.default_rng(0)
    images = random_images(rng)
    grid = read_grid(chosen.grid)
    grid = replace(grid, methods=grid.methods | FORMS, seeds=[0], lr_sizes=[8], factors=[1.0])
    configs = {run.place["method"]: run.config for run in runs_of(grid)}
    rows = []
    for size in chosen.sizes:
        steps = {method: Step(chosen.student, size, config, images) for method, config in configs.items()}
        for step in steps.values():
            for _ in range(5):
                step()
        times: dict[str, list[tuple[float, float]]] = {method: [] for method in steps}
        for _ in range(chosen.steps):
            # in another order each time: what ran before leaves the processor's caches cold or warm
            for method in rng.permutation(list(steps)):
                times[method].append(steps[method]())
        bare = statistics.median(whole for whole, _ in times["ce"])
        for method, measured in times.items():
            whole = statistics.median(w for w, _ in measured)
            data = statistics.median(d for _, d in measured)
            rows.append(
                {
                    "method": method,
                    "student": chosen.student,
                    "lr_size": size,
                    "batch": BATCH,
                    "step_ms": round(whole, 3),
                    "ratio_to_ce": round(whole / bare, 4),
                    "data_ms": round(data, 3),
                    "data_share_of_ce_step": round(data / bare, 4),
                    "steps": chosen.steps,
                    "precision": steps[method].device.precision,
                    "machine": machine(steps[method].device),
                    "versions": versions(),
                    "commit": commit(),
                }
            )
            print(f"{size:3}x{size:<3} {method:32} {whole:8.2f} ms  {whole / bare:6.3f} of ce  data {data:5.2f} ms")
    write_json(chosen.out, rows)


if __name__ == "__main__":
    with keeping_freed_memory():  # as a training
        main()
