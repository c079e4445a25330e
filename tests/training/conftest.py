"""What the tests of trainings share: small configs, runs compared bit by bit, and a loss that breaks off."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from crossres import Augment, Distill, Encoder, Model, Train, distill, read
from crossres.config.experiment import Experiment
from crossres.config.reading import from_config
from crossres.core.devices import resolve_device
from crossres.core.progress import Progress
from crossres.losses import LOSSES
from crossres.losses.base import Loss
from crossres.training.loop import TrainingLoop
from crossres.training.prepare import prepare
from crossres.training.processes import fabric_of
from crossres.training.run import TASKS
from crossres.training.task import PreparedRun

#: of an epoch: 88 images (96 without the validation's) in batches of 16
STEPS = 5
#: what may differ between two equal runs: the clock, the memory, and a checkout that is worked on meanwhile
TIMES = {"seconds", "total_seconds", "seconds_with_validation", "images_per_second", "peak_memory_mb", "commit"}


@pytest.fixture(autouse=True)
def _one_thread_and_no_fabric_chatter() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)


def distill_config(data: Path, teacher: Path, runs: Path, /, **options: Any) -> Distill:
    """A small Distill of ce, kd and crrcd; train_... goes to Train, the rest to Distill."""
    of_train = {k.removeprefix("train_"): options.pop(k) for k in list(options) if k.startswith("train_")}
    base: dict[str, Any] = {
        "data": str(data),
        "teacher": str(teacher),
        "runs": str(runs),
        "hr_size": 16,
        "lr_size": 8,
        "augment": Augment(shift=2, flip=True),
        "model": Model(name="resnet8"),
        "losses": {
            "ce": {"weight": 1.0},
            "kd": {"weight": 1.0},
            "crrcd_paper": {"weight": 1.0, "anchors": 4, "width": 16},
        },
        "train": Train(**({"epochs": 3, "batch_size": 16} | of_train)),
        "precision": "float32",
        "device": "cpu",
    }
    return Distill(**(base | options))


@pytest.fixture
def make(drawn: Path, drawn_teacher: Path, tmp_path: Path) -> Callable[..., Distill]:
    """Return a maker of small Distill configs, as `distill_config`."""
    return lambda **options: distill_config(drawn, drawn_teacher, tmp_path / "runs", **options)


@pytest.fixture(scope="session")
def finished(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Distill:
    """The config of a run of three epochs that is finished; nobody writes there."""
    config = distill_config(drawn, drawn_teacher, tmp_path_factory.mktemp("finished") / "runs", name="finished")
    distill(config, quiet=True)
    return config


@pytest.fixture(scope="session")
def photographed() -> Callable[[Path, Path, Callable[[int], int]], Path]:
    """Return a function that writes a set's training images as a camera gives them: 8 x 8, each value changed."""

    def take(data: Path, folder: Path, change: Callable[[int], int]) -> Path:
        images = read(data, split="train")
        for i in range(len(images)):
            place = folder / images.path(i).removeprefix("train/")
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.image(i)).resize((8, 8), Image.Resampling.BOX).point(change).save(place)
        return folder

    return take


@pytest.fixture
def prepared() -> Callable[..., tuple[PreparedRun, TrainingLoop]]:
    """Return a function that prepares a run without a step of it: what it is made of, and its loop.

    Its arguments are a config, the progress (none is shown by default) and a teacher in memory.
    """

    def build(
        config: Experiment, progress: Progress | None = None, teacher: Encoder | None = None
    ) -> tuple[PreparedRun, TrainingLoop]:
        config = from_config(config)
        device = resolve_device(config.device, config.precision, config.train.devices)
        fabric = fabric_of(config, device)
        fabric.launch()
        progress = progress or Progress(quiet=True)
        run = prepare(config, TASKS[config.task](config), fabric, device, progress, teacher)
        return run, TrainingLoop(run, fabric, progress)

    return build


class Comparison:
    """Runs side by side."""

    @staticmethod
    def rows(folder: Path) -> list[dict[str, Any]]:
        """Return the metrics of a run, a dict an epoch."""
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    @staticmethod
    def state(folder: Path) -> dict[str, Any]:
        """Return the state of a run."""
        state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
        return state

    @classmethod
    def same_states(cls, one: Path, other: Path, *, same_config: bool = True) -> None:
        """Weights, buffers, optimizer and metrics of two states are equal to the last bit."""
        states = [cls.state(folder) for folder in (one, other)]
        for state in states:
            if not same_config:
                state.pop("config")
        cls.same_bits(*map(untimed, states))

    @classmethod
    def same_runs(cls, one: Path, other: Path) -> None:
        """State, metrics, result and model file of two runs are equal to the last bit."""
        cls.same_states(one, other)
        assert untimed(cls.rows(one)) == untimed(cls.rows(other))
        results = [untimed(json.loads((folder / "result.json").read_text())) for folder in (one, other)]
        for result in results:
            for name in ("name", "runs"):
                result.pop(name, None)
                result["config"].pop(name)
        assert results[0] == results[1]
        files = [(folder / "model" / "model.safetensors").read_bytes() for folder in (one, other)]
        assert files[0] == files[1]

    @classmethod
    def same_bits(cls, one: Any, other: Any, where: str = "state") -> None:
        """Two trees of tensors are equal to the last bit."""
        assert type(one) is type(other), where
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype, where
            # NaN (a bank's Z before the first batch) counts as equal to itself
            assert torch.equal(one.nan_to_num(), other.nan_to_num()), where
        elif isinstance(one, dict):
            assert list(one) == list(other), where
            for key in one:
                cls.same_bits(one[key], other[key], f"{where}.{key}")
        elif isinstance(one, (list, tuple)):
            assert len(one) == len(other), where
            for i, (a, b) in enumerate(zip(one, other, strict=True)):
                cls.same_bits(a, b, f"{where}[{i}]")
        else:
            assert one == other, where


def untimed(tree: Any) -> Any:
    """The tree without what may differ between two equal runs."""
    if isinstance(tree, dict):
        return {k: untimed(v) for k, v in tree.items() if k not in TIMES}
    return [untimed(v) for v in tree] if isinstance(tree, list) else tree


@pytest.fixture
def runs() -> type[Comparison]:
    """Return the comparisons of runs."""
    return Comparison


def interrupt(student: Tensor) -> Tensor:  # noqa: ARG001
    """Break off, as Ctrl-C does."""
    raise KeyboardInterrupt


class Pause(Loss):
    """A user's loss: 0, but for the step in which it breaks the training off or spoils it."""

    reads = "embedding"
    needs_teacher = False
    #: steps to come before that one; None: there is none
    left: ClassVar[int | None] = None
    #: the loss of that step, of the student's embedding
    fault: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(interrupt)

    def compute(self, teacher: Any, student: Tensor, label: Any, index: Any) -> Tensor:  # noqa: ARG002
        if Pause.left is not None:
            Pause.left -= 1
            if Pause.left < 0:
                Pause.left = None
                return Pause.fault(student)
        return 0 * student.sum()


class Pauser:
    """Says when the loss ``pause`` breaks off."""

    losses: ClassVar[dict[str, Any]] = {"pause": {"weight": 1.0}}

    @staticmethod
    def after(steps: int, fault: Callable[[Tensor], Tensor] = interrupt) -> None:
        """Let it break off after so many further steps."""
        Pause.left, Pause.fault = steps, staticmethod(fault)  # type: ignore[assignment]


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Pauser]]:
    """Register the loss ``pause``, which `Pauser.losses` turns on."""
    monkeypatch.setitem(LOSSES, "pause", Pause)
    Pause.left = None
    yield Pauser
    Pause.left = None


@pytest.fixture(scope="module")
def stopped(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Distill, str]:
    """The config of a run that broke off in the second of three epochs, and what it printed; ``whole`` beside it
    is the same run, uninterrupted. Copy it before you go on with it."""
    losses = {"ce": {"weight": 1.0}, "crrcd_paper": {"weight": 1.0, "anchors": 4, "width": 16}, **Pauser.losses}
    folder = tmp_path_factory.mktemp("stopped") / "runs"
    config = distill_config(drawn, drawn_teacher, folder, name="stopped", losses=losses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "pause", Pause)
        distill(replace(config, name="whole"), quiet=True)
        Pauser.after(STEPS + 2)
        output = io.StringIO()
        with redirect_stderr(output), pytest.raises(KeyboardInterrupt):
            distill(config)
    return config, output.getvalue()
