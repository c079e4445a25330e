"""A grid of distillations from one YAML: independent runs that are skipped when done and resumed when cut off."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from crossres import config as configs
from crossres.checkpoint import write_atomically, write_json
from crossres.config import Distill
from crossres.errors import CrossresError, nearest
from crossres.parsing import from_dict, of_run
from crossres.progress import Progress, clock

Engine = Literal["local", "ray"]


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
        name: of the grid; its runs are named after what they vary.
        methods: for each method's name its losses, as ``losses`` of an experiment.
        pairs: teachers and students.
        lr_sizes: sides of the LR images, or [smallest, largest].
        degradations: by name, the options of ``degradation``.
        seeds: of the training.
        base: what all runs share: options of `Distill`, nested as in its YAML.
        out: folder that gets a JSON file for each run; ``results/NAME`` if left out.
    """

    name: str
    methods: dict[str, dict[str, dict[str, Any]]]
    pairs: list[Pair]
    lr_sizes: list[int | list[int]] = field(default_factory=lambda: [8])
    degradations: dict[str, dict[str, Any]] = field(default_factory=lambda: {"clean": {}})
    seeds: list[int] = field(default_factory=lambda: [0])
    base: dict[str, Any] = field(default_factory=dict)
    out: str | None = None

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return Path(self.out or f"results/{self.name}")


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
    try:
        pairs = [Pair(**pair) for pair in tree.pop("pairs")]
        return Grid(pairs=pairs, **tree)
    except TypeError as error:
        raise CrossresError(f"{path}: pairs are a list of 'teacher: ..., student: ...' ({error})") from None


def experiments(grid: Grid, **overrides: Any) -> Iterator[Distill]:
    """Yield every run of a grid, checked, seeds outermost: an unfinished grid has complete rows of few seeds.

    Args:
        grid: what varies.
        overrides: options of `Distill` that count more than ``grid.base``, such as ``data`` and ``runs``.

    Raises:
        CrossresError: an experiment that cannot be, naming its run.
    """
    for seed in grid.seeds:
        for size in grid.lr_sizes:
            for pair in grid.pairs:
                for kind, degradation in grid.degradations.items():
                    for method, losses in grid.methods.items():
                        sides = [size] if isinstance(size, int) else size
                        lr = "-".join(f"{side}x{side}" for side in sides)
                        name = "-".join([pair.student, lr, *([kind] * (len(grid.degradations) > 1)), method])
                        tree: dict[str, Any] = {
                            **grid.base,
                            **{key: value for key, value in overrides.items() if value is not None},
                            "name": f"{name}-seed{seed}",
                            "lr_size": size,
                            "degradation": {**grid.base.get("degradation", {}), **degradation},
                            "model": {**grid.base.get("model", {}), "name": pair.student},
                            "train": {**grid.base.get("train", {}), "seed": seed},
                            "losses": losses,
                            "teacher": pair.teacher,
                        }
                        if set(losses) == {"ce"}:
                            del tree["teacher"]
                        try:
                            yield from_dict(Distill, tree)
                        except CrossresError as error:
                            raise CrossresError(f"{tree['name']}: {error}") from None


def bench(
    grid: Grid,
    *,
    engine: Engine = "local",
    parallel: int = 1,
    say: Callable[[str], None] | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Do what is missing of a grid; a run that fails is recorded and the others go on.

    Each run is a process of its own, ``crossres distill``. Its result is copied to ``grid.folder``; one that is
    there with the same options is skipped, an interrupted run is resumed, a failed one is tried again.

    Args:
        grid: the runs.
        engine: ``local`` runs them here, ``ray`` over the cluster that Ray is connected to.
        parallel: local runs side by side, each with an equal share of the cores and pinned to it.
        say: told a line for each run that ends; by default it is printed to stderr.
        overrides: see `experiments`.

    Returns:
        The documents of this grid's runs, results and errors (``{name, error}``), in the grid's order.
    """
    say = say or Progress().say
    wanted = list(experiments(grid, **overrides))
    todo = [config for config in wanted if not _is_done(grid.folder, config)]
    say(f"{grid.name}: {len(wanted)} runs, {len(wanted) - len(todo)} of them done")
    started = time.perf_counter()
    ends = (_over_ray if engine == "ray" else _side_by_side)(todo, parallel)
    for count, (config, document) in enumerate(ends, 1):
        write_json(grid.folder / f"{config.name}.json", document)
        left = (time.perf_counter() - started) / count * (len(todo) - count)
        ended = f"failed: {document['error']}" if "error" in document else f"top-1 {document['top1_last']:.2f} %"
        say(f"{count} of {len(todo)}  {config.name}  {ended}  {clock(left)} left")
    return [json.loads((grid.folder / f"{config.name}.json").read_text()) for config in wanted]


def _is_done(folder: Path, config: Distill) -> bool:
    try:
        document = json.loads((folder / f"{config.name}.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(document.get("config_sha256") == configs.sha256(config))


def _side_by_side(todo: list[Distill], parallel: int) -> Iterator[tuple[Distill, dict[str, Any]]]:
    """Yield the ends of the runs as they come."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    parallel = max(1, min(parallel, len(cores), len(todo)))
    jobs: queue.SimpleQueue[Distill] = queue.SimpleQueue()
    ends: queue.SimpleQueue[tuple[Distill, dict[str, Any]]] = queue.SimpleQueue()
    for config in todo:
        jobs.put(config)

    def work(share: list[int]) -> None:
        while True:
            try:
                config = jobs.get_nowait()
            except queue.Empty:
                return
            ends.put((config, _one(config, share if parallel > 1 else None)))

    for number in range(parallel):
        threading.Thread(target=work, args=(cores[number::parallel],), daemon=True).start()
    for _ in todo:
        yield ends.get()


def _over_ray(todo: list[Distill], parallel: int) -> Iterator[tuple[Distill, dict[str, Any]]]:  # noqa: ARG001
    try:
        import ray
    except ImportError:
        raise CrossresError("engine ray needs Ray: pip install 'crossres[ray]'") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(_one)
    running = {remote.remote(config, None): config for config in todo}
    while running:
        (done, *_), _ = ray.wait(list(running))
        yield running.pop(done), ray.get(done)


def _one(config: Distill, cores: list[int] | None) -> dict[str, Any]:
    """Do one run in a process of its own; return its result, or ``{name, error}``."""
    folder = config.folder
    started = (folder / "state.pt").exists() and _same(folder, config)
    asked = folder / "asked.yaml"
    write_atomically(asked, lambda file: file.write(configs.to_yaml(config).encode()))
    words = ["--resume", str(folder)] if started else ["--config", str(asked), "--overwrite"]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(len(cores))} if cores else {})}
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "crossres.cli", "distill", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, cores)
        code = process.wait()
    if code:
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        said = lines[-1] if lines else "it said nothing"
        return {"name": config.name, "error": f"exit code {code}: {said}"}
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _same(folder: Path, config: Distill) -> bool:
    try:
        return configs.sha256(of_run(Distill, folder)) == configs.sha256(config)
    except CrossresError:
        return False
