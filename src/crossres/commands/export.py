"""``crossres export``."""

from __future__ import annotations

from crossres.commands.parser import CommandParser
from crossres.deploy.export import ENDING, export
from crossres.deploy.parity import BOUNDS


def export_command(words: list[str]) -> None:
    """``crossres export``."""
    parser = CommandParser(
        prog="crossres export",
        description="One file that reads photos of any size, checked against the trained network on real images.",
    )
    parser.add_argument("model", help="a run's folder, a model's folder or a Hub name")
    parser.add_argument("--out", help="the file; model-PRECISION.onnx in the run's folder if left out")
    parser.add_argument("--precision", choices=list(BOUNDS), default="float32", help="of weights and sums")
    parser.add_argument("--format", choices=list(ENDING), default="onnx", help="onnx, OpenVINO's or torch.export's")
    parser.add_argument("--data", help="images to check it on; those of the run if left out")
    parser.add_argument("--label_column", help="column of the labels in parquet files; the run's if left out")
    parser.add_argument("--images", type=int, default=10_000, help="test images that are compared at most")
    parser.add_argument("--trust_code", action="store_true", help="import the code that the model names")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    chosen = parser.parse_args(words)
    done = export(
        chosen.model,
        chosen.out,
        data=chosen.data,
        label_column=chosen.label_column,
        precision=chosen.precision,
        format=chosen.format,
        images=chosen.images,
        trust_code=chosen.trust_code,
    )
    if chosen.json:
        import json

        facts = {"path": str(done.path), "bytes": done.bytes, "milliseconds": done.milliseconds}
        print(json.dumps({**facts, "parity": done.parity.facts}))
        return
    for line in done.parity.lines():
        print(line)
    print(f"{done.path}: {done.bytes / 1e6:.2f} MB, {done.milliseconds:.2f} ms a photo on one core")
