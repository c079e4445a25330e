"""``crossres predict`` and ``crossres embed``: parse, call, print; neither needs torch for an ONNX file."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from crossres.commands.parser import CommandParser
from crossres.core.errors import CrossresError
from crossres.deploy.recognizer import Recognizer, document_of


def predict_command(words: list[str]) -> None:
    """``crossres predict``."""
    parser = CommandParser(
        prog="crossres predict",
        description="What a model says of photos; those whose answer is not to be trusted are marked with a reason.",
    )
    parser.add_argument("model", help="an ONNX file of crossres export, a run's or model's folder, a Hub name")
    parser.add_argument("photos", nargs="+", help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=1, help="classes for each photo")
    parser.add_argument("--csv", help="write a table into this file")
    parser.add_argument("--threads", type=int, default=0, help="of an ONNX file; 0: as many as there are cores")
    parser.add_argument("--trust_code", action="store_true", help="import the code that the model names")
    parser.add_argument("--json", action="store_true", help="print a JSON document for each photo and nothing else")
    chosen = parser.parse_args(words)
    if chosen.top < 1:
        raise CrossresError("--top: at least 1 class")
    recognizer = Recognizer.load(chosen.model, threads=chosen.threads, trust_code=chosen.trust_code)
    if not recognizer.facts.classes:
        raise CrossresError(
            f"{chosen.model} knows no classes; crossres identify and crossres verify compare embeddings"
        )
    rows = []
    counts = {"flagged": 0, "unreadable": 0, "photos": 0}
    for answer in recognizer.stream(chosen.photos):
        counts["photos"] += 1
        counts["flagged"] += bool(answer.flags)
        counts["unreadable"] += answer.error is not None
        row = document_of(answer, recognizer, chosen.top)
        # a file's name may be no UTF-8
        print(json.dumps(row) if chosen.json else _line(row).encode(errors="backslashreplace").decode())
        rows.append(row)
    if chosen.csv:
        _write_csv(rows, chosen.csv)
    if counts["flagged"] or counts["unreadable"]:
        print("{photos} photos: {flagged} flagged, {unreadable} unreadable".format(**counts), file=sys.stderr)
    if counts["unreadable"] == counts["photos"]:
        raise CrossresError("none of the photos could be read")


def _line(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"{row['photo']}: not read: {row['error'].removeprefix(row['photo'] + ': ')}"
    said = ", ".join(f"{one['label']} {100 * one['probability']:.1f} %" for one in row["top"])
    return f"{row['photo']}: {said}{''.join(f' [{flag}]' for flag in row['flags'])}"


def _write_csv(rows: list[dict[str, Any]], path: str) -> None:
    import io

    from crossres.core.files import write_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["photo", "label", "probability", "flags", "error"])
    for row in rows:
        writer.writerow([row["photo"], row["label"], row["probability"], "; ".join(row["flags"]), row["error"] or ""])
    write_atomically(path, lambda file: file.write(text.getvalue().encode(errors="backslashreplace")))


def embed_command(words: list[str]) -> None:
    """``crossres embed``."""
    parser = CommandParser(
        prog="crossres embed",
        description="Embeddings of images in folders or parquet files, as parquet files; goes on where it stopped.",
    )
    parser.add_argument("model", help="an ONNX file of crossres export, a run's or model's folder, a Hub name")
    parser.add_argument("data", help="a folder of images, a parquet file or a folder of parquet files")
    parser.add_argument("out", help="folder of the parquet files to write")
    parser.add_argument("--image_column", default="image", help="column of the images in parquet files")
    parser.add_argument("--batch_size", type=int, default=64, help="photos that are run together")
    parser.add_argument(
        "--part", type=int, default=10_000, help="photos to a file; an interrupted file is done again"
    )
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: the parts go over a cluster"
    )
    parser.add_argument(
        "--onnx_input", default="", help="what an ONNX file of others expects, e.g. highest=1,colours=bgr"
    )
    parser.add_argument("--trust_code", action="store_true", help="import the code that the model names")
    chosen = parser.parse_args(words)
    from crossres.deploy.bulk import embed

    done = embed(
        chosen.model,
        chosen.data,
        Path(chosen.out),
        image_column=chosen.image_column,
        batch_size=chosen.batch_size,
        part=chosen.part,
        engine=chosen.engine,
        onnx_input=chosen.onnx_input,
        trust_code=chosen.trust_code,
        say=lambda line: print(line, file=sys.stderr),
    )
    if done["unreadable"] == done["photos"]:
        raise CrossresError(f"{chosen.out}: none of the {done['photos']:,} photos could be read")
    print(f"{chosen.out}: {done['photos']:,} photos, {done['flagged']} flagged, {done['unreadable']} unreadable")
