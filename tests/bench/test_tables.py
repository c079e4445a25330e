"""Comparisons as text, and the files of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crossres.bench.comparison import Comparison, compare_methods
from crossres.bench.tables import (
    OTHER_SIZES,
    latex,
    markdown,
    rank_table,
    sizes_table,
    transfer_table,
    write_comparison,
)
from crossres.core.files import encode_bits

COUNT = 40


def result(method: str, seed: int, right: int, size: int = 8) -> dict[str, Any]:
    """A document of a run that has the first ``right`` of the test images right."""
    return {
        "task": "distill",
        "name": f"{method}-{seed}",
        "student": {"name": "resnet8"},
        "lr_size": size,
        "method": method,
        "seed": seed,
        "images": {"test": COUNT},
        "top1_last": 100 * right / COUNT,
        "top1_best_val": 100 * right / COUNT - 1,
        "right_last": encode_bits(np.arange(COUNT) < right),
        "images_per_second": 1000.0,
    }


def test_what_students_are_worth_elsewhere() -> None:
    judged = [
        result("ce", 0, 16) | {"dataset": "crops", "unseen": {"nearest": {"top1": 30.0}}},
        result("kd", 0, 20)
        | {
            "dataset": "crops",
            "transfer": {"digits": {"probe_top1": 80.0, "knn_top1": 70.0}},
            "unseen": {OTHER_SIZES: {"top1": 1.0, "curve": [{"size": 8, "top1": 9.0}, {"size": 4, "top1": 5.0}]}},
        },
    ]
    assert transfer_table(judged).splitlines() == [
        "| setting | method | digits, probe | digits, kNN | crops | nearest |",
        "|---|---|---|---|---|---|",
        "| resnet8 8x8 | kd | 80.00 | 70.00 | 49.00 |  |",
        "| resnet8 8x8 | ce |  |  | 39.00 | 30.00 |",
    ]
    assert sizes_table(judged).splitlines()[::2] == [
        "| setting | method | 4x4 | 8x8 |",
        "| resnet8 8x8 | kd | 5.00 | 9.00 |",
    ]
    far = {"natural": {"far": {"top1": 20.0, "drop": 20.5}}}
    seeds = [
        *(result("ce", seed, 16 + seed) | {"dataset": "crops"} | far for seed in (0, 2)),
        result("ce", 0, 10, size=16) | {"dataset": "crops", "natural": {"far": {"top1": 15.0, "drop": 9.0}}},
    ]
    assert transfer_table(seeds).splitlines()[0] == "| setting | method | crops | far | drop to far |"
    assert transfer_table(seeds).splitlines()[2:] == [
        "| resnet8 8x8 | ce | 41.50 ± 3.54 | 20.00 ± 0.00 | 20.50 ± 0.00 |",
        "| resnet8 16x16 | ce | 24.00 | 15.00 | 9.00 |",
    ]


def test_sizes_are_in_order() -> None:
    rows = compare_methods([result("ce", 0, 1, size) for size in (16, 4, 8)])
    assert [row.size for row in rows] == [16, 4, 8]
    lines = markdown(sorted(rows, key=lambda row: row.size), "ce").splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["resnet8 4x4", "resnet8 8x8", "resnet8 16x16"]


def test_ranks_in_each_setting_and_over_them() -> None:
    results = [
        *(result(method, 0, count) for method, count in (("ce", 10), ("a|b", 20), ("c", 30))),
        *(result(method, 0, count, size=16) for method, count in (("ce", 10), ("a|b", 20), ("c", 20))),
        result("only at 8x8, and best there", 0, 40),
    ]
    lines = rank_table(compare_methods(results)).splitlines()
    assert lines[0] == "| method | resnet8 8x8 | resnet8 16x16 | mean rank |"
    assert lines[2:] == ["| c | 1 | 1.5 | 1.25 |", "| a\\|b | 2 | 1.5 | 1.75 |", "| ce | 3 | 3 | 3.00 |"]
    assert rank_table(compare_methods(results[:3])) == ""


def test_no_cell_breaks_a_table() -> None:
    rows = compare_methods([result("ce", 0, 1), result("a|b<c", 0, 39)])
    assert "| a\\|b<c |" in markdown(rows, "ce")
    assert r"a$|$b$<$c" in latex(rows, "ce")


def test_the_files_of_a_comparison(tmp_path: Path) -> None:
    results = [result(method, 0, count, size) for size in (8, 16) for method, count in (("ce", 10), ("kd", 30))]
    results[0] |= {"dataset": "crops", "unseen": {OTHER_SIZES: {"top1": 1.0, "curve": [{"size": 8, "top1": 9.0}]}}}
    write_comparison(Comparison("ce", compare_methods(results), results, ["old: left out."]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("comparison.md", "comparison.tex", "comparison.csv", "comparison.txt"),
        *("ranks.md", "transfer.md", "sizes.md", "accuracy.png", "cost.png"),
    }
    lines = (tmp_path / "comparison.txt").read_text().splitlines()
    assert lines[0].startswith("top-1 in % on the test images after the last epoch")
    assert [line.split(":")[0] for line in lines[1:3]] == ["kd (resnet8 8x8)", "kd (resnet8 16x16)"]
    assert lines[-1] == "old: left out."
