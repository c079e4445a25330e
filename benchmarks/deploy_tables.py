"""The tables of docs/deploy.md, of what benchmarks/deploy.py and benchmarks/gallery.py wrote."""

from __future__ import annotations

import json
from pathlib import Path


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def exports_table(path: Path) -> str:
    """Size, speed and accuracy of the exports, beside the teacher and a mobile network."""
    document = json.loads(path.read_text())
    machine = document["machine"]
    rows = document["rows"]
    speeds = {bool(row["teaches"]): row["images_per_second"] for row in rows if "teaches" in row}
    mobiles = [row for row in rows if "teaches" not in row and "classes" not in row]
    heads = "".join(f"| times mobile {row['side']} " for row in mobiles)
    lines = [
        f"onnxruntime {document['versions']['onnxruntime']} on one core of {machine['processor']}, all in one run. "
        "Accuracy in %, of the file and of the network before the export: top-1 on the test images of the student's "
        "run, and of faces the best on its test pairs; same answer: images with the same top-1. The last rows read "
        f"the same tiny photo, enlarged: the teachers, and {mobiles[0]['model'].split(' at ')[0]}, untrained, for "
        f"its speed. Times: photos a second in batches of {document['batch']}, of those of the student's teacher and "
        f"of the mobile network at {' and '.join('{0}x{0}'.format(row['side']) for row in mobiles)}.",
        "",
        f"| model | MB | accuracy | before | same answer | ms, one photo | of {document['batch']} | photos a second "
        f"| times the teacher {heads}|",
        "|---" * (9 + len(mobiles)) + "|",
    ]
    for row in rows:
        beside = (
            [speeds[bool(row["classes"])], *(m["images_per_second"] for m in mobiles)] if "classes" in row else []
        )
        times = [_number(row["images_per_second"] / other, 1) for other in beside] or [""] * (1 + len(mobiles))
        lines.append(
            f"| {row['model']} | {row['bytes'] / 1e6:.2f} | {_number(row.get('accuracy'))} "
            f"| {_number(row.get('accuracy_before'))} | {_number(row.get('agreement'))} | {row['ms_of_one']:.2f} "
            f"| {row['ms_of_batch']:.2f} | {row['images_per_second']:,.0f} | {' | '.join(times)} |"
        )
    return "\n".join(lines)


def gallery_table(path: Path) -> str:
    """What each index finds among many embeddings, and what it costs."""
    document = json.loads(path.read_text())
    lines = [
        f"{document['count']:,} embeddings of {document['identities']:,} drawn identities, "
        f"{document['width']} numbers each; {document['probes']:,} probes; faiss "
        f"{document['versions']['faiss-cpu']} on one core of {document['machine']['processor']}; the file has "
        f"{document['file_bytes'] / 1e6:,.0f} MB. Recall: probes whose nearest identity is the one that exact search "
        "finds; own first: those whose own identity that is.",
        "",
        "| index | recall, % | own first, % | ms, one probe | 95 % within | in a batch | build, s | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in document["indexes"].items():
        lines.append(
            f"| {kind} | {row['recall_at_1']:.1f} | {row['own_identity_first']:.1f} | {row['ms_of_one']:.2f} "
            f"| {row['ms_of_one_95']:.2f} | {row['ms_in_a_batch']:.2f} | {row['build_seconds']:,.1f} "
            f"| {row['peak_memory_mb']:,.0f} |"
        )
    return "\n".join(lines)
