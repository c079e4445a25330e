"""Whole runs on drawn images: repeatable to the last bit, resumable, and judged on untouched images."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from crossres import (
    CrossresError,
    Distill,
    Teach,
    distill,
    load,
    read,
    teach,
)
from crossres.bench.tables import method_table
from crossres.commands.main import main
from crossres.config.options import Augment, Degradation, Images, Model, Train
from crossres.data.degrade import degrade
from crossres.data.loader import Loader
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.pretrained import save_pretrained
from crossres.models.weights import weights_sha256
from crossres.training import classification as task_classification
from crossres.training import loop as train
from crossres.training import prepare as preparation
from crossres.training import run as experiment
from crossres.training import task as task_base

TIMES = {"seconds", "total_seconds", "seconds_with_validation", "images_per_second", "peak_memory_mb"}
CRRCD_QUEUE = {"crrcd": {"weight": 1.0, "negatives": "queue", "queue_size": 40, "anchors": 4, "width": 16}}
CRD_QUEUE = {"crd": {"weight": 0.5, "form": "queue", "queue_size": 40, "width": 16}}
CRD_BANK = {"crd": {"weight": 0.5, "form": "bank", "negatives": 32, "width": 16}}
CE, KD = {"ce": {"weight": 1.0}}, {"kd": {"weight": 1.0}}


@pytest.fixture(autouse=True)
def _one_thread_and_no_fabric_chatter() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(drawn: Path, drawn_teacher: Path, tmp_path: Path) -> Any:
    """Return a maker of small Distill configs; train_... goes to Train, the rest to Distill."""

    def made(**options: Any) -> Distill:
        of_train = {k.removeprefix("train_"): options.pop(k) for k in list(options) if k.startswith("train_")}
        settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "precision": "float32", "device": "cpu"}
        base: dict[str, Any] = {
            "data": str(drawn),
            "teacher": str(drawn_teacher),
            "runs": str(tmp_path / "runs"),
            "hr_size": 16,
            "lr_size": 8,
            "augment": Augment(shift=2, flip=True),
            "model": Model(name="resnet8"),
            "losses": {**CE, **KD, **CRRCD_QUEUE},
            "train": Train(**(settings | of_train)),
        }
        return Distill(**(base | options))

    return made


def untimed(tree: Any) -> Any:
    """The tree without what may differ between two equal runs: the clock and the memory."""
    if isinstance(tree, dict):
        return {k: untimed(v) for k, v in tree.items() if k not in TIMES}
    return [untimed(v) for v in tree] if isinstance(tree, list) else tree


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(one: Any, other: Any, where: str = "state") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        # NaN (a bank's Z before the first batch) counts as equal to itself
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same_bits(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_bits(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, buffers, optimizer, metrics, result and model file of two runs are equal to the last bit."""
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (one, other)]
    assert_same_bits(*map(untimed, states))
    assert untimed(rows(one)) == untimed(rows(other))
    found = [untimed(json.loads((folder / "result.json").read_text())) for folder in (one, other)]
    for result in found:
        result.pop("name")
        result["config"].pop("name")
    assert found[0] == found[1]
    files = [(folder / "model" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert files[0] == files[1]


# -- the same seed gives the same numbers


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make: Any, precision: str) -> None:
    losses = {**CE, **KD, **CRD_BANK, **CRRCD_QUEUE}
    degradation = Degradation(preset="realistic")
    common = {"losses": losses, "degradation": degradation, "train_precision": precision, "train_epochs": 2}
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        distill(make(name=name, train_seed=seed, **common), quiet=True)
    runs = make().folder.parent
    assert_same_run(runs / "one", runs / "two")
    ours, theirs = (load_file(runs / name / "model" / "model.safetensors") for name in ("one", "other"))
    assert not torch.equal(ours["backbone.conv1.weight"], theirs["backbone.conv1.weight"])
    assert untimed(rows(runs / "one")) != untimed(rows(runs / "other"))


def test_the_global_generator_before_a_run_changes_nothing(make: Any) -> None:
    torch.manual_seed(1)
    distill(make(name="one", train_epochs=1), quiet=True)
    torch.manual_seed(2)
    torch.rand(7)
    distill(make(name="two", train_epochs=1), quiet=True)
    assert_same_run(make(name="one").folder, make(name="two").folder)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_decoded_on_the_fly_give_the_same_run(make: Any, workers: int) -> None:
    distill(make(name="memory", train_epochs=2), quiet=True)
    config = make(name="files", train_epochs=2, images=Images(memory_mb=0, workers=workers))
    distill(config, quiet=True)
    states = [torch.load(make(name=n).folder / "state.pt", weights_only=True) for n in ("memory", "files")]
    for state in states:
        state.pop("config")
    assert_same_bits(*map(untimed, states))


# -- k + (N - k) epochs are N epochs

RESUMED: dict[str, dict[str, Any]] = {
    "sgd, one cycle, crrcd queue, kd decays": {
        "losses": {**CE, **CRRCD_QUEUE, "kd": {"weight": 1.0, "decay": True}},
    },
    "adamw, cosine, crd bank": {
        "losses": {**CE, **CRD_BANK},
        "train_optimizer": "adamw",
        "train_schedule": "cosine",
        "train_learning_rate": 1e-3,
    },
    "sgd, step, ema, crd queue": {
        "losses": {**CE, **CRD_QUEUE},
        "train_schedule": "step",
        "train_milestones": [0.34, 0.67],
        "train_ema": 0.9,
    },
    "bfloat16, ema, no validation, noise": {
        "train_precision": "bfloat16",
        "train_ema": 0.8,
        "train_val_fraction": 0.0,
        "degradation": Degradation(preset="realistic"),
        "lr_size": (6, 8),
    },
    "maps, losses with a stage of their own": {
        # of 3 epochs ft's stage ends in the second, ab's at its end
        "losses": {**CE, "ft": {"weight": 1.0, "pretrain": 0.5}, "ab": {"weight": 1.0, "pretrain": 0.6}},
    },
    "live teacher, no momentum, no flip": {
        "teacher_cache": False,
        "train_momentum": 0.0,
        "train_channels_last": False,
        "augment": Augment(shift=1, flip=False),
    },
}


def interrupt(monkeypatch: pytest.MonkeyPatch, epoch: int, batches: int = 2) -> None:
    """Make Ctrl-C arrive in the middle of an epoch (counted from 0), once."""
    whole = Loader.epoch

    def cut(self: Loader, number: int, **how: Any) -> Iterator[Any]:
        for i, batch in enumerate(whole(self, number, **how)):
            if number == epoch and i == batches:
                monkeypatch.setattr(Loader, "epoch", whole)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Loader, "epoch", cut)


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED.keys())
def test_a_resumed_run_equals_an_uninterrupted_one(
    make: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make(name="straight", **options)
    expected = distill(straight, quiet=True)
    broken = make(name="broken", **options)
    # twice: in the second epoch and, having resumed, in the third
    for epoch, resume in ((1, False), (2, True)):
        interrupt(monkeypatch, epoch)
        with pytest.raises(KeyboardInterrupt):
            distill(broken, resume=resume, quiet=True)
        assert len(rows(broken.folder)) == epoch
        torch.rand(3)  # the generator's state in the new process is another one
    result = distill(broken, resume=True, quiet=True)
    assert_same_run(straight.folder, broken.folder)
    assert result["top1_last"] == expected["top1_last"]
    # a finished run is returned as it is
    assert distill(broken, resume=True, quiet=True) == result


def test_the_loop_lets_a_decaying_weight_fall_over_the_whole_run(make: Any) -> None:
    of = {}
    for decay in (False, True):
        losses = {**CE, "kd": {"weight": 1.0, "decay": decay}}
        config = make(name=str(decay), losses=losses, train_learning_rate=1e-12)
        distill(config, quiet=True)
        of[decay] = [row["losses"]["kd"] for row in rows(config.folder)]
    shares = [falling / steady for falling, steady in zip(of[True], of[False], strict=True)]
    # 4 steps an epoch, the first of the run at full weight
    assert shares == pytest.approx([1 - 1.5 / 12, 1 - 5.5 / 12, 1 - 9.5 / 12], rel=0.05)


def test_ctrl_c_says_how_to_go_on_and_the_command_line_does(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(name="student")
    distill(replace(config, name="straight"), quiet=True)
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        distill(config)
    hint = next(line for line in capsys.readouterr().err.splitlines() if "go on with" in line)
    words = hint.split("crossres ", 1)[1].split()
    assert words == ["distill", "--resume", str(config.folder)]
    assert main(words) == 0
    assert_same_run(config.folder.with_name("straight"), config.folder)


def test_ctrl_c_before_the_first_epoch_ends_is_resumable_too(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(make(name="straight", train_epochs=1), quiet=True)
    config = make(name="broken", train_epochs=1)
    interrupt(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        distill(config, quiet=True)
    assert main(["distill", "--resume", str(config.folder)]) == 0
    assert_same_run(make(name="straight").folder, config.folder)


def test_a_run_stopped_while_it_was_judged_only_needs_judging(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(make(name="straight"), quiet=True)
    config = make(name="broken")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            distill(config, quiet=True)
    monkeypatch.setattr(train.Fit, "_one_epoch", stop)
    distill(config, resume=True, quiet=True)
    assert_same_run(make(name="straight").folder, config.folder)


def test_resuming_another_experiment_is_refused_and_the_run_stays_resumable(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(name="run")
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        distill(config, quiet=True)
    kept = (config.folder / "config.yaml").read_bytes()
    with pytest.raises(CrossresError, match=r"^the state belongs to another experiment .*--overwrite"):
        distill(replace(config, lr_size=7), resume=True, quiet=True)
    assert (config.folder / "config.yaml").read_bytes() == kept
    assert main(["distill", "--resume", str(config.folder)]) == 0


def test_a_finished_run_of_another_experiment_is_not_returned(make: Any) -> None:
    config = make(train_epochs=1)
    distill(config, quiet=True)
    with pytest.raises(CrossresError, match="holds another finished experiment; use --overwrite or another --name"):
        distill(replace(config, lr_size=7), resume=True, quiet=True)


def test_a_damaged_test_image_can_be_mended_before_the_run_is_judged(make: Any, drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    bad = next((data / "test").rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:50])
    config = make(data=str(data), train_epochs=1, images=Images(memory_mb=0, workers=0))
    with pytest.raises(CrossresError, match=rf"cannot read image {bad}"):
        distill(config, quiet=True)
    bad.unlink()
    assert distill(config, resume=True, quiet=True)["images"]["test"] == 39


def test_ctrl_c_with_a_teacher_in_memory_says_how_to_go_on(
    make: Any, drawn_teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(name="my run", teacher=None)
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        distill(config, teacher=load(drawn_teacher))
    assert "go on with: crossres.distill(config, teacher=..., resume=True)" in capsys.readouterr().err
    distill(config, teacher=load(drawn_teacher), resume=True, quiet=True)
    assert len(rows(config.folder)) == 3


def test_a_folder_with_a_space_is_quoted_in_the_hint(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        distill(make(name="my run"))
    assert f"--resume '{make(name='my run').folder}'" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["runs/teacher", torch.nn.Linear(3, 2)])
def test_a_teacher_that_is_no_encoder_is_refused(make: Any, wrong: Any) -> None:
    with pytest.raises(CrossresError, match=r"^teacher is (str|Linear), expected an Encoder"):
        distill(make(teacher=None), teacher=wrong, quiet=True)


def test_a_config_that_is_none_is_refused() -> None:
    with pytest.raises(CrossresError, match=r"^config is dict, expected crossres.Teach or crossres.Distill"):
        teach({"data": "crops"})  # type: ignore[arg-type]


def test_hr_size_comes_from_the_teacher_then_from_the_images(make: Any, drawn_teacher: Path, tmp_path: Path) -> None:
    teacher = load(drawn_teacher)
    teacher.info, teacher.input_size = {}, 12
    assert (
        distill(make(name="a", teacher=None, hr_size=None, train_epochs=1), teacher=teacher, quiet=True)["hr_size"]
        == 12
    )
    for i in range(8):
        folder = tmp_path / "wide" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 24), (9 * i, 0, 0)).save(folder / f"{i}.png")
    config = make(name="b", data=str(tmp_path / "wide"), teacher=None, hr_size=None, losses=CE, train_epochs=1)
    assert distill(config, quiet=True)["hr_size"] == 24


def test_what_cannot_be_resumed_is_said_in_a_line(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(name="run")
    with pytest.raises(CrossresError, match=r"nothing to resume there; start the run without --resume$"):
        distill(config, resume=True, quiet=True)
    assert not config.folder.exists()
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        distill(config, quiet=True)
    with pytest.raises(CrossresError, match="holds a run already; use --resume, --overwrite or another --name"):
        distill(config, quiet=True)
    state = config.folder / "state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(CrossresError, match=r"state\.pt is truncated or no state of a run .*; use --overwrite$"):
        distill(config, resume=True, quiet=True)
    distill(config, overwrite=True, quiet=True)
    assert len(rows(config.folder)) == 3


def test_overwriting_leaves_nothing_of_the_old_run(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(make(name="fresh"), quiet=True)
    config = make(name="run")
    distill(replace(config, lr_size=4), quiet=True)
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        distill(config, overwrite=True, quiet=True)
    # an old model would pass for the new run's
    assert sorted(path.name for path in config.folder.iterdir()) == ["config.yaml", "metrics.jsonl", "state.pt"]
    distill(config, resume=True, quiet=True)
    assert_same_run(make(name="fresh").folder, config.folder)


# -- what is judged, on which images


def test_the_best_on_validation_is_saved_and_evaluates_to_the_same_number(
    make: Any, drawn: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # every epoch's weights are kept, to judge them again from outside
    kept: list[dict[str, torch.Tensor]] = []
    judge = train.Fit._validate

    def judged(self: train.Fit) -> dict[str, float]:
        if self.epoch == 4:  # the last epoch spoils it: the best is another
            torch.nn.init.zeros_(self.judged.classifier.weight)
            torch.nn.init.zeros_(self.judged.classifier.bias)
        kept.append({k: v.clone() for k, v in self.judged.state_dict().items()})
        return judge(self)

    monkeypatch.setattr(train.Fit, "_validate", judged)
    config = make(train_epochs=4, train_seed=5, degradation=Degradation(preset="realistic"), lr_size=(6, 8))
    result = distill(config, quiet=True)

    accuracy = [row["val_top1"] for row in rows(config.folder)]
    best = max(range(4), key=lambda epoch: (accuracy[epoch], epoch))
    assert best < 3
    assert result["top1_last"] == 0.0
    assert result["best_epoch"] == best + 1
    assert result["val_top1_best"] == accuracy[best]
    assert result["val_top1_last"] == accuracy[-1]
    saved = load_file(config.folder / "model" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, kept[best][name]), name

    assert main(["evaluate", str(config.folder), str(drawn), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["top1"] == result["top1_best_val"]
    assert document["top5"] == result["top5_best_val"]
    assert document["images"] == 40
    assert result["top5_last"] == 100.0  # of four classes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_numbers_of_result_json_come_again_from_evaluate(
    make: Any, drawn: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(train_epochs=2, train_precision=precision, train_ema=0.5)
    result = distill(config, quiet=True)
    assert main(["evaluate", str(config.folder), str(drawn), "--json", "--precision", precision]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == result["top1_best_val"]


def test_teach_evaluates_to_its_own_number(
    drawn: Path, drawn_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((drawn_teacher / "result.json").read_text())
    assert result["task"] == "teach"
    assert result["teacher"] is None
    assert result["degradation"] is None
    assert result["hr_size"] == result["lr_size"] == 16
    assert main(["evaluate", str(drawn_teacher), str(drawn), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["top1"] == result["top1_best_val"]
    # the curve says how the teacher does on enlarged LR images
    assert [point["size"] for point in document["curve"]] == [8, 12, 16]


def test_validation_comes_from_train_and_test_is_read_once_at_the_end(
    make: Any, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    real_epoch, real_predict = Loader.epoch, task_classification.predict
    finished = False

    def epoch(self: Loader, number: int, **how: Any) -> Iterator[Any]:
        for batch in real_epoch(self, number, **how):
            seen["train"] += [self.images.where(i) for i in batch.index.tolist()]
            yield batch

    def predict(encoder: Any, loader: Loader, *how: Any) -> Any:
        seen["test" if finished else "val"] += [loader.images.where(i) for i in range(len(loader.images))]
        return real_predict(encoder, loader, *how)

    real_finish = experiment.finish

    def finish(*arguments: Any) -> Any:
        nonlocal finished
        finished = True
        return real_finish(*arguments)

    monkeypatch.setattr(Loader, "epoch", epoch)
    monkeypatch.setattr(task_classification, "predict", predict)
    monkeypatch.setattr(experiment, "finish", finish)
    result = distill(make(train_val_fraction=0.25), quiet=True)

    assert result["images"] == {"train": 72, "val": 24, "test": 40}
    of = {name: set(paths) for name, paths in seen.items()}
    assert not of["train"] & of["val"]
    assert not (of["train"] | of["val"]) & of["test"]
    assert all("/train/" in path for path in of["train"] | of["val"])
    assert all("/test/" in path for path in of["test"])
    assert len(of["test"]) == 40
    assert len(of["val"]) == 24
    # a quarter of each class
    for name in read(str(drawn), split="test").classes:
        assert sum(f"/{name}/" in path for path in of["val"]) == 6


def test_the_validation_split_is_the_same_for_every_seed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    real = preparation.Experiment

    def keep(*arguments: Any) -> Any:
        built = real(*arguments)
        parts.append(tuple(part.images.fingerprint for part in (built.train, built.val, built.test)))
        return built

    monkeypatch.setattr(preparation, "Experiment", keep)
    for seed in (0, 7):
        distill(make(name=f"s{seed}", train_epochs=1, train_seed=seed), quiet=True)
    assert parts[0] == parts[1]
    # so the teacher's outputs are computed once for all seeds: a file for each view
    assert len(list((make().folder.parent / "cache").glob("*.safetensors"))) == 2


def test_without_a_validation_split_the_last_epoch_is_kept(make: Any) -> None:
    result = distill(make(train_val_fraction=0.0), quiet=True)
    assert result["images"] == {"train": 96, "val": 0, "test": 40}
    assert result["best_epoch"] == result["epochs"] == 3
    assert result["top1_best_val"] == result["top1_last"]
    assert result["val_top1_best"] is None
    folder = make().folder
    assert "val_top1" not in rows(folder)[0]
    state = torch.load(folder / "state.pt", weights_only=True)
    saved = load_file(folder / "model" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, state["distiller"][f"student.{name}"]), name


def test_the_average_of_the_weights_is_what_counts(make: Any) -> None:
    distill(make(train_ema=0.9, train_val_fraction=0.0), quiet=True)
    state = torch.load(make().folder / "state.pt", weights_only=True)
    saved = load_file(make().folder / "model" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, state["average"][f"module.{name}"]), name
    assert not torch.equal(saved["backbone.conv1.weight"], state["distiller"]["student.backbone.conv1.weight"])


def test_all_seeds_are_judged_on_the_same_degraded_images(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[torch.Tensor] = []
    real = task_classification.predict

    def keep(encoder: Any, loader: Loader, *how: Any) -> Any:
        judged.append(torch.cat([batch.lr for batch in loader.ordered(batch_size=250)]))
        return real(encoder, loader, *how)

    monkeypatch.setattr(task_classification, "predict", keep)
    for seed in (0, 1):
        config = make(
            name=f"s{seed}",
            train_epochs=1,
            train_seed=seed,
            train_val_fraction=0.0,
            degradation=Degradation(preset="realistic"),
        )
        distill(config, quiet=True)
    assert torch.equal(judged[0], judged[-1])


# -- what is left behind


def test_the_model_holds_neither_teacher_nor_relation_modules(make: Any, drawn: Path) -> None:
    config = make(losses={**CE, **KD, **CRD_BANK, **CRRCD_QUEUE}, train_epochs=1)
    result = distill(config, quiet=True)
    classes = read(str(drawn), split="test").classes
    fresh = build_encoder("resnet8", classes=classes, input_size=8)
    assert load_file(config.folder / "model" / "model.safetensors").keys() == fresh.state_dict().keys()
    assert result["student"] == {"name": "resnet8", "parameters": sum(p.numel() for p in fresh.parameters())}
    assert load(config.folder).state_dict().keys() == fresh.state_dict().keys()
    assert sorted(path.name for path in config.folder.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "model",
        "result.json",
        "state.pt",
    ]


def test_result_json_keeps_its_contract(make: Any, drawn_teacher: Path, tmp_path: Path) -> None:
    config = make(train_epochs=2)
    returned = distill(config, quiet=True)
    text = (config.folder / "result.json").read_text()
    result = json.loads(text)
    assert result == returned
    assert str(tmp_path) not in text  # nothing of this machine's paths
    promised = (
        "task method dataset teacher student hr_size lr_size degradation seed epochs top1_last top1_best_val "
        "top5_last seconds images_per_second peak_memory_mb versions machine commit config_sha256"
    )
    assert set(promised.split()) <= result.keys()
    assert result["task"] == "distill"
    assert result["method"] == "ce+kd+crrcd"
    assert result["dataset"] == "shapes"
    taught = json.loads((drawn_teacher / "result.json").read_text())
    digest = weights_sha256(load(drawn_teacher))
    assert result["teacher"] == {"name": "resnet8", "top1_hr": taught["top1_best_val"], "sha256": digest}
    assert result["degradation"]["kernel"] == "bicubic"
    assert result["images_per_second"] > 0
    assert result["machine"]["device"] == "cpu"
    assert result["versions"]["torch"]
    # a line an epoch, of the terms by name
    found = rows(config.folder)
    assert [row["epoch"] for row in found] == [1, 2]
    assert set(found[0]["losses"]) == {"ce", "kd", "crrcd"}
    assert result["val_top1_last"] == found[-1]["val_top1"]


def test_tensorboard_gets_the_same_numbers(make: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make(train_epochs=2, train_tensorboard=True)
    distill(config, quiet=True)
    events = EventAccumulator(str(config.folder / "tensorboard"))
    events.Reload()
    for name in ("ce", "kd", "crrcd", "val_top1", "learning_rate"):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        expected = [(r["epoch"], {**r, **r["losses"]}[name]) for r in rows(config.folder)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


# -- the teacher's outputs


def test_deleting_or_damaging_the_cache_changes_nothing(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    distill(make(name="filled", train_epochs=2), quiet=True)
    cache = make().folder.parent / "cache"
    files = sorted(cache.glob("*.safetensors"))
    contents = [load_file(file) for file in files]
    encoded = [file.read_bytes() for file in files]
    distill(make(name="read", train_epochs=2), quiet=True)
    assert_same_run(make(name="filled").folder, make(name="read").folder)

    for file in files:
        file.unlink()
    shutil.rmtree(cache)
    distill(make(name="deleted", train_epochs=2), quiet=True)
    assert_same_run(make(name="filled").folder, make(name="deleted").folder)
    assert_same_bits([load_file(file) for file in sorted(cache.glob("*.safetensors"))], contents)

    files[0].write_bytes(encoded[0][:-10])
    files[1].write_bytes(b"")
    capsys.readouterr()
    distill(make(name="damaged", train_epochs=2), quiet=True)
    assert capsys.readouterr().err.count("cannot be read and is computed anew") == 2
    assert_same_run(make(name="filled").folder, make(name="damaged").folder)
    assert_same_bits([load_file(file) for file in sorted(cache.glob("*.safetensors"))], contents)


def test_a_cache_filled_by_another_run_changes_nothing(make: Any, tmp_path: Path) -> None:
    # whoever filled it, with whatever batch size, it holds the same bits
    distill(make(name="filler", train_epochs=1, train_batch_size=37), quiet=True)
    distill(make(name="reader", train_epochs=2), quiet=True)
    distill(make(name="alone", train_epochs=2, cache_dir=str(tmp_path / "fresh")), quiet=True)
    states = [torch.load(make(name=n).folder / "state.pt", weights_only=True) for n in ("reader", "alone")]
    assert_same_bits(*map(untimed, states))


@pytest.mark.parametrize("views", ["own", "mirrored"])
def test_the_live_teacher_gives_the_cached_run_where_nothing_is_shifted(make: Any, views: Any) -> None:
    for name, cached in (("cached", True), ("live", False)):
        shift = Augment(shift=0, flip=True)
        config = make(name=name, train_epochs=2, teacher_cache=cached, teacher_views=views, augment=shift)
        distill(config, quiet=True)
    cached_rows, live_rows = rows(make(name="cached").folder), rows(make(name="live").folder)
    for cached_row, live_row in zip(cached_rows, live_rows, strict=True):
        assert live_row["losses"] == pytest.approx(cached_row["losses"], rel=1e-3)


def test_the_live_teacher_reads_the_scene_that_the_student_reads(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Tensor] = []
    real = Encoder.forward

    def forward(self: Encoder, images: torch.Tensor) -> Any:
        if torch.is_grad_enabled() or images.shape[-1] == 16:  # a training step, or the teacher
            asked.append(images)
        return real(self, images)

    monkeypatch.setattr(Encoder, "forward", forward)
    distill(make(train_epochs=1, teacher_cache=False, augment=Augment(shift=3, flip=True)), quiet=True)
    assert not (make().folder.parent / "cache").exists()
    assert len(asked) == 2 * (84 // 16)  # 96 images less the validation split
    for of_teacher, of_student in zip(asked[::2], asked[1::2], strict=True):
        assert torch.equal(degrade(of_teacher, 8), of_student)


def test_a_teacher_that_nobody_asks_is_not_run(make: Any) -> None:
    result = distill(make(losses=CE, train_epochs=1), quiet=True)
    assert result["method"] == "ce"
    assert not (make().folder.parent / "cache").exists()


def test_a_student_learns_without_a_teacher(make: Any) -> None:
    result = distill(make(losses=CE, teacher=None, train_epochs=6), quiet=True)
    assert result["teacher"] is None
    found = rows(make().folder)
    assert found[-1]["losses"]["ce"] < 0.8 * found[0]["losses"]["ce"]


def test_the_losses_own_parameters_learn(make: Any) -> None:
    distill(make(train_epochs=1), quiet=True)
    one = torch.load(make().folder / "state.pt", weights_only=True)["distiller"]
    distill(make(name="two", train_epochs=2), quiet=True)
    two = torch.load(make(name="two").folder / "state.pt", weights_only=True)["distiller"]
    names = [name for name in one if name.startswith("losses.") and name.endswith("weight")]
    assert len(names) == 5
    for name in names:
        assert not torch.equal(one[name], two[name]), name


# -- what goes wrong while training


@pytest.mark.parametrize("options", [{"train_learning_rate": 1e6}, {"train_learning_rate": 1e6, "losses": CE}])
def test_a_diverging_run_stops_in_a_line_that_names_the_loss_and_keeps_the_last_state(
    make: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train.Fit._one_epoch

    def diverge(self: train.Fit, epochs: int) -> Any:
        if self.epoch == 1:
            for group in self.optimizer.param_groups:
                group["lr"] = 1e30
        return real(self, epochs)

    monkeypatch.setattr(train.Fit, "_one_epoch", diverge)
    config = make(**options)
    config.train.learning_rate = 0.05
    with pytest.raises(CrossresError, match=r"^losses\.(ce|kd|crrcd)\b.*epoch 2; the state of epoch 1 is kept: "):
        distill(config, quiet=True)
    assert [row["epoch"] for row in rows(config.folder)] == [1]
    state = torch.load(config.folder / "state.pt", weights_only=True)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["best"].values())


def test_wrong_calls_are_refused(make: Any, drawn: Path) -> None:
    with pytest.raises(CrossresError, match=r"call crossres\.distill$"):
        teach(make())
    with pytest.raises(CrossresError, match=r"call crossres\.teach$"):
        distill(Teach(data=str(drawn)))  # type: ignore[arg-type]
    with pytest.raises(CrossresError, match="lr_size 17 is larger than hr_size 16"):
        distill(make(lr_size=17), quiet=True)


def test_a_teacher_from_a_plain_checkpoint(make: Any, drawn_teacher: Path, tmp_path: Path) -> None:
    saved = load(drawn_teacher)
    torch.save({"state_dict": saved.state_dict()}, tmp_path / "teacher.pth")
    config = make(train_epochs=1, teacher=str(tmp_path / "teacher.pth"), teacher_name="resnet8")
    result = distill(config, quiet=True)
    assert result["teacher"]["name"] == "resnet8"
    assert result["teacher"]["top1_hr"] is None  # a checkpoint does not say
    again = replace(config, teacher_name="resnet14", name="other")
    with pytest.raises(CrossresError, match="does not fit the architecture 'resnet14'"):
        distill(again, quiet=True)


def test_weights_of_a_saved_model_keep_their_classes_and_normalisation(
    make: Any, drawn: Path, drawn_teacher: Path, tmp_path: Path
) -> None:
    saved = load(drawn_teacher)
    order = [2, 0, 3, 1]
    turned = build_encoder(
        "resnet8", classes=[saved.classes[i] for i in order], input_size=16, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]
    )
    turned.load_state_dict(saved.state_dict())
    with torch.no_grad():
        turned.classifier.weight.copy_(saved.classifier.weight[order])  # type: ignore[union-attr]
        turned.classifier.bias.copy_(saved.classifier.bias[order])  # type: ignore[union-attr]
    save_pretrained(turned, tmp_path / "turned")
    config = make(losses=CE, teacher=None, model=Model(name="resnet8", weights=str(tmp_path / "turned")))
    images = read(str(drawn), split="train")
    student = preparation._build_student(config, images, images.classes, 16, 8)
    assert student.classes == saved.classes
    assert torch.equal(student.classifier.weight, saved.classifier.weight)  # type: ignore[union-attr]
    assert student.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_teacher_in_memory_teaches_as_the_same_one_on_disk(make: Any, drawn_teacher: Path) -> None:
    teacher = load(drawn_teacher)
    teacher.classes = teacher.classes[::-1]  # as a wrapped module may have them: the copy is brought to the data's
    with torch.no_grad():
        teacher.classifier.weight.copy_(teacher.classifier.weight.flip(0))  # type: ignore[union-attr]
        teacher.classifier.bias.copy_(teacher.classifier.bias.flip(0))  # type: ignore[union-attr]
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    expected = distill(make(name="disk"), quiet=True)
    config = make(name="memory", teacher=None)
    assert distill(config, teacher=teacher, quiet=True)["teacher"] == expected["teacher"]
    states = [torch.load(make(name=n).folder / "state.pt", weights_only=True) for n in ("disk", "memory")]
    for state in states:
        state.pop("config")
    assert_same_bits(*map(untimed, states))
    # the user's own network is as it was
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


def test_a_teacher_in_memory_is_refused_where_another_is_named(make: Any, drawn_teacher: Path) -> None:
    with pytest.raises(CrossresError, match="goes with a Distill whose config names no teacher"):
        distill(make(), teacher=load(drawn_teacher), quiet=True)
    with pytest.raises(CrossresError, match="has its teacher from Python: go on there"):
        distill(make(teacher=experiment.IN_MEMORY), quiet=True)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"model": Model(name=name)} for name in ("resnet8x5", "timm:nowhere", "nowhere:at_all")),
        *({"teacher": "nowhere"}, {"teacher_name": "nowhere"}, {"model": Model(weights="nowhere.pt")}),
        {"losses": {"kd": {"weight": 1.0, "temperature": 0.0}}},
    ],
)
def test_names_are_checked_before_images_are_read(
    make: Any, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_base, "read", lambda *_, **__: pytest.fail("the images were read first"))
    with pytest.raises(CrossresError, match=r"resnet8x4|nowhere|temperature"):
        distill(make(**wrong), quiet=True)


def test_resume_refuses_other_images_and_another_teacher(
    make: Any, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    config = make(data=str(data), train_epochs=2)
    one_epoch = train.Fit._one_epoch

    def interrupted(self: train.Fit, epochs: int) -> dict[str, Any]:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return one_epoch(self, epochs)

    monkeypatch.setattr(train.Fit, "_one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(config, quiet=True)
    monkeypatch.undo()
    some = next((data / "train").glob("*/*.png"))
    moved = some.with_name("zz-new.png")
    shutil.copy(some, moved)
    with pytest.raises(CrossresError, match="the train images changed since the run began"):
        distill(config, resume=True, quiet=True)
    moved.unlink()
    other = load(config.teacher or "")
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    save_pretrained(other, tmp_path / "elsewhere" / Path(config.teacher or "").name)
    with pytest.raises(CrossresError, match="the teacher changed since the run began"):
        distill(replace(config, teacher=str(tmp_path / "elsewhere" / "teacher")), resume=True, quiet=True)
    assert distill(config, resume=True, quiet=True)["epochs"] == 2


def test_without_a_loss_on_the_logits_the_last_epoch_is_kept_and_it_is_said(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    result = distill(make(losses=CRRCD_QUEUE))
    assert "no loss reads the logits, so the classifier stays untrained" in capsys.readouterr().err
    assert result["best_epoch"] == 3
    assert result["val_top1_best"] is None


def test_the_weights_a_run_starts_from_are_recorded(make: Any, drawn: Path, tmp_path: Path) -> None:
    starts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = build_encoder("resnet8", classes=read(drawn, split="train").classes, input_size=8)
        starts.append(tmp_path / str(seed) / "model")
        save_pretrained(encoder, starts[-1])
    configs = [
        make(name=f"from-{i}", losses=CE, train_epochs=1, model=Model(name="resnet8", weights=str(start)))
        for i, start in enumerate(starts)
    ]
    first, second = (distill(config, quiet=True) for config in configs)
    assert first["config_sha256"] == second["config_sha256"]
    assert first["start_sha256"] != second["start_sha256"]
    with pytest.raises(CrossresError, match="are not one experiment"):
        method_table([first, second | {"seed": 1}])
    assert "±" in method_table([first, first | {"seed": 1, "config": second["config"]}])
    (configs[0].folder / "result.json").unlink()
    shutil.copyfile(starts[1] / "model.safetensors", starts[0] / "model.safetensors")
    shutil.copyfile(starts[1] / "config.json", starts[0] / "config.json")
    with pytest.raises(CrossresError, match=r"the model.weights changed since the run began"):
        distill(configs[0], resume=True, quiet=True)


def test_the_data_sets_name_where_the_folder_is_given_as_a_dot(
    make: Any, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(drawn)
    result = distill(make(data=".", losses=CE, train_epochs=1, teacher=None), quiet=True)
    assert result["dataset"] == result["config"]["data"] == "shapes"


def test_some_classes_of_a_teacher_that_knows_more(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["disc", "bar"]
    config = make(images=Images(classes=names), train_epochs=1)
    result = distill(config)
    assert result["images"] == {"train": 44, "val": 4, "test": 20}
    assert (
        "the teacher knows 2 classes more than images.classes: their logits are left out" in capsys.readouterr().err
    )
    assert load(config.folder / "model").classes == tuple(sorted(names))


def test_losses_on_maps_compare_what_both_networks_see(make: Any) -> None:
    losses = {**CE, **{name: {"weight": 1.0} for name in ("fitnet", "at", "sp", "nst", "vid", "fsp", "ft")}}
    config = make(losses=losses)
    result = distill(config)
    assert result["method"] == "ce+fitnet+at+sp+nst+vid+ft+fsp"
    rows = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    # fsp and ft train alone for the first eighth of the run, ft's paraphraser is then fixed
    assert rows[0]["losses"]["fsp"] > 0
    assert [row["losses"]["fsp"] for row in rows[1:]] == [0, 0]
    assert all(rows[2]["losses"][name] < rows[1]["losses"][name] for name in ("ce", "fitnet", "ft"))
    again = distill(replace(config, name="again"), quiet=True)
    assert again["top1_last"] == result["top1_last"]
    saved = load_file(config.folder / "model" / "model.safetensors")
    assert all(key.startswith(("backbone.", "classifier.")) for key in saved)
