"""A grid of distillations from one YAML: what varies, and the runs it makes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from crossres.config import Distill
from crossres.errors import CrossresError, nearest
from crossres.losses import LOSSES
from crossres.parsing import from_dict


@dataclass
class Pair:
    """A teacher and the student it teaches.

    Args:
        teacher: a run's folder, a model's folder or a Hub name.
        student: network of the student, as in ``model.name``.
    """

    teacher: str
    student: str


@dataclass
class Grid:
    """Methods x pairs x resolutions x degradations x seeds.

    Args:
        name: of the grid.
        methods: for each method's name its losses, as ``losses`` of an experiment.
        pairs: teachers and students.
        lr_sizes: sides of the LR images, or [smallest, largest].
        degradations: by name, the options of ``degradation``.
        factors: every loss of a teacher is tried at its weight times each of these; of each method and setting the
            factor with the best validation accuracy counts, so all methods are tuned over as many trials.
        seeds: of the training.
        baseline: the method that the others' gains are counted from.
        base: what all runs share: options of `Distill`, nested as in its YAML.
        transfer: by name, a data set that each student's embeddings are judged on after its run: ``{data: ...}``
            and the options of ``crossres transfer``; ``$NAME`` in it is an environment variable.
        unseen: by name, a degradation the student is also tested under, as ``crossres evaluate --degradation`` reads
            it.
        out: folder that gets a JSON file for each run, tables and figures; ``results/NAME`` if left out.
    """

    name: str
    methods: dict[str, dict[str, dict[str, Any]]]
    pairs: list[Pair]
    lr_sizes: list[int | list[int]] = field(default_factory=lambda: [8])
    degradations: dict[str, dict[str, Any]] = field(default_factory=lambda: {"clean": {}})
    factors: list[float] = field(default_factory=lambda: [1.0])
    seeds: list[int] = field(default_factory=lambda: [0])
    baseline: str = "ce"
    base: dict[str, Any] = field(default_factory=dict)
    transfer: dict[str, dict[str, Any]] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    out: str | None = None

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return Path(self.out or f"results/{self.name}")


@dataclass
class Run:
    """One run of a grid.

    Attributes:
        config: the experiment; ``config.name`` names what varies.
        method: its name in the grid.
        degradation: its name in the grid; None where the grid has one only.
        factor: of its weights; None where the grid has one only.
    """

    config: Distill
    method: str
    degradation: str | None
    factor: float | None

    @property
    def place(self) -> dict[str, Any]:
        """Where in the grid it stands, as its result says."""
        place = {"method": self.method, "degradation": self.degradation, "factor": self.factor}
        return {key: value for key, value in place.items() if value is not None}


def read_grid(path: str | Path) -> Grid:
    """Read a grid from YAML; unknown and missing keys are refused by name.

    Raises:
        CrossresError: no such file, no YAML, or no grid.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CrossresError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    known = list(Grid.__dataclass_fields__)
    if not isinstance(tree, dict):
        raise CrossresError(f"{path}: holds no grid; its keys are {', '.join(known)}")
    for key in tree:
        if key not in known:
            raise CrossresError(f"{path}: unknown key '{key}'{nearest(str(key), known)}")
    for key in ("name", "methods", "pairs"):
        if not tree.get(key):
            raise CrossresError(f"{path}: has no '{key}'")
    for key, kind, written in (
        ("methods", dict, "'NAME: {ce: {weight: 1}}'"),
        ("degradations", dict, "'NAME: {preset: realistic}'"),
        ("base", dict, "options of crossres distill, as 'key: value'"),
        ("transfer", dict, "'NAME: {data: ...}'"),
        ("unseen", dict, "'NAME: preset=realistic'"),
        ("lr_sizes", list, "a list of sides, as [8, 16]"),
        ("seeds", list, "a list of numbers, as [0, 1, 2]"),
        ("factors", list, "a list of numbers, as [0.25, 1, 4]"),
    ):
        value = tree.get(key, kind())
        if not isinstance(value, kind) or (key in tree and not value and key not in ("base", "transfer", "unseen")):
            raise CrossresError(f"{path}: {key} is {value!r}, expected {written}")
    for name, options in tree.get("transfer", {}).items():
        if not isinstance(options, dict) or "data" not in options:
            raise CrossresError(f"{path}: transfer.{name} has no 'data'")
        options["data"] = os.path.expandvars(options["data"])
        if "$" in options["data"]:
            raise CrossresError(f"{path}: transfer.{name}.data is {options['data']}; set that environment variable")
    try:
        pairs = [Pair(**pair) for pair in tree.pop("pairs")]
    except TypeError as error:
        raise CrossresError(f"{path}: pairs are a list of 'teacher: ..., student: ...' ({error})") from None
    return Grid(pairs=pairs, **tree)


def runs_of(grid: Grid, **overrides: Any) -> Iterator[Run]:
    """Yield every run of a grid, checked, seeds outermost: an unfinished grid has complete rows of few seeds.

    Args:
        grid: what varies.
        overrides: options of `Distill` that count more than ``grid.base``, such as ``data`` and ``runs``.

    Raises:
        CrossresError: an experiment that cannot be, naming its run.
    """
    shared = {**grid.base, **{key: value for key, value in overrides.items() if value is not None}}
    kinds = grid.degradations.items()
    for seed, size, pair, (kind, degradation) in product(grid.seeds, grid.lr_sizes, grid.pairs, kinds):
        sides = [size] if isinstance(size, int) else size
        lr = "-".join(f"{side}x{side}" for side in sides)
        place = "-".join([_plain(pair.student), lr, *([_plain(kind)] * (len(kinds) > 1))])
        for method, losses in grid.methods.items():
            taught = any(_needs_teacher(loss) for loss in losses)
            for factor in grid.factors if taught else [1.0]:
                tried = f"-times-{factor:g}" if len(grid.factors) > 1 and taught else ""
                name = f"{place}-{_plain(method)}{tried}-seed{seed}"
                tree: dict[str, Any] = {
                    **shared,
                    "name": name,
                    "lr_size": size,
                    "degradation": {**shared.get("degradation", {}), **degradation},
                    "model": {**shared.get("model", {}), "name": pair.student},
                    "train": {**shared.get("train", {}), "seed": seed},
                    "losses": _scaled(losses, factor),
                    "teacher": pair.teacher if taught else None,
                }
                try:
                    config = from_dict(Distill, tree)
                except CrossresError as error:
                    raise CrossresError(f"{name}: {error}") from None
                yield Run(config, method, kind if len(kinds) > 1 else None, factor if tried else None)


def _plain(name: str) -> str:
    """Return a name that is a file's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def _needs_teacher(loss: str) -> bool:
    # an unknown name is refused with the experiment
    return loss not in LOSSES or LOSSES[loss].needs_teacher


def _scaled(losses: dict[str, dict[str, Any]], factor: float) -> dict[str, dict[str, Any]]:
    scaled = {}
    for name, options in losses.items():
        options = options or {}
        scaled[name] = {**options, "weight": options.get("weight", 1.0) * (factor if _needs_teacher(name) else 1.0)}
    return scaled
