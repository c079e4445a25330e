"""The ranges of an experiment's options, and options that contradict each other."""

import math
from collections.abc import Collection
from typing import Any

from crossres.config.experiment import IN_MEMORY, Distill, Experiment
from crossres.config.record import PATHS
from crossres.config.schema import TERM
from crossres.core.errors import CrossresError, demand_utf8
from crossres.data.degradation import check_size
from crossres.models.onnx_input import ONNX

RANGES: dict[str, tuple[float, float]] = {
    "train.epochs": (1, 1e6),
    "train.batch_size": (1, 1e7),
    "train.accumulate": (1, 1e5),
    "train.learning_rate": (1e-12, 1e6),
    "train.momentum": (0, 0.9999),
    "train.weight_decay": (0, 1e3),
    "train.val_fraction": (0, 0.9),
    "train.ema": (0, 0.99999),
    "train.devices": (1, 1e5),
    "train.seed": (0, 1e9),
    "images.test_fraction": (0.001, 0.9),
    "images.memory_mb": (0, 1e9),
    "images.workers": (0, 1e4),
    "images.buffer": (1, 1e9),
    "augment.shift": (0, 1e4),
    "augment.zoom": (0, 0.9),
    "augment.colour": (0, 1),
    "hr_size": (1, 1e5),
    "model.input_size": (1, 1e5),
    "model.embedding_dim": (1, 1e6),
    "natural_share": (0.001, 0.999),
    "val_pairs": (20, 1e7),
}


def named_code(options: Any) -> dict[str, str]:
    """Return the code that options name for a network or a teacher, ``package.module:callable``, by option."""
    code = {}
    for option, holder in (("model.name", getattr(options, "model", None)), ("teacher_name", options)):
        name = getattr(holder, option.rpartition(".")[2], None)
        if isinstance(name, str) and ":" in name and not name.startswith(("timm:", ONNX)):
            code[option] = name
    return code


def demand_trust(options: Any, where: str, trusted: bool, given: Collection[str] = ()) -> None:
    """Refuse options from a file that name code, unless that is trusted or named beside the file.

    Args:
        options: of any command.
        where: what holds them, for the message.
        trusted: whether the user, and not the file, says so.
        given: names of options that the user wrote beside the file.
    """
    for option, name in named_code(options).items():
        if not trusted and option not in given:
            raise CrossresError(f"{where} would run code '{name}'; if you trust it, add --trust_code true")


def check(config: Experiment) -> None:
    """Refuse values that no run can mean.

    Raises:
        CrossresError: naming the option and its range.
    """
    for name, (low, high) in RANGES.items():
        _demand_within(name, _value(config, name), low, high)
    _demand_within("train.images_per_class", config.train.images_per_class, 0, config.train.batch_size or 128)
    for fraction in config.train.milestones:
        _demand_within("train.milestones", fraction, 0, 1)
    if config.faces:
        # people held out choose the threshold that the test is judged at
        _demand_within("train.val_fraction", config.train.val_fraction, 0.001, 0.9)
    distillation = config.distillation
    if distillation:
        check_size(distillation.lr_size, config.hr_size)
        if distillation.teacher_name and distillation.teacher in (None, IN_MEMORY):
            raise CrossresError("teacher_name names the architecture of a plain checkpoint: give its file as teacher")
        _demand_within("teacher_top_k", distillation.teacher_top_k, 0, 1e6)
        if distillation.teacher_top_k and not distillation.teacher_cache:
            raise CrossresError("teacher_top_k is of the cache: set teacher_cache to true, or leave it out")
    for name in ("natural_labels", "natural_share"):
        if isinstance(config, Distill) and not config.natural and getattr(config, name) != getattr(Distill, name):
            raise CrossresError(f"{name} is of natural images; give --natural, too, or leave it out")
    for name in (*PATHS, "name", "model.weights"):
        value = _value(config, name)
        demand_utf8(name, value or "")
        if value == "" and name != "name":
            raise CrossresError(f"{name}: is empty; leave it out, or name one")
    if config.name in ("", ".", "..") or "/" in config.name:
        raise CrossresError(f"name: '{config.name}' is not a folder's name; the run is written to RUNS/NAME")
    _check_losses(config)


def _value(config: Experiment, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _demand_within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise CrossresError(f"{name}: {value:g} is outside {low:g}..{high:g}")


def _check_losses(config: Experiment) -> None:
    from crossres.losses.options import check_options, needs_teacher

    if not config.terms:
        raise CrossresError("losses: every weight is 0; give at least one term a weight, e.g. losses.ce.weight 1")
    for name, options in config.terms.items():
        if not 0 <= options["weight"] < math.inf:
            raise CrossresError(f"losses.{name}.weight: {options['weight']} is negative or not finite")
        _demand_within(f"losses.{name}.warm_up", options["warm_up"], 0, 1)
        try:
            check_options(name, {key: value for key, value in options.items() if key not in TERM})
        except (ValueError, TypeError) as error:
            raise CrossresError(f"losses.{name}: {error}") from None
        if config.distillation is None and needs_teacher(name):
            raise CrossresError(f"losses.{name} needs a teacher; use crossres distill")
        if config.distillation and config.distillation.teacher is None and needs_teacher(name):
            raise CrossresError(
                f"losses.{name} needs a teacher; give --teacher, or losses.{name}.weight 0 to learn from labels alone"
            )
