"""What a deployed student costs and keeps: size, latency, images a second and accuracy of its exports, beside others.

Every student is exported in float32, float16 and int8 and checked on its test images; the teacher and timm's
mobilenetv3_small_100 (untrained: its speed alone) read the enlarged image. All take turns on one core in onnxruntime.

    python benchmarks/deploy.py runs/grid/STUDENT ... --teacher results/cifar100/teacher --data DATA
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossres.checkpoint import write_json
from crossres.config import Train, base_name
from crossres.deploy.export import export
from crossres.deploy.onnx_file import onnx_model, write_onnx
from crossres.deploy.recognizer import OnnxEngine
from crossres.deploy.torch_engine import deploy
from crossres.devices import resolve_device
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.pretrained import from_pretrained
from crossres.results import commit, machine, versions

BATCHES = (1, 64)
#: What an edge CPU would run instead of a student, and the side it reads.
MOBILE, MOBILE_SIDES = "timm:mobilenetv3_small_100", (32, 224)


def reading(encoder: Encoder, side: int, path: Path) -> OnnxEngine:
    """Export an encoder that enlarges photos to its own side; return what runs it."""
    encoder.info = {**encoder.info, "lr_size": side, "hr_size": side}
    network = deploy(encoder.eval())
    write_onnx(onnx_model(network), network.facts, path)
    return OnnxEngine(path, threads=1)


def parameters(encoder: Encoder) -> int:
    return sum(p.numel() for p in encoder.parameters())


def timed(engines: dict[str, tuple[OnnxEngine, int]], repeats: int) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of one photo of the given side, alone and in a batch, the engines taking turns."""
    taken: dict[str, dict[int, list[float]]] = {name: {batch: [] for batch in BATCHES} for name in engines}
    rng = np.random.default_rng(0)
    for repeat in range(repeats + 2):
        for name, (engine, side) in engines.items():
            for batch in BATCHES:
                photos = rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
                start = time.perf_counter()
                engine.run(photos)
                if repeat >= 2:  # the first ones allocate
                    taken[name][batch].append(1000 * (time.perf_counter() - start) / batch)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="folders of runs")
    parser.add_argument("--teacher", required=True, help="a model's folder")
    parser.add_argument("--data", help="images to check on; those of the runs if left out")
    parser.add_argument("--label_column", help="of parquet files")
    parser.add_argument("--out", type=Path, default=Path("results/deploy/exports.json"))
    parser.add_argument("--repeats", type=int, default=30, help="of each measurement; the median counts")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    engines: dict[str, tuple[OnnxEngine, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for student in chosen.students:
            encoder = from_pretrained(student)
            for precision in ("float32", "float16", "int8"):
                path = Path(folder) / f"{base_name(student)}-{precision}.onnx"
                done = export(student, path, data=chosen.data, label_column=chosen.label_column, precision=precision)
                engine = OnnxEngine(path, threads=1)
                name = f"{base_name(student)}, {precision}"
                engines[name] = engine, engine.facts.side
                row = {
                    "model": name,
                    "side": engine.facts.side,
                    "parameters": parameters(encoder),
                    "bytes": done.bytes,
                }
                rows.append(row | done.parity.facts)
                print("\n".join([name, *done.parity.lines()]), flush=True)
        others: list[tuple[str, Encoder, int]] = [("teacher", from_pretrained(chosen.teacher), 0)]
        sides = sorted({engine.facts.side for engine, _ in engines.values()})
        others += [
            (MOBILE, build_encoder(MOBILE, classes=engine_classes(engines), input_size=side), side)
            for side in MOBILE_SIDES
        ]
        for name, encoder, side in others:
            own = side or encoder.input_size or 32
            title = f"{name} at {own}x{own}"
            path = Path(folder) / f"other-{len(engines)}.onnx"
            # the photo is as small as the student's: enlarging it is part of the work
            engines[title] = reading(encoder, own, path), sides[0]
            rows.append(
                {"model": title, "side": own, "parameters": parameters(encoder), "bytes": path.stat().st_size}
            )
        for name, taken in timed(engines, chosen.repeats).items():
            row = next(row for row in rows if row["model"] == name)
            of_one, of_batch = (statistics.median(taken[batch]) for batch in BATCHES)
            row |= {
                "ms_of_one": round(of_one, 4),
                "ms_of_batch": round(of_batch, 4),
                "images_per_second": round(1000 / of_batch, 1),
            }
            print(f"{name:56} {of_one:8.3f} ms  {of_batch:8.3f} ms in a batch of {BATCHES[1]}")
    device = resolve_device(Train(device="cpu", precision="float32"))
    write_json(
        chosen.out,
        {"rows": rows, "batch": BATCHES[1], "machine": machine(device), "versions": versions(), "commit": commit()},
    )


def engine_classes(engines: dict[str, tuple[OnnxEngine, int]]) -> tuple[str, ...]:
    return next(iter(engines.values()))[0].facts.classes or ("anything",)


if __name__ == "__main__":
    main()
