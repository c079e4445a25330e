"""A grid of distillations from one YAML: what varies, and the runs it makes."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

from crossres.config.check import demand_trust
from crossres.config.experiment import Distill, Faces
from crossres.config.judging import Evaluate, EvaluateFaces, Judgement, Transfer
from crossres.config.options import Reading
from crossres.config.reading import read
from crossres.config.record import PATHS, base_name, network_name
from crossres.config.yaml_file import load_yaml
from crossres.core.errors import CrossresError
from crossres.evaluation.prepare import check
from crossres.losses.options import needs_teacher

#: What the grid says of an experiment; its base cannot.
VARIES = ("name", "lr_size", "losses", "method", "teacher")
#: Options of a judgement that are paths.
FILES = ("data", "pairs", "threshold_pairs", "gallery")
#: The experiments a grid can be of.
KINDS: dict[str, type[Distill | Faces]] = {"distill": Distill, "faces": Faces}
#: Judgements of objects on data of their own.
OF_DATA = ("transfer", "natural")
#: What a run is judged by after its training: the keys of a grid and of its results.
JUDGEMENTS: dict[str, type[Judgement]] = {
    "transfer": Transfer,
    "natural": Evaluate,
    "unseen": Evaluate,
    "protocols": EvaluateFaces,
}


@dataclass(kw_only=True)
class Grid:
    """Methods x pairs x resolutions x degradations x seeds.

    Args:
        name: of the grid; its runs lie in ``RUNS/NAME``.
        task: distill, or faces for runs of ``crossres faces distill``.
        methods: by their labels in the tables: the name of one (``crossres methods`` lists them), or losses as in an
            experiment, over those of ``method: NAME`` where that stands beside them; under ``options``, what else of
            the experiment is the method's own, such as ``stages``.
        pairs: teachers, each with a student it teaches: ``{teacher: FOLDER, student: NETWORK}``.
        lr_sizes: sides of the LR images, or [smallest, largest].
        degradations: by name, the options of ``degradation``.
        factors: every loss of a teacher is tried at its weight times each of these; of each method and setting the
            factor with the best validation accuracy counts, so all methods are tuned over as many trials.
        seeds: of the training.
        baseline: the method that the others' gains are counted from.
        base: what all runs share: options of `Distill` or `Faces`, nested as in its YAML.
        transfer: by name, a data set that each student's embeddings are judged on after its run: ``{data: ...}``
            and the options of ``crossres transfer``; ``$NAME`` in a path is an environment variable.
        natural: by name, a data set of the same classes whose images are small by nature, which each student is also
            tested on, as they are: ``{data: ...}``, read as the base's ``images`` say.
        unseen: by name, the options of a degradation that the student is also tested under.
        protocols: of faces, by name: each student is also judged by ``crossres faces evaluate`` with these options,
            ``{data: ...}`` among them; ``$NAME`` in a path is an environment variable.
        out: folder that gets a JSON file for each run, tables and figures; ``results/NAME`` if left out.
    """

    command: ClassVar[str] = "crossres bench"

    name: str
    task: Literal["distill", "faces"] = "distill"
    methods: dict[str, Any]
    pairs: list[dict[str, str]]
    lr_sizes: list[int | tuple[int, int]] = field(default_factory=lambda: [8])
    degradations: dict[str, Any] = field(default_factory=lambda: {"clean": {}})
    factors: list[float] = field(default_factory=lambda: [1.0])
    seeds: list[int] = field(default_factory=lambda: [0])
    baseline: str = "ce"
    base: dict[str, Any] = field(default_factory=dict)
    transfer: dict[str, Any] = field(default_factory=dict)
    natural: dict[str, Any] = field(default_factory=dict)
    unseen: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)
    out: str | None = None

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return Path(self.out or f"results/{self.name}")


@dataclass
class GridRun:
    """One run of a grid.

    Attributes:
        config: the experiment; ``config.name`` names what varies.
        place: where in the grid it stands, as its result says: the label of its ``method``; where the grid has
            several, ``teacher``, ``degradation`` and ``factor`` of the weights; ``options``, the names of those that
            the method brings along, as in ``train.learning_rate``.
    """

    config: Distill | Faces
    place: dict[str, Any]


def read_grid(path: str | Path, **overrides: Any) -> Grid:
    """Read a grid from YAML; every experiment and judgement of it is read, too.

    Args:
        path: of the YAML file.
        overrides: options that count more than those of the file's ``base``, such as ``data``, ``runs`` and
            ``trust_code``.

    Raises:
        CrossresError: no such file, not YAML, or not a grid: what is wrong in it, by name.
    """
    tree = load_yaml(path)
    try:
        grid = read(Grid, tree)
        _check(grid)
        judged = (options for part in (*OF_DATA, "protocols") for options in getattr(grid, part).values())
        brought = (method.get("options") for method in grid.methods.values() if isinstance(method, dict))
        for options in (grid.base, *grid.pairs, *judged, *(each for each in brought if isinstance(each, dict))):
            paths = {name: options[name] for name in (*FILES, *PATHS, "student") if name in options}
            options.update({name: os.path.expandvars(path) for name, path in paths.items() if isinstance(path, str)})
        grid.base.update({name: value for name, value in overrides.items() if value is not None})
        first, *_ = runs_of(grid)
        list(judgements_of(grid, first))
    except CrossresError as error:
        raise CrossresError(f"{path}: {error}") from None
    return grid


def _check(grid: Grid) -> None:
    """Refuse what the types allow, but no grid can mean."""
    plain = _plain(grid.name) == grid.name != ""
    paired = bool(grid.pairs) and all(pair.keys() == {"teacher", "student"} for pair in grid.pairs)
    distinct = 0 < len(set(grid.seeds)) == len(grid.seeds)
    rules = {
        "name": (plain, "a name of letters, digits, dots and dashes"),
        "methods": (grid.methods, "'NAME: crrcd' or 'NAME: {ce: {weight: 1}}' for each method"),
        "pairs": (paired, "a list of 'teacher: ..., student: ...'"),
        "lr_sizes": (grid.lr_sizes, "a list of sides, as [8, 16] or [[6, 12]]"),
        "degradations": (grid.degradations, "'NAME: {preset: realistic}' for each"),
        "factors": (min(grid.factors, default=0) > 0, "a list of numbers above 0, as [0.25, 1, 4]"),
        "seeds": (distinct, "a list of different numbers, as [0, 1, 2]"),
        "baseline": (grid.baseline in grid.methods, f"one of the methods: {', '.join(map(str, grid.methods))}"),
    }
    for name, (sound, expected) in rules.items():
        if not sound:
            raise CrossresError(f"{name}: expected {expected}, got {getattr(grid, name)!r}")
    for name in ("methods", "degradations", *JUDGEMENTS):
        for key, value in getattr(grid, name).items():
            short = {"methods": isinstance(value, str), "degradations": value is None}.get(name)
            if not (isinstance(key, str) and (short or isinstance(value, dict))):
                raise CrossresError(f"{name}.{key}: expected its options as 'key: value', got {value!r}")
    for name, options in grid.natural.items():
        if options.keys() != {"data"}:
            raise CrossresError(f"natural.{name}: expected 'data: FOLDER' alone, got {', '.join(options)}")
    for name in (*OF_DATA, "unseen") if grid.task == "faces" else ("protocols",):
        if getattr(grid, name):
            raise CrossresError(f"{name}: does not apply to task {grid.task}; leave it out")
    for name in VARIES:
        if name in grid.base:
            raise CrossresError(f"base.{name}: that is what a grid varies; leave it out")


def runs_of(grid: Grid) -> Iterator[GridRun]:
    """Yield every run of a grid, checked, seeds outermost: an unfinished grid has complete rows of few seeds.

    Raises:
        CrossresError: an experiment that cannot be, naming its run; or two runs of one name.
    """
    several_teachers = len({pair["teacher"] for pair in grid.pairs}) > 1
    names = set()
    for seed, size, pair, kind in product(grid.seeds, grid.lr_sizes, grid.pairs, grid.degradations):
        lr = "-".join(f"{side}x{side}" for side in ([size] if isinstance(size, int) else size))
        teacher = base_name(pair["teacher"]) if several_teachers else None
        degradation = kind if len(grid.degradations) > 1 else None
        place = "-".join(_plain(word) for word in (network_name(pair["student"]), teacher, lr, degradation) if word)
        setting = {
            "lr_size": size,
            "degradation": grid.degradations[kind] or {},
            "model": {"name": pair["student"]},
            "train": {"seed": seed},
            "teacher": pair["teacher"],
        }
        for method in grid.methods:
            name = f"{place}-{_plain(method)}"
            for factor in grid.factors:
                try:
                    config, brought = _experiment(grid, method, setting, factor)
                except CrossresError as error:
                    raise CrossresError(f"{name}-seed{seed}: {error}") from None
                tried = factor if len(grid.factors) > 1 and config.teacher else None
                config.name = f"{name}{f'-times-{factor:g}' if tried else ''}-seed{seed}"
                if config.name in names:
                    raise CrossresError(f"two runs would be named {config.name}; rename a teacher or a method")
                names.add(config.name)
                standing = {"method": method, "teacher": teacher, "degradation": degradation, "factor": tried}
                standing["options"] = brought or None
                yield GridRun(config, {key: value for key, value in standing.items() if value is not None})
                if not config.teacher:  # labels alone have no weight to tune
                    break


def _experiment(
    grid: Grid, method: str, setting: Mapping[str, Any], factor: float
) -> tuple[Distill | Faces, list[str]]:
    """Return the experiment of a method in a setting, and the names of the options that the method brings along."""
    given = grid.methods[method]
    losses: dict[str, Any] = {"method": given} if isinstance(given, str) else dict(given)
    own = losses.pop("options", None) or {}
    if not isinstance(own, Mapping):
        raise CrossresError(f"options: expected its options as 'key: value', got {own!r}")
    runs = Path(grid.base.get("runs") or "runs")
    folders = {"runs": str(runs / grid.name), "cache_dir": grid.base.get("cache_dir") or str(runs / "cache")}
    tree = _over(_over({**grid.base, **folders}, own), setting)
    tree["method"] = losses.pop("method", None)
    if not (losses or tree["method"]):
        raise CrossresError("a method is a name, as 'NAME: crrcd', or losses, as 'NAME: {ce: {weight: 1}}'")
    tree["trust_code"] = grid.base.get("trust_code", False)
    config = read(KINDS[grid.task], tree | ({"losses": losses} if losses else {}))
    demand_trust(config, "the grid", config.trust_code)
    if len(grid.factors) > 1 and not config.train.val_fraction:
        raise CrossresError("factors are chosen on validation images; give base.train.val_fraction a share")
    taught = [options for loss, options in config.terms.items() if needs_teacher(loss)]
    for options in taught:
        options["weight"] *= factor
    if not taught:
        config.teacher = config.teacher_name = None
    return config, _leaves(own)


def judgements_of(grid: Grid, run: GridRun) -> Iterator[tuple[str, str, Judgement]]:
    """Yield what a run is judged by after its training: a key of `JUDGEMENTS`, its name and its options.

    Raises:
        CrossresError: options that the judgement does not have.
    """
    config = run.config
    model = {
        "model": str(config.folder / "model"),
        "device": config.device,
        "trust_code": config.trust_code,
    }
    own = {"data": config.data, "images": {each.name: getattr(config.images, each.name) for each in fields(Reading)}}
    trees: dict[str, dict[str, Any]] = {
        "transfer": grid.transfer,
        "natural": {name: own | {"natural": [options["data"]]} for name, options in grid.natural.items()},
        "unseen": {name: own | {"degradation": {"preset": "clean"} | kind} for name, kind in grid.unseen.items()},
        # all students of a grid are judged beside one gallery
        "protocols": {
            name: ({"cache_dir": config.cache_dir} if options.get("gallery") else {}) | options
            for name, options in grid.protocols.items()
        },
    }
    for part, kind in JUDGEMENTS.items():
        for name, tree in trees[part].items():
            try:
                options = read(kind, model | tree)
                check(options)
            except CrossresError as error:
                raise CrossresError(f"{part}.{name}: {error}") from None
            yield part, name, options


def _over(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return options over others, group by group: what one group of them says leaves the rest of that group."""
    both = {**base, **more}
    for name in [name for name in base.keys() & more.keys() if isinstance(more[name], Mapping)]:
        if not isinstance(base[name], Mapping):
            raise CrossresError(f"{name}: expected its options as 'key: value', got {base[name]!r}")
        both[name] = _over(base[name], more[name])
    return both


def _leaves(tree: Mapping[str, Any], before: str = "") -> list[str]:
    """Return the full names of options: ``train.learning_rate``."""
    names = []
    for key, value in tree.items():
        names += _leaves(value, f"{before}{key}.") if isinstance(value, Mapping) else [f"{before}{key}"]
    return names


def _plain(name: str) -> str:
    """Return a name that is a file's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")
