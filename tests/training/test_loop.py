"""The training loop: schedules, the best epoch, the average of the weights, and what goes wrong in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crossres import CrossresError, Degradation, Distill, Model, Teach, Train, distill
from crossres.core.progress import Progress
from crossres.training.loop import optimizer_of, scheduler_of
from tests.training.test_processes import NETWORK

CE, KD = {"ce": {"weight": 1.0}}, {"kd": {"weight": 1.0}}
STEPS = 5  # of an epoch


class Recorder(Progress):
    """Keeps the student's weights after each epoch."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.student: torch.nn.Module | None = None
        self.weights: list[dict[str, torch.Tensor]] = []

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        super().epoch(row, epochs)
        assert self.student is not None
        self.weights.append({name: tensor.clone() for name, tensor in self.student.state_dict().items()})


# batches that accumulate to a step


def test_accumulated_batches_are_one_large_batch(make: Any, runs: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "plain_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    how = {
        "losses": CE,
        "model": Model(name="plain_net:plain"),
        "train_val_fraction": 0.0,
        "train_learning_rate": 0.05,
    }
    whole = make(name="whole", train_batch_size=20, **how)
    parts = make(name="parts", train_batch_size=10, train_accumulate=2, **how)  # a ninth batch is left out
    for config in (whole, parts):
        distill(config, quiet=True)
    one, two = (runs.state(config.folder) for config in (whole, parts))
    assert one["scheduler"] == two["scheduler"]
    assert one["scheduler"]["last_epoch"] == 12
    for name, value in one["distiller"].items():
        torch.testing.assert_close(two["distiller"][name], value, rtol=0, atol=1e-5, msg=name)
    for ours, theirs in zip(one["rows"], two["rows"], strict=True):
        assert theirs["losses"] == pytest.approx(ours["losses"], abs=1e-5)
        assert theirs["learning_rate"] == ours["learning_rate"]


def test_a_step_of_more_batches_than_an_epoch_has_is_refused(make: Any) -> None:
    with pytest.raises(CrossresError, match=r"^train.accumulate 6: an epoch has 5 batches of 16 images; choose a sm"):
        distill(make(train_accumulate=6))


# schedules


def rates(**options: Any) -> list[float]:
    """Return the learning rate of each step of 4 epochs of 5 steps."""
    train = Train(epochs=4, learning_rate=0.1, **options)
    optimizer = optimizer_of(torch.nn.Linear(3, 2), train)
    scheduler = scheduler_of(optimizer, train, 4 * STEPS, STEPS)
    values = []
    for _ in range(4 * STEPS):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_the_learning_rate_s_schedules() -> None:
    cycle, cosine = rates(schedule="one_cycle"), rates(schedule="cosine")
    assert 0.25 < cycle.index(max(cycle)) / (4 * STEPS) <= 0.3
    assert max(cycle) == pytest.approx(0.1, rel=0.02)
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert cycle[-1] < 2e-3
    assert cosine == pytest.approx(sorted(cosine, reverse=True))
    assert (cosine[0], cosine[2 * STEPS]) == pytest.approx((0.1, 0.05))
    step = rates(schedule="step", milestones=[0.25, 0.75])
    assert step == pytest.approx([0.1] * STEPS + [0.01] * 2 * STEPS + [0.001] * STEPS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_biases_and_normalisation_do_not_decay(optimizer: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    decays, others = optimizer_of(module, Train(optimizer=optimizer, weight_decay=0.1)).param_groups
    assert [tuple(p.shape) for p in decays["params"]] == [(2, 3)]
    assert (len(others["params"]), others["weight_decay"], decays["weight_decay"]) == (3, 0.0, 0.1)


def test_a_decaying_weight_falls_over_the_whole_run(make: Any, runs: Any) -> None:
    of = {}
    for decay in (False, True):
        losses = {**CE, "kd": {"weight": 1.0, "decay": decay}}
        config = make(name=str(decay), losses=losses, train_learning_rate=1e-12)
        distill(config, quiet=True)
        of[decay] = [row["losses"]["kd"] for row in runs.rows(config.folder)]
    shares = [falling / steady for falling, steady in zip(of[True], of[False], strict=True)]
    # 5 steps an epoch, the first of the run at full weight
    assert shares == pytest.approx([1 - 2 / 15, 1 - 7 / 15, 1 - 12 / 15], rel=0.05)


# which weights count


def test_the_best_on_validation_is_saved(make: Any, runs: Any, prepared: Any, pause: Any, tmp_path: Path) -> None:
    losses = {**CE, **KD, **pause.losses}
    options = {"losses": losses, "train_epochs": 4, "train_seed": 5, "degradation": Degradation(preset="realistic")}

    def spoil(student: torch.Tensor) -> torch.Tensor:
        return 1e12 * student[:, 0].sum()

    # the last step spoils the network: the best epoch is another one
    pause.after(4 * STEPS - 1, spoil)
    config = make(**options, lr_size=(6, 8))
    result = distill(config, quiet=True)
    accuracy = [row["val_top1"] for row in runs.rows(config.folder)]
    best = max(range(4), key=lambda epoch: (accuracy[epoch], epoch))
    assert best < 3
    assert accuracy[3] < accuracy[best]
    assert result["best_epoch"] == best + 1
    assert result["val_top1_best"] == accuracy[best]
    assert result["val_top1_last"] == accuracy[-1]
    assert result["val_top1_by_epoch"] == accuracy
    # the same run, epoch by epoch
    pause.after(4 * STEPS - 1, spoil)
    recorder = Recorder()
    run, loop = prepared(make(**options, lr_size=(6, 8), name="again"), recorder)
    recorder.student = run.student
    loop.train(tmp_path / "state.pt")
    saved = load_file(config.folder / "model" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, recorder.weights[best][name]), name
    assert not torch.equal(saved["classifier.weight"], recorder.weights[3]["classifier.weight"])


@pytest.mark.parametrize(("cases", "chosen"), [(16, 2), (64, 1), (10_000, 1)])
def test_an_epoch_is_saved_for_the_last_only_where_chance_does_not_explain_it(
    make: Any, prepared: Any, monkeypatch: pytest.MonkeyPatch, cases: int, chosen: int
) -> None:
    run, loop = prepared(make(train_epochs=2))
    monkeypatch.setattr(run.task, "cases", lambda _: cases)
    # two standard errors of 80 % are 20 points of 16 images and 10 of 64
    loop.rows, loop.epoch = [{"val_top1": 95.0}, {"val_top1": 80.0}], 2
    loop.best, loop.best_epoch, loop.best_accuracy = {}, 1, 95.0
    loop.choose()
    assert loop.best_epoch == chosen
    assert bool(loop.best) == (chosen == 2)


def test_without_a_validation_split_the_last_epoch_is_kept(make: Any, runs: Any) -> None:
    config = make(train_val_fraction=0.0, train_epochs=2)
    result = distill(config, quiet=True)
    assert result["images"] == {"train": 96, "val": 0, "test": 40}
    assert result["best_epoch"] == result["epochs"] == 2
    assert result["top1_best_val"] == result["top1_last"]
    assert result["val_top1_best"] is None
    assert "val_top1" not in runs.rows(config.folder)[0]
    state = runs.state(config.folder)
    saved = load_file(config.folder / "model" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, state["distiller"][f"student.{name}"]), name


def test_the_average_of_the_weights_is_what_counts(make: Any, runs: Any) -> None:
    config = make(train_ema=0.9, train_val_fraction=0.0, train_epochs=2)
    distill(config, quiet=True)
    state = runs.state(config.folder)
    saved = load_file(config.folder / "model" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, state["average"][f"module.{name}"]), name
    assert not torch.equal(saved["backbone.conv1.weight"], state["distiller"]["student.backbone.conv1.weight"])


def test_without_a_loss_on_the_logits_the_last_epoch_is_kept_and_it_is_said(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    result = distill(make(losses={"crrcd_paper": {"weight": 1.0, "width": 16}}, train_epochs=2))
    assert "no loss reads the logits, so the classifier stays untrained" in capsys.readouterr().err
    assert result["best_epoch"] == 2
    assert result["val_top1_best"] is None


# the losses


def test_the_losses_own_parameters_learn(make: Any, runs: Any, prepared: Any, finished: Distill) -> None:
    run, _ = prepared(make())
    before, after = run.distiller.state_dict(), runs.state(finished.folder)["distiller"]
    names = [name for name in after if name.startswith("losses.") and name.endswith("weight")]
    assert len(names) == 5
    for name in names:
        assert not torch.equal(before[name], after[name]), name


def test_losses_on_maps_compare_what_both_networks_see(make: Any, runs: Any) -> None:
    losses = {**CE, **{name: {"weight": 1.0} for name in ("fitnet", "at", "sp", "nst", "vid", "fsp", "ft")}}
    config = make(losses=losses)
    result = distill(config, quiet=True)
    assert result["method"] == "ce+fitnet+at+sp+nst+vid+ft+fsp"
    rows = runs.rows(config.folder)
    # fsp and ft train alone for the first eighth of the run, ft's paraphraser is then fixed
    assert rows[0]["losses"]["fsp"] > 0
    assert [row["losses"]["fsp"] for row in rows[1:]] == [0, 0]
    assert all(rows[2]["losses"][name] < rows[1]["losses"][name] for name in ("ce", "fitnet", "ft"))
    saved = load_file(config.folder / "model" / "model.safetensors")
    assert all(key.startswith(("backbone.", "classifier.")) for key in saved)


# the metrics


def test_tensorboard_gets_the_same_numbers(make: Any, runs: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make(train_epochs=2, train_tensorboard=True)
    distill(config, quiet=True)
    events = EventAccumulator(str(config.folder / "tensorboard"))
    events.Reload()
    for name in ("ce", "kd", "crrcd_paper", "val_top1", "learning_rate"):
        points = [(e.step, e.value) for e in events.Scalars(name)]
        expected = [(r["epoch"], {**r, **r["losses"]}[name]) for r in runs.rows(config.folder)]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [value for _, value in points] == pytest.approx([value for _, value in expected], rel=1e-6)


# what goes wrong in a step


def nan(student: torch.Tensor) -> torch.Tensor:
    return torch.nan * student.sum()


def infinite_gradient(student: torch.Tensor) -> torch.Tensor:
    return (0 * student).sqrt().sum()


def refuse(student: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    raise ValueError("the embedding is of no use")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (nan, r"^losses\.pause became nan in epoch 2; "),
        (
            infinite_gradient,
            r"^losses\.\w+ was [\d.]+, then the student's output became NaN or infinite in epoch 2; ",
        ),
        (refuse, r"^losses\.pause failed \(the embedding is of no use\) in epoch 2; "),
    ],
)
@pytest.mark.parametrize("step", [1, STEPS - 1], ids=["amid", "last"])
def test_a_run_that_diverges_stops_in_a_line_that_names_the_loss_and_keeps_the_last_state(
    make: Any, runs: Any, pause: Any, fault: Any, line: str, step: int
) -> None:
    config = make(losses={**CE, **pause.losses}, teacher=None)
    pause.after(STEPS + step, fault)
    with pytest.raises(CrossresError, match=line.replace("student's output", "(student's output|weights)")) as caught:
        distill(config, quiet=True)
    assert "the state of epoch 1 is kept: lower train.learning_rate or losses." in str(caught.value)
    assert str(caught.value).endswith(".weight and start anew with --overwrite")
    assert [row["epoch"] for row in runs.rows(config.folder)] == [1]
    state = runs.state(config.folder)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["best"].values())
    assert not (config.folder / "result.json").exists()


def test_a_teacher_has_no_low_resolution(prepared: Any, drawn: Path) -> None:
    run, loop = prepared(Teach(data=str(drawn), device="cpu", train=Train(epochs=1)))
    assert (run.teacher, run.cache) == (None, None)
    assert loop.judged is run.student
    batch = next(iter(run.train.epoch(0)))
    assert batch.lr.shape[-2:] == (16, 16)
