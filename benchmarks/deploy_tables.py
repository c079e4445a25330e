"""The tables of what benchmarks/deploy.py, benchmarks/gallery.py and benchmarks/scale.py wrote."""

from __future__ import annotations

import json
from pathlib import Path

from face_tables import readable

#: Of the rows of benchmarks/scale.py, a distillation.
TAUGHT = "distillation, folder"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def exports_table(path: Path) -> str:
    """Size, speed and accuracy of the exports, beside the teacher and a mobile network."""
    document = json.loads(path.read_text())
    machine = document["machine"]
    rows = document["rows"]
    speeds = {bool(row["teaches"]): row["images_per_second"] for row in rows if "teaches" in row}
    lines = [
        f"onnxruntime {document['versions']['onnxruntime']} on one core of {machine['processor']}, all in one run; "
        f"batches of {document['batch']}. Accuracy in %: top-1 of objects, of faces on LFW's test pairs. The last "
        "rows read the same tiny photo, enlarged. float16 halves the file at the speed of float32.",
        "",
        "| model | MB | accuracy | before the export | ms, one photo | photos/s | times its teacher |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in [row for row in rows if "float16" not in row["model"]]:
        name, *precision = row["model"].split(", ")
        beside = _number(row["images_per_second"] / speeds[bool(row["classes"])], 1) if "classes" in row else ""
        model = ", ".join([readable(name), *precision])
        lines.append(
            f"| {model} | {row['bytes'] / 1e6:.2f} | {_number(row.get('accuracy'))} "
            f"| {_number(row.get('accuracy_before'))} | {row['ms_of_one']:.2f} | {row['images_per_second']:,.0f} "
            f"| {beside} |"
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


def scale_text(path: Path) -> str:
    """What a training takes with more and more images, beside a loop written by hand."""
    document = json.loads(path.read_text())
    machine, rows = document["machine"], document["rows"]
    counts = sorted({row["images"] for row in rows})
    heads = [f"{count:,}" for count in counts]
    lines = [
        f"JPEGs of 32x32, made; teacher and student: {document['student']}, at "
        f"{document['lr_size']}x{document['lr_size']}, batches of {document['batch']}, an epoch; {machine['cores']} "
        f"cores of {machine['processor']}, on which {document['workers']} processes also decode "
        "(`images.memory_mb` is 1), but for the rows in memory, which decode all before the first step. "
        f"Distillation: `crrcd-images`. The loop by hand ends after {document['by_hand_ends']:,} images. "
        "[All columns](../results/bench/scale.md).",
        "",
        f"| | images/s: {' | '.join(heads)} | memory, MB: {' | '.join(heads)} |",
        "|---|" + 2 * len(heads) * "---|",
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        of = {row["images"]: row for row in rows if row["what"] == what}
        cells = [
            f"{of[count][key]:,}" if count in of else ""
            for key in ("images_per_second", "memory_mb")
            for count in counts
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def scale_table(path: Path) -> str:
    """All that is measured with more and more images."""
    rows = json.loads(path.read_text())["rows"]
    lines = [
        "Memory: what all processes hold, each shared page once; mapped: with the pages of mapped files, which the",
        "system drops when it needs room.",
        "",
        "| | images | s to the end of 25 steps | s in all | images/s | memory, MB | mapped, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        for row in [row for row in rows if row["what"] == what]:
            first = f"{row['seconds_to_first_steps']:.1f}" if row["seconds_to_first_steps"] else ""
            lines.append(
                f"| {what} | {row['images']:,} | {first} | {row['seconds']:,.0f} | {row['images_per_second']:,} "
                f"| {row['memory_mb']:,} | {row['mapped_mb']:,} |"
            )
    return "\n".join(lines)


def ten_million(scale: Path, gpu: Path) -> str:
    """What ten million images take: from the bytes of a row, and from measured speeds, each with its file."""
    rows = [row for row in json.loads(scale.read_text())["rows"] if row["what"] in ("teacher's outputs", TAUGHT)]
    most = max(row["images"] for row in rows if row["what"] == TAUGHT)
    speed = {row["what"]: row["images_per_second"] for row in rows if row["images"] == most}
    images, width, classes, top, epochs = 10_000_000, 512, 1_000, 20, 30
    embeddings = 2 * 4 * width
    caches = {
        f"the teacher's embeddings ({width} numbers, float32) of both flips": embeddings,
        f"with the logits of {classes:,} classes (float16)": embeddings + 2 * 2 * classes,
        f"with the {top} largest of them (`teacher_top_k`)": embeddings + 2 * (top * (2 + 4) + 2),
    }
    lines = ["| 10 million images | | measured in |", "|---|---|---|"]
    lines += [f"| {what} | {images * size / 1e9:,.0f} GB | computed |" for what, size in caches.items()]
    passes = {"teacher's outputs": 1, TAUGHT: epochs}
    for what, times in passes.items():
        hours = times * images / speed[what] / 3600
        name = f"{what}, {times} epochs" if times > 1 else what
        lines.append(
            f"| {name}: the CPU above, {speed[what]:,} images/s | {hours:,.1f} hours | `results/bench/{scale.name}` |"
        )
    for row in json.loads(gpu.read_text()) if gpu.exists() else ():
        if row["method"] == "crrcd" and not row["compiled"] and "step_ms" in row:
            rate, side = row["images_per_second"], row["lr_size"]
            hours = epochs * images / rate / 8 / 3600
            lines.append(
                f"| {row['method']} at {side}x{side}, {epochs} epochs: at least, on 8 of "
                f"{row['machine']['processor']}, {rate:,} images/s each with all on the device | {hours:,.1f} hours "
                f"| `results/bench/{gpu.name}` |"
            )
    return "\n".join(lines)


def gpu_table(path: Path) -> str:
    """What `benchmarks/gpu.py` measured, or that it was not run."""
    if not path.exists():
        return "No GPU was at hand for this page, so that nothing here is measured on one."
    rows = json.loads(path.read_text())
    lines = [
        f"On {rows[0]['machine']['processor']}, batches of {rows[0]['batch']}, all on the device; in brackets with "
        "`torch.compile`.",
        "",
        "| | ms a step | images/s | waits for the device |",
        "|---|---|---|---|",
    ]
    by_kind = {(row["compiled"], row["lr_size"], row["method"]): row for row in rows}
    for (compiled, size, method), row in by_kind.items():
        if not compiled:
            pair = row, by_kind.get((True, size, method), {})
            cells = (
                "{} ({})".format(*(each.get(key, "-") for each in pair))
                for key in ("step_ms", "images_per_second", "waits")
            )
            lines.append(f"| {method}, {size}x{size} | {' | '.join(cells)} |")
    return "\n".join(lines)
