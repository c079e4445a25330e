"""The tables of docs/measured/faces.md, of what recipes/faces/ and benchmarks/costs.py wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from crossres.bench.results import method_of
from crossres.core.files import decode_bits
from crossres.evaluation.statistics import mcnemar

#: The protocol of the grids that reads the HR side with the teacher.
GALLERY = "teacher's gallery"
#: Rows that no student of the grid is.
ENLARGED = "the teacher, enlarged"
Row = Mapping[str, Any]


def _open_set(row: Row, fpir: float) -> float:
    return float(next(point["tpir"] for point in row["identification"]["open_set"] if point["fpir"] == fpir))


def _tar(row: Row, far: float) -> float:
    return float(next(point["tar"] for point in row["verification"]["tar_at_far"] if point["far"] == far))


#: Columns of one pair of sides.
MEASURES: dict[str, Callable[[Row], float]] = {
    "accuracy": lambda row: row["verification"]["accuracy_chosen"],
    "AUC": lambda row: row["verification"]["auc"],
    "EER": lambda row: row["verification"]["eer"],
    "TAR at FAR 1e-2": lambda row: _tar(row, 0.01),
    "rank-1": lambda row: row["identification"]["rank1"],
    "TPIR at FPIR 0.1": lambda row: _open_set(row, 0.1),
    "mAP": lambda row: row["identification"]["retrieval"]["map"],
}


def _row(document: Mapping[str, Any], sides: str, size: int) -> Row:
    match: Row = next(row for row in document["rows"] if row["sides"] == sides and row["size"] in (size, None))
    return match


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" if len(values) == 1 else f"{mean(values):.1f} ± {stdev(values):.1f}"


def _in_its_space(result: Mapping[str, Any]) -> bool:
    """Whether the student was taught the teacher's space; of another it cannot be compared with its gallery."""
    return "cosine" in result["losses"]


def protocols_table(
    results: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any],
    size: int,
    sides: str,
    copies: Mapping[str, Any],
) -> str:
    """Students beside the enlarged teacher, on one pair of sides: a row a method, the best on pairs first.

    Args:
        results: documents of a grid with the protocol `GALLERY`.
        teacher: what ``crossres faces evaluate --json`` says of the teacher at these sizes.
        size: side of the LR images.
        sides: lr-lr or hr-lr.
        copies: by name, what the same command says of a copy of the teacher that was trained on low resolution.
    """
    rated = _rated(results, teacher, size, sides, copies)
    enlarged = rated[ENLARGED][0][0]
    lines = [f"| | {' | '.join(MEASURES)} | p | seeds |", "|---" * (len(MEASURES) + 3) + "|"]
    entries = []
    for name, (rows, numbers) in rated.items():
        cells = [_spread([measure(row) for row in rows]) for measure in MEASURES.values()]
        p = max(_p(row, enlarged) for row in rows)
        shown = "" if name == ENLARGED else "< 0.001" if p < 0.001 else f"{p:.3f}"
        seeds = ", ".join(str(seed) for seed in numbers)
        accuracy = mean(MEASURES["accuracy"](row) for row in rows)
        entries.append((accuracy, f"| {name} | {' | '.join(cells)} | {shown} | {seeds} |"))
    return "\n".join([*lines, *(line for _, line in sorted(entries, key=lambda entry: -entry[0]))])


def summary_table(
    results: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any],
    methods: Collection[str],
    copies: Mapping[str, Any],
    measure: str,
) -> str:
    """One of `MEASURES`, every size on both pairs of sides in one table, of some methods."""
    sizes = sorted({result["lr_size"] for result in results})
    settings = [(sides, size) for sides in ("lr-lr", "hr-lr") for size in sizes]
    named = {"lr-lr": "both {0}x{0}", "hr-lr": "{0}x{0} against the teacher's gallery"}
    lines = [
        f"| {measure}, % | {' | '.join(named[sides].format(size) for sides, size in settings)} |",
        "|---" * (len(settings) + 1) + "|",
    ]
    columns = [_rated(results, teacher, size, sides, copies) for sides, size in settings]
    for name in (ENLARGED, *methods, *copies):
        rows = [column.get(name, ([], []))[0] for column in columns]
        cells = [_spread([MEASURES[measure](row) for row in of_one]) if of_one else "" for of_one in rows]
        if any(cells):  # a method of the grid that is still to be run has none
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def face_means(
    measure: str, results: Sequence[Mapping[str, Any]], teacher: Mapping[str, Any], copies: Mapping[str, Any]
) -> dict[tuple[str, int], dict[str, float]]:
    """One of `MEASURES` in %, mean over the seeds: by sides and LR size, by method."""
    return {
        (sides, size): {
            name: mean(MEASURES[measure](row) for row in rows)
            for name, (rows, _) in _rated(results, teacher, size, sides, copies).items()
        }
        for sides in ("lr-lr", "hr-lr")
        for size in sorted({result["lr_size"] for result in results})
    }


def degraded_table(judged: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]]) -> str:
    """Models judged on faces made small in several ways: accuracy on pairs, AUC and rank-1, both sides alike.

    Args:
        judged: for each model, by degradation and LR size, what ``crossres faces evaluate --json`` says.
    """
    settings = list(next(iter(judged.values())))
    heads = " | ".join(f"{size}x{size}, {kind}" for kind, size in settings)
    lines = [f"| accuracy / AUC / rank-1 | {heads} |", "|---" * (len(settings) + 1) + "|"]
    for name, documents in judged.items():
        rows = [_row(documents[kind, size], "lr-lr", size) for kind, size in settings]
        cells = [
            " / ".join(f"{MEASURES[measure](row):.1f}" for measure in ("accuracy", "AUC", "rank-1")) for row in rows
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rated(
    results: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any],
    size: int,
    sides: str,
    copies: Mapping[str, Any],
) -> dict[str, tuple[list[Row], list[int]]]:
    """For each method, the teacher and its copies: a row of its protocol for each seed, and the seeds."""
    rated: dict[str, tuple[list[Row], list[int]]] = {ENLARGED: ([_row(teacher, sides, size)], [])}
    for result in sorted(results, key=lambda result: int(result["seed"])):
        if result["lr_size"] == size and (sides == "lr-lr" or _in_its_space(result)):
            rows, seeds = rated.setdefault(method_of(result), ([], []))
            rows.append(_row(result["protocols"][GALLERY], sides, size))
            seeds.append(result["seed"])
    for name, copy in copies.items():
        if any(row["size"] == size for row in copy["rows"]):  # judged at the sizes that it is for
            rated[name] = [_row(copy, sides, size)], [0]
    return rated


def _p(row: Row, other: Row) -> float:
    """McNemar's p of two sets of answers to the same pairs."""
    counts = row["verification"]["pairs"]
    total = counts["genuine"] + counts["impostor"]
    ours, theirs = (decode_bits(one["verification"]["right"], total) for one in (row, other))
    return mcnemar(ours, theirs).p


def readable(run: str) -> str:
    """The name of a run of a grid in words, such as wrn_16_2 at 16x16, crrcd + cosface."""
    match = re.fullmatch(r"(\w+)-(\d+x\d+)-(.+)-seed\d+", run)
    if not match:
        return run
    method = match[3].replace("-+-", " + ").replace("-enlarged-to-", ", enlarged to ").replace("-native", ", native")
    return f"{match[1]} at {match[2]}, {method}"


def faces_costs(path: Path) -> str:
    """Milliseconds, parameters and file sizes of the teacher and its students."""
    rows = json.loads(path.read_text())
    first = rows[0]
    lines = [
        f"One core of {first['machine']['processor']}, float32, torch {first['versions']['torch']} and (the ONNX "
        f"file) onnxruntime {first['versions']['onnxruntime']}, in one run, taking turns; medians.",
        "",
        f"| model | read at | parameters | million multiply-adds | file, MB | ms, one image "
        f"| ms an image of {first['batch']} | times the first's speed |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        name = re.sub(", (enlarged|native).*", "", readable(row["model"]))  # the next column says it
        read, faster = row["reads"], first["ms_of_batch"] / row["ms_of_batch"]
        lines.append(
            f"| {name} | {read}x{read} | {row['parameters']:,} "
            f"| {row['multiply_adds'] / 1e6:.1f} | {row['file_bytes'] / 1e6:.2f} | {row['ms_of_one']:.2f} "
            f"| {row['ms_of_batch']:.2f} | {faster:.0f} |"
        )
    return "\n".join(lines)
