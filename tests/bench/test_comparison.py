"""Methods side by side, against figures worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossres.bench.comparison import compare_folder, compare_methods, ranks, sentence, sentences
from crossres.bench.tables import comma_separated, latex, markdown
from crossres.core.errors import CrossresError
from crossres.core.files import encode_bits
from crossres.evaluation.statistics import mcnemar, wilson

COUNT = 40


def result(method: str, seed: int, right: Any, size: int = 8, **more: Any) -> dict[str, Any]:
    right = np.asarray(right, dtype=bool)
    return {
        "task": "distill",
        "name": f"{method}-{seed}",
        "student": {"name": "resnet8"},
        "lr_size": size,
        "method": method,
        "grid": {"method": method},
        "seed": seed,
        "images": {"test": COUNT},
        "top1_last": 100 * float(right.mean()),
        "right_last": encode_bits(right),
        "images_per_second": {"ce": 1000.0}.get(method, 800.0),
        "val_top1_by_epoch": [10.0 + seed, 20.0 + seed],
        **more,
    }


def first(count: int) -> Any:
    return np.arange(COUNT) < count


def test_rows_hold_mean_spread_gain_and_tests() -> None:
    base = [result("ce", seed, first(20 + seed)) for seed in range(3)]
    better = [result("a & b_c", seed, first(28 + 2 * seed)) for seed in range(3)]
    best, ce = compare_methods(better + base)
    assert (best.method, ce.method) == ("a & b_c", "ce")
    assert best.mean == pytest.approx(75.0)
    assert best.deviation == pytest.approx(5.0)
    assert best.interval is not None
    assert 70 <= best.interval[0] < 75 < best.interval[1] <= 80
    # 8, 9 and 10 of 40 images: 20, 22.5 and 25 points
    assert best.gain == pytest.approx(22.5)
    # of Student's t 6.2, but over 40 images the gains, 1, 2/3 or 1/3 on some and 0 on the others, say less
    gains = np.mean([first(28 + 2 * s).astype(float) - first(20 + s) for s in range(3)], axis=0)
    assert best.half == pytest.approx(196 * gains.std(ddof=1) / 40**0.5)
    low, high = 22.5 - best.half, 22.5 + best.half
    # the weakest evidence counts: 8 images won, none lost
    assert best.p == pytest.approx(2 * 0.5**8)
    assert best.cost == pytest.approx(1.25)
    assert list(best.epochs) == [11.0, 21.0]
    assert (ce.gain, ce.half, ce.p, ce.cost) == (None, None, None, 1.0)
    assert best.is_noise is False
    assert sentence(best, "ce") == (
        "a & b_c (resnet8 8x8): +22.50 points against ce, better: "
        f"95 % interval {low:+.2f} to {high:+.2f} over 3 seeds."
    )
    table = markdown([best, ce], "ce").splitlines()
    assert table[2] == (
        f"| resnet8 8x8 | a & b_c | 75.00 ± 5.00 | {best.interval[0]:.2f} to {best.interval[1]:.2f} "
        f"| +22.50 ± {best.half:.2f} | 0.0078 | 1.25 | 0, 1, 2 |"
    )
    assert r"resnet8 8x8 & a \& b\_c & 75.00 $\pm$ 5.00" in latex([best, ce], "ce")
    assert len({line.count("|") for line in table}) == 1
    parsed = list(csv.DictReader(io.StringIO(comma_separated([best, ce], "ce"))))
    assert float(parsed[0]["top1"]) == pytest.approx(75)
    assert (parsed[0]["within_noise"], parsed[1]["gain"]) == ("False", "")


def test_the_mean_over_classes_of_unequal_size_stands_beside() -> None:
    base = [result("ce", seed, first(20)) for seed in range(2)]
    better = [result("kd", seed, first(30)) for seed in range(2)]
    for seed, document in enumerate(better):
        document.update(class_mean_last=60.0 + seed, commonest_last=40.0)
    lines = sentences(compare_methods(better + base), "ce")
    about = "mean over classes 60.50 %, commonest class 40.00 % of the images."
    assert [line.partition(": ")[2] for line in lines[1:]] == [about]


def test_one_seed_is_judged_on_the_images_and_says_so() -> None:
    base, close, far = (result(m, 0, first(n)) for m, n in (("ce", 20), ("close", 22), ("far", 35)))
    rows = {row.method: row for row in compare_methods([base, close, far])}
    assert (rows["close"].is_noise, rows["far"].is_noise) == (True, False)
    assert sentence(rows["close"], "ce").startswith("close (resnet8 8x8): +5.00 points against ce, within noise (McN")
    assert sentence(rows["far"], "ce").endswith("(McNemar p 6.1e-05); one seed says nothing of another training.")
    unknown = {key: value for key, value in close.items() if key != "right_last"}
    row = next(row for row in compare_methods([base, unknown]) if row.method == "close")
    assert (row.p, row.is_noise) == (None, None)
    assert sentence(row, "ce").endswith("+5.00 points against ce with one seed: nothing says whether that is noise.")
    alone = compare_methods([far], baseline="kd")[0]
    assert (alone.gain, alone.cost) == (None, None)
    assert sentence(alone, "kd") == "far (resnet8 8x8): not compared with kd."


def test_the_spread_over_the_seeds_counts_where_it_is_larger() -> None:
    base = [result("ce", seed, first(20)) for seed in range(3)]
    wild = [result("x", seed, first(20 + 10 * (seed - 1))) for seed in range(3)]
    row = next(row for row in compare_methods(base + wild) if row.method == "x")
    assert row.half == pytest.approx(4.303 * 25 / 3**0.5, rel=1e-3)


def test_two_seeds_that_agree_by_chance_prove_nothing() -> None:
    base = [result("ce", seed, first(20)) for seed in range(2)]
    row = next(
        row for row in compare_methods([*base, *(result("x", s, first(21)) for s in range(2))]) if row.method == "x"
    )
    assert row.gain == pytest.approx(2.5)
    assert row.is_noise is True


def test_only_pairs_are_counted() -> None:
    better = [result("x", seed, first(30 + seed)) for seed in range(3)]
    rows = [
        next(row for row in compare_methods(better + base) if row.method == "x")
        for base in ([result("ce", 0, first(20)), result("ce", 1, first(21))], [result("ce", 2, first(20))])
    ]
    assert [row.pairs for row in rows] == [2, 1]
    assert sentence(rows[0], "ce").endswith("over 2 seeds.")
    assert "one seed says nothing" in sentence(rows[1], "ce")


def test_the_speeds_of_two_machines_say_no_cost() -> None:
    slow, fast = {"processor": "slow"}, {"processor": "fast"}
    base = [result("ce", seed, first(20), machine=slow) for seed in range(2)]
    other = [result("x", 0, first(30), machine=slow), result("x", 1, first(31), machine=fast, images_per_second=9e9)]
    costs = [
        next(row for row in compare_methods(base + tried) if row.method == "x").cost for tried in (other, other[1:])
    ]
    assert costs == [pytest.approx(1.25), None]


def test_two_results_of_one_seed_are_refused() -> None:
    with pytest.raises(CrossresError, match=r"^'x-0' and 'x-0' are not one experiment with two seeds; tabulate"):
        compare_methods([result("x", 0, first(3)), result("x", 0, first(4))])


def test_the_largest_p_over_the_seeds_counts() -> None:
    base = [result("ce", seed, first(20)) for seed in range(2)]
    other = [result("x", 0, first(30)), result("x", 1, first(21))]
    row = next(row for row in compare_methods(base + other) if row.method == "x")
    assert row.p == mcnemar(first(21), first(20)).p == 1.0


def test_settings_are_apart_and_ranked_together() -> None:
    results = [
        result(method, 0, first(count), size, grid={"method": method, "degradation": kind})
        for size, kind, counts in ((8, "clean", (20, 22, 24)), (16, "clean", (30, 34, 32)), (16, "hard", (9, 9, 12)))
        for method, count in zip(("ce", "a", "b"), counts, strict=True)
    ]
    rows = compare_methods(results, costs={("resnet8", 8, "a"): 1.5})
    assert list(dict.fromkeys(row.setting for row in rows)) == [
        *("resnet8 8x8 clean", "resnet8 16x16 clean", "resnet8 16x16 hard")
    ]
    assert ranks(rows) == {"b": pytest.approx(4 / 3), "a": pytest.approx(11 / 6), "ce": pytest.approx(17 / 6)}
    assert [row.cost for row in rows if row.method == "a"] == [1.5, None, None]
    assert latex(rows, "ce").count(r"\midrule") == 3
    *each, last = sentences(rows, "ce")
    assert len(each) == 6
    assert last == "Mean rank over the settings, of the methods that all have (1 is best): b 1.3, a 1.8, ce 2.8."


def test_of_weights_tried_the_best_on_validation_counts() -> None:
    base = [result("ce", seed, first(20), val_top1_last=50.0) for seed in range(2)]
    tried = [
        result("x", seed, first(count), val_top1_last=val, grid={"method": "x", "factor": factor})
        for factor, count, val in ((0.25, 39, 51.0), (4, 24, 52.0))
        for seed in range(2)
    ]
    best, ce = compare_methods(base + tried)
    assert (best.factor, best.mean, ce.factor) == (4, 60.0, None)
    assert "| x (weight x 4) | 60.00 ± 0.00 |" in markdown([best], "ce")


def test_what_was_run_before_the_grid_changed_is_left_out_and_named(tmp_path: Path) -> None:
    base = result("ce", 0, first(20), config={"train": {"epochs": 3}})
    new = result("kd", 0, first(24), config={"train": {"epochs": 3}})
    old = result("gone", 0, first(24), config={"train": {"epochs": 9}})
    other = result("far", 0, first(24), size=16, config={"train": {"epochs": 9}})  # a setting without a baseline
    for document in (base, new, old, other, {"name": "failed", "error": "no space"}):
        (tmp_path / f"{document['name']}.json").write_text(json.dumps(document))
    comparison = compare_folder(tmp_path, "ce")
    assert comparison.results == [base, other, new]
    assert comparison.left_out == ["gone-0: left out, as it differs from ce in train."]
    assert {row.method for row in comparison.scores} == {"ce", "kd", "far"}


def test_one_seed_has_the_interval_of_its_tests() -> None:
    (row,) = compare_methods([result("ce", 0, first(20))])
    assert row.interval == pytest.approx(wilson(20, COUNT))
    assert "35.20 to 64.80" in markdown([row], "ce")
