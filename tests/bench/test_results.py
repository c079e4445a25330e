import json
from math import isnan

import numpy as np
import pytest

from crossres.bench.comparison import compare_methods
from crossres.bench.results import differences, method_of, paired_gain, read_results, require_one_experiment
from crossres.bench.tables import cells
from crossres.config.experiment import Distill
from crossres.config.reading import read
from crossres.core.errors import CrossresError
from crossres.core.files import encode_bits, encode_codes


def result(method, seed, top1, size=8):
    return {
        "task": "distill",
        "student": {"name": "resnet8"},
        "lr_size": size,
        "method": method,
        "seed": seed,
        "top1_last": top1,
        "images_per_second": 1000.0,
    }


def test_mean_spread_and_paired_gain():
    base = [result("ce", s, v) for s, v in enumerate([50.0, 52.0, 54.0])]
    better = [result("ce+kd", s, v) for s, v in enumerate([51.0, 53.5, 55.0])]
    gain, half = paired_gain(better, base)
    gains = np.array([1.0, 1.5, 1.0])
    assert gain == pytest.approx(gains.mean())
    assert half == pytest.approx(4.30 * gains.std(ddof=1) / 3**0.5, rel=1e-3)
    best, ce = map(cells, compare_methods(better + base))
    assert ce[:3] == ["resnet8 8x8", "ce", "52.00 ± 2.00"]
    assert ce[-1] == "0, 1, 2"
    assert best[4] == "+1.17 ± 0.72"


def test_noise_one_seed_and_no_baseline():
    base = [result("ce", s, v) for s, v in enumerate([50.0, 52.0])]
    noisy, _ = compare_methods(base + [result("ce+kd", s, v) for s, v in enumerate([53.0, 50.0])])
    assert noisy.is_noise
    assert paired_gain([result("ce+kd", 0, 51.0)], base) == (1.0, None)
    gain, half = paired_gain([result("ce+kd", 7, 51.0)], base)
    assert isnan(gain)
    assert half is None
    (alone,) = compare_methods([result("ce+kd", 7, 51.0)])
    assert cells(alone)[2:] == ["51.00", "", "", "", "", "7"]


@pytest.mark.parametrize(("baseline", "gains"), [("ce", [1.5, 1.0, None]), ("ce+kd", [0.5, None, -1.0])])
def test_a_gain_over_each_baseline(baseline, gains):
    three = [result("ce", 0, 50.0), result("ce+kd", 0, 51.0), result("ce+kd+crrcd", 0, 51.5)]
    scores = compare_methods(three, baseline)
    assert [row.method for row in scores] == ["ce+kd+crrcd_paper", "ce+kd", "ce"]
    assert [row.gain for row in scores] == gains


def test_a_loss_that_decays_is_a_method_of_its_own():
    constant = result("ce+kd", 0, 51.0) | {"losses": {"ce": {}, "kd": {"decay": False}}}
    fading = result("ce+kd", 0, 52.0) | {"losses": {"ce": {}, "kd": {"decay": True}}}
    assert [method_of(constant), method_of(fading)] == ["ce+kd", "ce+kd (decays)"]
    assert compare_methods([constant, fading], "ce+kd")[0].gain == 1.0


def test_a_run_of_a_known_method_carries_its_name_and_one_with_an_option_of_its_own_does_not():
    config = read(Distill, {"teacher": "t", "method": "crrcd"})
    result = {"task": "distill", "method": "ce+crrcd_images+crrcd_maps", "losses": config.terms}
    assert method_of(result) == "crrcd"
    other = config.terms | {"crrcd_maps": config.terms["crrcd_maps"] | {"tau": 0.2}}
    assert method_of(result | {"losses": other}) == "ce+crrcd_images+crrcd_maps"


def test_the_paper_s_loss_is_known_by_its_earlier_name():
    losses = read(Distill, {"teacher": "t", "method": "crrcd-paper"}).terms
    before = {"crrcd" if name == "crrcd_paper" else name: options for name, options in losses.items()}
    assert list(before) == ["ce", "kd", "crrcd"]
    assert method_of({"task": "distill", "method": "ce+kd+crrcd", "losses": before}) == "crrcd-paper"
    fading = {"ce": {"weight": 1.0}, "crrcd": {"weight": 1.0, "decay": True}}
    assert method_of({"task": "distill", "method": "ce+crrcd", "losses": fading}) == "ce+crrcd_paper (decays)"


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
    assert paired_gain([better], [base]) == (1.0, None)
    with pytest.raises(CrossresError, match=f"differ in {what} beside the method"):
        paired_gain([better], [base | other])


def test_seeds_with_maps_that_follow_the_images_are_not_those_of_seeds_whose_maps_did_not():
    moved, unmoved = (
        result("review", seed, 50.0) | {"teacher_maps": how} for seed, how in enumerate(("moved", None))
    )
    require_one_experiment([moved, unmoved | {"teacher_maps": "moved"}])
    with pytest.raises(CrossresError, match="not one experiment"):
        require_one_experiment([moved, unmoved])


def test_an_option_that_is_off_equals_one_that_was_not_there_yet():
    old = result("ce", 0, 50.0) | {"config": {"losses": {"ce": {"weight": 1.0}}}}
    new = result("ce", 1, 50.0) | {"config": {"losses": {"ce": {"weight": 1.0, "decay": False}}}}
    require_one_experiment([old, new])
    new["config"]["losses"]["ce"]["decay"] = True
    with pytest.raises(CrossresError, match="not one experiment"):
        require_one_experiment([old, new])


def test_a_default_equals_an_option_that_was_not_there_yet():
    old = result("ce", 0, 50.0) | {"config": {"train": {"epochs": 30}}}
    new = result("ce", 1, 50.0) | {"config": {"train": {"epochs": 30, "momentum": 0.9}, "images": {"fit": "crop"}}}
    assert differences(old, new) == []
    require_one_experiment([old, new])
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
        require_one_experiment([result("ce", 0, 50.0) | mine, result("ce", 1, 50.0) | mine | other])


def test_students_that_label_crops_themselves_are_seeds_of_one_experiment():
    runs = [
        result(method, seed, 50.0 + seed)
        | {
            "config": {"natural_labels": f"{method}-seed{seed}"},
            "data_sha256": {"train": "a", "adapted": f"{method}{seed}"},
        }
        for method in ("ce", "kd")
        for seed in (0, 1)
    ]
    require_one_experiment(runs[:2])
    assert differences(runs[0], runs[2]) == []
    with_labels = runs[2] | {"data_sha256": {"train": "c", "natural": "b"}}
    assert differences(runs[0], with_labels) == ["data_sha256"]
    # a method of a grid that learns from natural images, too
    brought = with_labels | {"grid": {"options": ["natural"]}}
    assert differences(runs[0], brought) == ["data_sha256"]
    grouped = [run | {"config": {"images": {"group": "track"}}} for run in (runs[0], brought)]
    assert differences(*grouped) == []


def test_unlike_runs_are_not_averaged():
    longer = result("ce", 1, 60.0) | {"config": {"train": {"epochs": 240, "seed": 1}}}
    shorter = result("ce", 0, 50.0) | {"config": {"train": {"epochs": 30, "seed": 0}}}
    with pytest.raises(CrossresError, match="not one experiment"):
        require_one_experiment([longer, shorter])
    with pytest.raises(CrossresError, match="not one experiment"):
        require_one_experiment([shorter, shorter])


def test_results_of_earlier_versions_are_read_in_todays_names():
    old = {"train": {"epochs": 3, "device": "cpu", "precision": "float32"}, "augment": {"shift": 1}}
    new = {"train": {"epochs": 3}, "device": "cpu", "precision": "float32", "augment": {"shift": 1}}
    gone = {"crrcd": {"weight": 1.0, "negatives": "batch", "queue_size": 4096}}
    first, second = (
        result("crrcd", seed, 50.0) | {"config": config | {"losses": losses}}
        for seed, (config, losses) in enumerate(((old, gone), (new, {"crrcd": {"weight": 1.0}})))
    )
    require_one_experiment([first, second])
    first["config"]["losses"]["crrcd"]["negatives"] = "queue"
    assert differences(first, second) == []
    with pytest.raises(CrossresError, match="not one experiment"):
        require_one_experiment([first, second])
    first["config"]["train"]["device"] = "cuda"
    assert differences(first, second) == ["device"]


def test_read_results(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(result("ce", 1, 1.0)))
    (tmp_path / "a.json").write_text(json.dumps(result("ce", 0, 1.0)))
    (tmp_path / "teacher.json").write_text(json.dumps({"task": "teach"}))
    assert [r["seed"] for r in read_results(tmp_path)] == [0, 1]
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(CrossresError, match=r"c\.json: not a JSON object"):
        read_results(tmp_path)
    with pytest.raises(CrossresError, match="no such folder"):
        read_results(tmp_path / "nowhere")


def test_frames_of_one_track_are_not_independent_tests():
    """40 frames of 4 tracks: a gain on one whole track may be chance, and McNemar's test does not count frames."""
    ours, theirs = np.arange(40) < 10, np.zeros(40, bool)

    def of(method, right, groups):
        facts = {"images": {"test": 40}, "right_last": encode_bits(right)}
        rows = [result(method, seed, 100 * right.mean()) | facts for seed in (0, 1)]
        return [row | ({"test_groups": encode_codes(np.arange(40) // 10)} if groups else {}) for row in rows]

    alone, grouped = (
        compare_methods([*of("ce", theirs, groups), *of("ce+kd", ours, groups)]) for groups in (False, True)
    )
    assert (alone[0].gain, grouped[0].gain) == (25.0, 25.0)
    assert alone[0].half == pytest.approx(196 * np.std(ours, ddof=1) / 40**0.5)
    assert alone[0].p < 0.01
    # of 4 tracks drawn, the one that gains is drawn 0 to 3 times, but for 2.5 % on each side
    assert grouped[0].half == pytest.approx(37.5)
    assert grouped[0].is_noise
    assert grouped[0].p is None
    single = compare_methods([row for row in of("ce", ours, True) if row["seed"] == 0])
    assert single[0].interval is None
