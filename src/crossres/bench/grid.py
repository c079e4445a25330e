"""A grid of distillations from one YAML: what varies, and the runs it makes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from crossres.config.options import PATHS, Distill, Faces, base_name, check, network_name
from crossres.config.reading import from_dict
from crossres.core.errors import CrossresError, nearest
from crossres.data.degradation import read_degradation
from crossres.losses import LOSSES

#: What the grid says of an experiment; its base cannot.
VARIES = ("name", "lr_size", "losses", "teacher")


@dataclass
class Pair:
    """A teacher and the student it teaches.

    Args:
        teacher: a run's folder, a model's folder or a Hub name.
        student: network of the student, as in ``model.name``.
    """

    teacher: str
    student: str


#: Options of a judgement that are paths.
FILES = ("data", "pairs", "threshold_pairs", "gallery")
#: The experiments a grid can be of.
KINDS: dict[str, type[Distill]] = {"distill": Distill, "faces": Faces}


@dataclass
class Grid:
    """Methods x pairs x resolutions x degradations x seeds.

    Args:
        name: of the grid; its runs lie in ``RUNS/NAME``.
        task: distill, or faces for runs of ``crossres faces distill``.
        methods: for each method's name its losses, as ``losses`` of an experiment; under ``options``, what else of
            the experiment is the method's own, such as ``stages``.
        pairs: teachers and students.
        lr_sizes: sides of the LR images, or [smallest, largest].
        degradations: by name, the options of ``degradation``.
        factors: every loss of a teacher is tried at its weight times each of these; of each method and setting the
            factor with the best validation accuracy counts, so all methods are tuned over as many trials.
        seeds: of the training.
        baseline: the method that the others' gains are counted from.
        base: what all runs share: options of `Distill` or `Faces`, nested as in its YAML.
        transfer: by name, a data set that each student's embeddings are judged on after its run: ``{data: ...}``
            and the options of ``crossres transfer``; ``$NAME`` in it is an environment variable.
        unseen: by name, a degradation the student is also tested under, as ``crossres evaluate --degradation`` reads
            it.
        protocols: of faces, by name: each student is also judged by ``crossres faces evaluate`` with these options,
            ``{data: ...}`` among them; ``$NAME`` in a path is an environment variable.
        out: folder that gets a JSON file for each run, tables and figures; ``results/NAME`` if left out.
    """

    name: str
    methods: dict[str, dict[str, dict[str, Any] | None]]
    pairs: list[Pair]
    lr_sizes: list[int | list[int]] = field(default_factory=lambda: [8])
    degradations: dict[str, dict[str, Any]] = field(default_factory=lambda: {"clean": {}})
    factors: list[float] = field(default_factory=lambda: [1.0])
    seeds: list[int] = field(default_factory=lambda: [0])
    baseline: str = "ce"
    base: dict[str, Any] = field(default_factory=dict)
    transfer: dict[str, dict[str, Any]] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    task: Literal["distill", "faces"] = "distill"
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
        teacher: its name, where the grid has several.
        degradation: its name in the grid, where that has several.
        factor: of its weights, where the grid has several.
        options: names of the options that the method brings along, as in ``train.learning_rate``.
    """

    config: Distill
    method: str
    teacher: str | None
    degradation: str | None
    factor: float | None
    options: list[str] | None

    @property
    def place(self) -> dict[str, Any]:
        """Where in the grid it stands, as its result says."""
        place = {name: getattr(self, name) for name in ("method", "teacher", "degradation", "factor", "options")}
        return {key: value for key, value in place.items() if value is not None}


def read_grid(path: str | Path) -> Grid:
    """Read a grid from YAML; unknown and missing keys, wrong types and what no grid can mean are refused by name.

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
    try:
        _check(tree)
        tree["pairs"] = [
            Pair(*(os.path.expandvars(p[side]) for side in ("teacher", "student"))) for p in tree["pairs"]
        ]
        tree["degradations"] = {k: v or {} for k, v in tree.get("degradations", {"clean": {}}).items()}
        for options in [*tree.get("transfer", {}).values(), *tree.get("protocols", {}).values()]:
            for key in options.keys() & set(FILES):
                options[key] = os.path.expandvars(options[key])
        base = tree.get("base", {})
        base.update({key: os.path.expandvars(base[key]) for key in PATHS if isinstance(base.get(key), str)})
        for name, text in tree.get("unseen", {}).items():
            try:
                read_degradation(text)
            except CrossresError as error:
                raise CrossresError(f"unseen.{name}: {error}") from None
    except CrossresError as error:
        raise CrossresError(f"{path}: {error}") from None
    return Grid(**tree)


def _check(tree: dict[str, Any]) -> None:
    def texts(value: Any, of: Callable[[Any], bool] = lambda _: True) -> bool:
        return isinstance(value, dict) and all(isinstance(k, str) and of(v) for k, v in value.items())

    def options(value: Any) -> bool:
        return value is None or texts(value)

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def weights(value: Any) -> bool:
        given = [(v or {}).get("weight", 1) for k, v in value.items() if k != "options"]
        return all(isinstance(weight, (int, float)) and not isinstance(weight, bool) for weight in given)

    def numbers(value: Any, of: Callable[[Any], bool]) -> bool:
        return isinstance(value, list) and bool(value) and all(of(number) for number in value)

    def side(value: Any) -> bool:
        return whole(value) or (isinstance(value, list) and len(value) == 2 and all(map(whole, value)))

    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (lambda v: isinstance(v, str) and _plain(v) == v, "a name of letters, digits, dots and dashes"),
        "methods": (
            lambda v: texts(v, lambda losses: texts(losses, options) and bool(losses) and weights(losses)),
            "'NAME: {ce: {weight: 1}}' for each method",
        ),
        "pairs": (
            lambda v: (
                isinstance(v, list)
                and all(texts(p, lambda t: isinstance(t, str)) and set(p) == {"teacher", "student"} for p in v)
            ),
            "a list of 'teacher: ..., student: ...'",
        ),
        "lr_sizes": (lambda v: numbers(v, side), "a list of sides, as [8, 16] or [[6, 12]]"),
        "degradations": (lambda v: texts(v, options) and bool(v), "'NAME: {preset: realistic}' for each"),
        "factors": (
            lambda v: numbers(v, lambda n: isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0),
            "a list of numbers above 0, as [0.25, 1, 4]",
        ),
        "seeds": (lambda v: numbers(v, whole) and len(set(v)) == len(v), "a list of different numbers, as [0, 1, 2]"),
        "baseline": (lambda v: v in tree["methods"], f"one of the methods: {', '.join(map(str, tree['methods']))}"),
        "base": (
            lambda v: texts(v) and all(texts(v.get(part, {})) for part in ("train", "model", "degradation")),
            "options of crossres distill, as 'key: value'",
        ),
        "transfer": (
            lambda v: texts(v, lambda o: texts(o) and isinstance(o.get("data"), str)),
            "'NAME: {data: ...}' for each data set",
        ),
        "task": (lambda v: v in KINDS, " or ".join(KINDS)),
        "protocols": (
            lambda v: texts(v, lambda o: texts(o) and isinstance(o.get("data"), str)),
            "'NAME: {data: ...}' for each protocol",
        ),
        "unseen": (lambda v: texts(v, lambda t: isinstance(t, str)), "'NAME: preset=realistic' for each"),
        "out": (lambda v: isinstance(v, str), "a folder"),
    }
    for key, (sound, written) in rules.items():
        value = tree.get(key, Grid.__dataclass_fields__[key].default)
        if (key in tree or key == "baseline") and not sound(value):
            raise CrossresError(f"{key} is {value!r}, expected {written}")
    faces = tree.get("task") == "faces"
    for key in ("transfer", "unseen") if faces else ("protocols",):
        if tree.get(key):
            raise CrossresError(f"{key}: not of task {'faces' if faces else 'distill'}; leave it out")
    for key in VARIES:
        if key in tree.get("base", {}):
            raise CrossresError(f"base.{key}: that is what a grid varies; leave it out")
    if len(tree.get("factors", [1])) > 1 and tree.get("base", {}).get("train", {}).get("val_fraction", 0.1) == 0:
        raise CrossresError("factors are chosen on validation images; give base.train.val_fraction a share")


def runs_of(grid: Grid, **overrides: Any) -> Iterator[Run]:
    """Yield every run of a grid, checked, seeds outermost: an unfinished grid has complete rows of few seeds.

    Args:
        grid: what varies.
        overrides: options of `Distill` that count more than ``grid.base``, such as ``data`` and ``runs``.

    Raises:
        CrossresError: an experiment that cannot be, naming its run; or two runs of one name.
    """
    shared = {**grid.base, **{key: value for key, value in overrides.items() if value is not None}}
    runs = Path(shared.get("runs", Distill().runs))
    shared["runs"], shared["cache_dir"] = str(runs / grid.name), shared.get("cache_dir") or str(runs / "cache")
    kinds = grid.degradations.items()
    several = len({pair.teacher for pair in grid.pairs}) > 1
    seen = set()
    read: dict[tuple[str, ...], Distill] = {}
    for seed, size, pair, (kind, degradation) in product(grid.seeds, grid.lr_sizes, grid.pairs, kinds):
        sides = [size] if isinstance(size, int) else size
        lr = "-".join(f"{side}x{side}" for side in sides)
        teacher = base_name(pair.teacher) if several else None
        words = [network_name(pair.student), *([teacher] if teacher else []), lr, *([kind] if len(kinds) > 1 else [])]
        place = "-".join(_plain(word) for word in words)
        for method, given in grid.methods.items():
            losses = {name: options for name, options in given.items() if name != "options"}
            own = given.get("options") or {}
            taught = any(_needs_teacher(loss) for loss in losses)
            for factor in grid.factors if taught else [1.0]:
                tried = f"-times-{factor:g}" if len(grid.factors) > 1 and taught else ""
                name = f"{place}-{_plain(method)}{tried}-seed{seed}"
                if name in seen:
                    raise CrossresError(f"two runs of the grid would be named {name}; name teachers or methods apart")
                seen.add(name)
                varied = {
                    "name": name,
                    "lr_size": size,
                    "degradation": degradation,
                    "model": {"name": pair.student},
                    "train": {"seed": seed},
                    "losses": _scaled(losses, factor),
                    "teacher": pair.teacher if taught else None,
                }
                tree = _over(_over(shared, own), varied)
                # reading takes a third of a second, and seeds and weights change nothing that it checks but numbers
                alike = (pair.teacher, pair.student, str(size), kind, method)
                try:
                    if alike in read:
                        config = deepcopy(read[alike])
                        config.name, config.train.seed, config.losses = name, seed, _merged(config, tree["losses"])
                        check(config)
                    else:
                        config = read[alike] = from_dict(KINDS[grid.task], tree)
                except CrossresError as error:
                    raise CrossresError(f"{name}: {error}") from None
                several_kinds = kind if len(kinds) > 1 else None
                yield Run(config, method, teacher, several_kinds, factor if tried else None, _leaves(own) or None)


def _over(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return options over others, part by part: what one part of them says leaves the rest of that part."""
    both = {key: _over(base[key], more[key]) for key in base if _parts(base[key], more.get(key))}
    return {**base, **more, **both}


def _leaves(tree: Mapping[str, Any], before: str = "") -> list[str]:
    """Return the names of options, parts and all: ``train.learning_rate``."""
    names = []
    for key, value in tree.items():
        names += _leaves(value, f"{before}{key}.") if isinstance(value, Mapping) else [f"{before}{key}"]
    return names


def _parts(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _merged(config: Distill, losses: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a config's losses, defaults and all, with other weights."""
    return {name: {**options, "weight": losses[name]["weight"]} for name, options in config.losses.items()}


def _plain(name: str) -> str:
    """Return a name that is a file's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")


def _needs_teacher(loss: str) -> bool:
    # an unknown name is refused with the experiment
    return loss not in LOSSES or LOSSES[loss].needs_teacher


def _scaled(losses: Mapping[str, dict[str, Any] | None], factor: float) -> dict[str, dict[str, Any]]:
    scaled = {}
    for name, given in losses.items():
        options = given or {}
        # a float, as a run's own file says it: else its result would never be one of the same options
        by = float(factor if _needs_teacher(name) else 1.0)
        scaled[name] = {**options, "weight": options.get("weight", 1.0) * by}
    return scaled
