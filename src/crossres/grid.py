"""A grid of distillations from one YAML: what varies, and the runs it makes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crossres.config import Distill
from crossres.errors import CrossresError, nearest
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
    """

    config: Distill
    method: str
    degradation: str | None

    @property
    def place(self) -> dict[str, str]:
        """Where in the grid it stands, as its result says."""
        degradation = {"degradation": self.degradation} if self.degradation else {}
        return {"method": self.method, **degradation}


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
    ):
        value = tree.get(key, kind())
        if not isinstance(value, kind) or (key in tree and not value and key not in ("base", "transfer", "unseen")):
            raise CrossresError(f"{path}: {key} is {value!r}, expected {written}")
    for name, options in tree.get("transfer", {}).items():
        if not isinstance(options, dict) or "data" not in options:
            raise CrossresError(f"{path}: transfer.{name} has no 'data'")
        options["data"] = os.path.expandvars(options["data"])
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
    several = len(grid.degradations) > 1
    for seed in grid.seeds:
        for size in grid.lr_sizes:
            for pair in grid.pairs:
                for kind, degradation in grid.degradations.items():
                    for method, losses in grid.methods.items():
                        sides = [size] if isinstance(size, int) else size
                        lr = "-".join(f"{side}x{side}" for side in sides)
                        name = "-".join([pair.student, lr, *([kind] * several), method, f"seed{seed}"])
                        tree: dict[str, Any] = {
                            **shared,
                            "name": name,
                            "lr_size": size,
                            "degradation": {**shared.get("degradation", {}), **degradation},
                            "model": {**shared.get("model", {}), "name": pair.student},
                            "train": {**shared.get("train", {}), "seed": seed},
                            "losses": losses,
                            "teacher": pair.teacher,
                        }
                        if set(losses) == {"ce"}:
                            del tree["teacher"]
                        try:
                            yield Run(from_dict(Distill, tree), method, kind if several else None)
                        except CrossresError as error:
                            raise CrossresError(f"{name}: {error}") from None
