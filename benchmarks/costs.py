"""Time encoders on one core, an image at a time and in batches, in one run; with parameters and file sizes.

Writes a list of {model, input, reads, parameters, multiply_adds, file_bytes, ms_of_one, ms_of_batch, batch, ...}. The
encoders take turns.

    python benchmarks/costs.py teacher.onnx runs/lfw/STUDENT runs/lfw/ANOTHER --out results/faces/costs.json
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from crossres.config.record import base_name
from crossres.core.devices import commit, machine, resolve_device, versions
from crossres.core.files import write_json
from crossres.core.timing import timed
from crossres.deploy.deployed import multiply_adds
from crossres.models.encoder import Encoder
from crossres.models.onnx_encoder import OnnxBackbone, onnx_copy
from crossres.models.onnx_input import OnnxInput
from crossres.models.teachers import read_teacher

BATCH = 64


def size_of(encoder: Encoder) -> int:
    """Return the side it is given: a student's LR size, another's own."""
    lr_size = encoder.info.get("lr_size") or encoder.input_size
    return int(lr_size[1] if isinstance(lr_size, list) else lr_size)


def parameters_of(encoder: Encoder) -> int:
    if not isinstance(encoder.backbone, OnnxBackbone):
        return sum(p.numel() for p in encoder.parameters())
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(encoder.backbone.path).graph
    # weights, not the scales and shapes beside them
    return sum(to_array(tensor).size for tensor in graph.initializer if len(tensor.dims) > 1)


def multiply_adds_of(encoder: Encoder) -> int:
    """Return those of one image in convolutions and matrix products; of an ONNX file, its torch copy's."""
    if isinstance(encoder.backbone, OnnxBackbone):
        encoder = onnx_copy(encoder.backbone.path, OnnxInput()).eval()
    side = size_of(encoder)
    return multiply_adds(encoder, torch.rand(1, 3, side, side))


@torch.inference_mode()
def run(encoder: Encoder, images: torch.Tensor) -> None:
    encoder(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="runs, models or ONNX files")
    parser.add_argument("--out", type=Path, default=Path("results/faces/costs.json"))
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement; the median counts")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    device = resolve_device("cpu", "float32")
    encoders = {model: read_teacher(model, OnnxInput()).eval() for model in chosen.models}
    runs = {}
    for model, encoder in encoders.items():
        for batch in (1, BATCH):
            side = size_of(encoder)
            # a teacher of 50 ms an image is timed on fewer
            count = min(batch, 8) if isinstance(encoder.backbone, OnnxBackbone) and batch > 1 else batch
            runs[model, batch] = partial(run, encoder, torch.rand(count, 3, side, side)), count
    timings = timed(runs, chosen.seconds)
    rows = []
    for model, encoder in encoders.items():
        path = Path(model)
        weights = (path / "model.safetensors", path / "model" / "model.safetensors")
        file = path if path.is_file() else next(p for p in weights if p.exists())
        rows.append(
            {
                "model": base_name(model),
                "input": size_of(encoder),
                "reads": encoder.input_size,
                "parameters": parameters_of(encoder),
                "multiply_adds": multiply_adds_of(encoder),
                "file_bytes": file.stat().st_size,
                "ms_of_one": round(timings[model, 1].median, 3),
                "ms_of_batch": round(timings[model, BATCH].median, 3),
                "batch": BATCH,
                "machine": machine(device),
                "versions": versions(),
                "commit": commit(),
            }
        )
        row = rows[-1]
        print(f"{row['model']:48} {row['ms_of_one']:8.2f} ms  {row['ms_of_batch']:8.2f} ms in a batch")
    write_json(chosen.out, rows)


if __name__ == "__main__":
    main()
