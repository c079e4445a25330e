"""The table of docs/deploy.md, of what benchmarks/deploy.py wrote."""

from __future__ import annotations

import json
from pathlib import Path


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def exports_table(path: Path) -> str:
    """Size, speed and accuracy of the exports, beside the teacher and a mobile network."""
    document = json.loads(path.read_text())
    machine = document["machine"]
    lines = [
        f"onnxruntime {document['versions']['onnxruntime']} on one core of {machine['processor']}, all in one run; "
        "top-1 in % on the test images of the student's run; the last rows read the same tiny photo, enlarged.",
        "",
        f"| model | MB | top-1 | before | same answer | ms, one photo | of {document['batch']} | photos a second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        lines.append(
            f"| {row['model']} | {row['bytes'] / 1e6:.2f} | {_number(row.get('accuracy'))} "
            f"| {_number(row.get('accuracy_before'))} | {_number(row.get('agreement'))} | {row['ms_of_one']:.2f} "
            f"| {row['ms_of_batch']:.2f} | {row['images_per_second']:,.0f} |"
        )
    return "\n".join(lines)
