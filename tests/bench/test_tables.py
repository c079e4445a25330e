import json

import numpy as np
import pytest

from crossres.bench.tables import (
    OTHER_SIZES,
    differences,
    method_table,
    paired_gain,
    read_results,
    sizes_table,
    transfer_table,
)
from crossres.core.errors import CrossresError


def result(method, seed, top1, size=8):
    return {
        "task": "distill",
        "student": {"name": "resnet8"},
        "lr_size": size,
        "method": method,
        "seed": seed,
        "top1_last": top1,
        "top1_best_val": top1 - 1,
        "top5_last": 90.0,
    }


def test_mean_spread_and_paired_gain():
    base = [result("ce", s, v) for s, v in enumerate([50.0, 52.0, 54.0])]
    better = [result("ce+kd", s, v) for s, v in enumerate([51.0, 53.5, 55.0])]
    gain, half = paired_gain(better, base)
    gains = np.array([1.0, 1.5, 1.0])
    assert gain == pytest.approx(gains.mean())
    assert half == pytest.approx(4.30 * gains.std(ddof=1) / 3**0.5, rel=1e-3)
    table = method_table(better + base)
    assert "| resnet8 | 8x8 | ce | 52.00 ± 2.00 | 51.00 ± 2.00 | 90.00 ± 0.00 |  | 0, 1, 2 |" in table
    assert "+1.17 ± 0.72 |" in table


def test_noise_one_seed_and_no_baseline_are_said():
    base = [result("ce", s, v) for s, v in enumerate([50.0, 52.0])]
    assert "(within noise)" in method_table(base + [result("ce+kd", s, v) for s, v in enumerate([53.0, 50.0])])
    assert "+1.00 (1 seed)" in method_table([base[0], result("ce+kd", 0, 51.0)])
    assert method_table([result("ce+kd", 7, 51.0)]).endswith("| 51.00 | 50.00 | 90.00 |  | 7 |")


def test_a_gain_over_each_baseline():
    three = [result("ce", 0, 50.0), result("ce+kd", 0, 51.0), result("ce+kd+crrcd", 0, 51.5)]
    lines = method_table(three, baselines=("ce", "ce+kd")).splitlines()
    assert "| gain over ce | gain over ce+kd | seeds |" in lines[0]
    assert lines[1].count("|") == lines[0].count("|")
    assert [line.split("|")[7:9] for line in lines[2:]] == [
        ["  ", " -1.00 (1 seed) "],
        [" +1.00 (1 seed) ", "  "],
        [" +1.50 (1 seed) ", " +0.50 (1 seed) "],
    ]


def test_a_loss_that_decays_is_a_method_of_its_own():
    constant = result("ce+kd", 0, 51.0) | {"losses": {"ce": {}, "kd": {"decay": False}}}
    fading = result("ce+kd", 0, 52.0) | {"losses": {"ce": {}, "kd": {"decay": True}}}
    lines = method_table([constant, fading], baselines=("ce+kd",)).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in lines] == ["ce+kd", "ce+kd (decays)"]
    assert "+1.00 (1 seed)" in lines[1]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"data_sha256": {"train": "b"}}, "data_sha256"),
        ({"config": {"train": {"epochs": 240}}}, "train"),
        ({"hr_size": 64}, "hr_size"),
    ],
)
def test_a_gain_over_another_experiment_is_refused(other, what):
    mine = {"data_sha256": {"train": "a"}, "config": {"train": {"epochs": 30}}, "hr_size": 32}
    base = result("ce", 0, 50.0) | mine | {"config": {**mine["config"], "teacher": None}}
    better = result("ce+kd", 0, 51.0) | mine | {"config": {**mine["config"], "teacher": "t"}}
    assert "+1.00" in method_table([base, better])
    with pytest.raises(CrossresError, match=f"differ in {what} beside the method"):
        method_table([base | other, better])


def test_an_option_that_is_off_equals_one_that_was_not_there_yet():
    old = result("ce", 0, 50.0) | {"config": {"losses": {"ce": {"weight": 1.0}}}}
    new = result("ce", 1, 50.0) | {"config": {"losses": {"ce": {"weight": 1.0, "decay": False}}}}
    assert "| 0, 1 |" in method_table([old, new])
    new["config"]["losses"]["ce"]["decay"] = True
    with pytest.raises(CrossresError, match="not one experiment"):
        method_table([old, new])


def test_a_default_equals_an_option_that_was_not_there_yet():
    old = result("ce", 0, 50.0) | {"config": {"train": {"epochs": 30}}}
    new = result("ce", 1, 50.0) | {"config": {"train": {"epochs": 30, "batch_size": 128}, "images": {"fit": "crop"}}}
    assert differences(old, new) == []
    assert "| 0, 1 |" in method_table([old, new])
    new["config"]["images"]["fit"] = "pad"
    assert differences(old, new) == ["images"]


def test_what_a_method_brings_along_in_its_grid_is_the_method():
    base = result("ce", 0, 50.0) | {"config": {"train": {"epochs": 30, "learning_rate": 0.1}}}
    own = result("kd", 0, 51.0) | {"config": {"train": {"epochs": 30, "learning_rate": 0.05}, "stages": {"x": 1}}}
    assert differences(own, base) == ["train"]
    own["grid"] = {"method": "kd", "options": ["train.learning_rate", "stages.x"]}
    assert differences(own, base) == differences(base, own) == []
    own["config"]["train"]["epochs"] = 60
    assert differences(own, base) == ["train"]
    assert own["config"]["train"]["learning_rate"] == 0.05


@pytest.mark.parametrize("other", [{"data_sha256": {"train": "b"}}, {"teacher": {"sha256": "b"}}])
def test_other_data_or_another_teacher_is_another_experiment(other):
    mine = {"data_sha256": {"train": "a"}, "teacher": {"sha256": "a"}}
    with pytest.raises(CrossresError, match="not one experiment"):
        method_table([result("ce", 0, 50.0) | mine, result("ce", 1, 50.0) | mine | other])


def test_sizes_are_in_order():
    rows = method_table([result("ce", 0, 1.0, size) for size in (16, 4, 8)]).splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["4x4", "8x8", "16x16"]


def test_unlike_runs_are_not_averaged():
    longer = result("ce", 1, 60.0) | {"config": {"train": {"epochs": 240, "seed": 1}}}
    shorter = result("ce", 0, 50.0) | {"config": {"train": {"epochs": 30, "seed": 0}}}
    with pytest.raises(CrossresError, match="not one experiment"):
        method_table([longer, shorter])
    with pytest.raises(CrossresError, match="not one experiment"):
        method_table([shorter, shorter])


def test_read_results(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(result("ce", 1, 1.0)))
    (tmp_path / "a.json").write_text(json.dumps(result("ce", 0, 1.0)))
    (tmp_path / "teacher.json").write_text(json.dumps({"task": "teach"}))
    assert [r["seed"] for r in read_results(tmp_path)] == [0, 1]
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(CrossresError, match=r"c\.json: not JSON"):
        read_results(tmp_path)
    with pytest.raises(CrossresError, match="no such folder"):
        read_results(tmp_path / "nowhere")


def test_what_students_are_worth_elsewhere():
    judged = [
        result("ce", 0, 40.0) | {"dataset": "crops", "unseen": {"nearest": {"top1": 30.0}}},
        result("kd", 0, 50.0)
        | {
            "dataset": "crops",
            "transfer": {"digits": {"probe_top1": 80.0, "knn_top1": 70.0}},
            "unseen": {OTHER_SIZES: {"top1": 1.0, "curve": [{"size": 8, "top1": 9.0}, {"size": 4, "top1": 5.0}]}},
        },
    ]
    assert transfer_table(judged).splitlines() == [
        "| method | digits, probe | digits, kNN | crops | nearest |",
        "|---|---|---|---|---|",
        "| kd | 80.00 | 70.00 | 49.00 |  |",
        "| ce |  |  | 39.00 | 30.00 |",
    ]
    assert sizes_table(judged).splitlines()[::2] == ["| method | 4x4 | 8x8 |", "| kd | 5.00 | 9.00 |"]
