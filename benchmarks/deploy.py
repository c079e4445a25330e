"""What a deployed student costs and keeps: size, latency, images a second and accuracy of its exports, beside others.

Every student is exported in float32, float16 and int8 and checked on its test images; the teacher and timm's
mobilenetv3_small_100 (untrained: its speed alone) read the enlarged image. All take turns on one core in onnxruntime
(``taskset -c 0`` keeps a teacher that is an ONNX file to one). A teacher with classes stands beside the students with
classes, one without beside those of faces.

    python benchmarks/deploy.py runs/STUDENT ... --teacher results/cifar100/teacher --teacher sface.onnx
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossres.config.deployment import Export
from crossres.config.options import Columns
from crossres.config.record import base_name
from crossres.core.devices import commit, machine, resolve_device, versions
from crossres.core.files import write_json
from crossres.core.timing import timed
from crossres.deploy.deployed import TorchEngine, deploy
from crossres.deploy.export import export, onnx_model, write_onnx
from crossres.evaluation.onnx_engine import Engine, OnnxEngine
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.onnx_encoder import OnnxBackbone
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained
from crossres.models.teachers import read_teacher

BATCHES = (1, 64)
#: What an edge CPU would run instead of a student, and the side it reads.
MOBILE, MOBILE_SIDES = "timm:mobilenetv3_small_100", (32, 224)


def reading(encoder: Encoder, side: int, path: Path) -> OnnxEngine:
    """Export an encoder that enlarges photos to its own side; return what runs it."""
    encoder.info = {**encoder.info, "lr_size": side, "hr_size": side}
    network = deploy(encoder.eval())
    write_onnx(onnx_model(network), network.facts, path)
    return OnnxEngine(path, threads=1)


def teaching(teacher: str, path: Path) -> tuple[Engine, Encoder, Path]:
    """What runs a teacher, its network, and the file that is run: its export, written to ``path``, or itself."""
    encoder = read_teacher(teacher, OnnxInput())
    if isinstance(encoder.backbone, OnnxBackbone):
        return TorchEngine(teacher), encoder, Path(teacher)
    return reading(encoder, encoder.input_size or 32, path), encoder, path


def parameters(encoder: Encoder) -> int:
    return sum(p.numel() for p in encoder.parameters())


def run_of(engine: Engine, side: int, batch: int) -> tuple[Callable[[], object], int]:
    photos = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    return partial(engine.run, photos), batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="folders of runs")
    parser.add_argument("--teacher", action="append", required=True, help="a folder or ONNX file; again for more")
    parser.add_argument("--data", help="images to check on; those of the runs if left out")
    parser.add_argument("--label_column", help="of parquet files")
    parser.add_argument("--out", type=Path, default=Path("results/deploy/exports.json"))
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement; the median counts")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    engines: dict[str, tuple[Engine, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for student in chosen.students:
            encoder = from_pretrained(student)
            for precision in ("float32", "float16", "int8"):
                path = Path(folder) / f"{base_name(student)}-{precision}.onnx"
                columns = Columns(label_column=chosen.label_column)
                options = Export(model=student, out=str(path), data=chosen.data, images=columns, precision=precision)
                exported = export(options)
                engine = OnnxEngine(path, threads=1)
                name = f"{base_name(student)}, {precision}"
                engines[name] = engine, engine.facts.side
                row = {
                    "model": name,
                    "side": engine.facts.side,
                    "classes": len(encoder.classes),
                    "parameters": parameters(encoder),
                    "bytes": exported["bytes"],
                }
                rows.append(row | exported["parity"])
                print(name, exported["parity"], flush=True)
        sides = sorted({engine.facts.side for engine, _ in engines.values()})
        # the photo is as small as the smallest student's: enlarging it is part of the work
        for teacher in chosen.teacher:
            engine, encoder, path = teaching(teacher, Path(folder) / f"teacher-{len(engines)}.onnx")
            own = engine.facts.side
            title = f"{base_name(teacher)} at {own}x{own}"
            engines[title] = engine, sides[0]
            rows.append({"model": title, "side": own, "teaches": len(encoder.classes), "bytes": path.stat().st_size})
        for own in MOBILE_SIDES:
            mobile = build_encoder(MOBILE, classes=("anything",), input_size=own)
            title = f"{MOBILE} at {own}x{own}"
            path = Path(folder) / f"mobile-{own}.onnx"
            engines[title] = reading(mobile, own, path), sides[0]
            rows.append({"model": title, "side": own, "parameters": parameters(mobile), "bytes": path.stat().st_size})
        runs = {(name, n): run_of(engine, side, n) for name, (engine, side) in engines.items() for n in BATCHES}
        timings = timed(runs, chosen.seconds)
        for name in engines:
            row = next(row for row in rows if row["model"] == name)
            of_one, of_batch = (timings[name, batch].median for batch in BATCHES)
            row |= {
                "ms_of_one": round(of_one, 4),
                "ms_of_batch": round(of_batch, 4),
                "images_per_second": round(1000 / of_batch, 1),
            }
            print(f"{name:56} {of_one:8.3f} ms  {of_batch:8.3f} ms in a batch of {BATCHES[1]}")
    device = resolve_device("cpu", "float32")
    write_json(
        chosen.out,
        {"rows": rows, "batch": BATCHES[1], "machine": machine(device), "versions": versions(), "commit": commit()},
    )


if __name__ == "__main__":
    main()
