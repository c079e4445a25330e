"""Do a grid of distillations: independent runs that are skipped when done and resumed when cut off."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from crossres import config as configs
from crossres.checkpoint import write_atomically, write_json
from crossres.comparison import FORMATS, LEGEND, Row, compare, sentence
from crossres.config import Distill
from crossres.errors import CrossresError
from crossres.grid import Grid, Run, runs_of
from crossres.parsing import from_dict, of_run
from crossres.progress import Overview
from crossres.tables import read_results

Engine = Literal["local", "ray"]
Document = dict[str, Any]

#: Seconds between two looks at the runs' logs.
LOOK_EVERY = 2.0


def bench(
    grid: Grid,
    *,
    engine: Engine = "local",
    parallel: int = 1,
    say: Callable[[str], None] | None = None,
    **overrides: Any,
) -> list[Document]:
    """Do what is missing of a grid; a run that fails is recorded and the others go on.

    Each run is a process of its own, ``crossres distill``, then ``crossres transfer`` and ``evaluate`` where the grid
    asks for them. Its result is copied to ``grid.folder``; one that is there with the same options is skipped, an
    interrupted run is resumed, a failed one is tried again. Under Ray the folders must be shared by all machines.

    Args:
        grid: the runs.
        engine: ``local`` runs them here, ``ray`` over the cluster that Ray is connected to.
        parallel: local runs side by side, each with an equal share of the cores and pinned to it.
        say: told a line for each run that ends; by default it is printed to stderr under a live overview.
        overrides: see `runs_of`.

    Returns:
        The documents of this grid's runs, results and errors (``{name, error}``), in the grid's order.

    Raises:
        CrossresError: a grid that cannot be, or no Ray.
    """
    wanted = list(runs_of(grid, **overrides))
    found = {run.config.name: _done(grid, run) for run in wanted}
    todo = [run for run in wanted if found[run.config.name] is None]
    overview = Overview(len(todo), silent=say is not None)
    say = say or overview.say
    say(f"{grid.name}: {len(wanted)} runs, {len(wanted) - len(todo)} of them done")
    ends = (_over_ray if engine == "ray" else _side_by_side)(grid, todo, parallel, overview)
    with overview:
        for run, document in ends:
            document["grid"] = run.place
            found[run.config.name] = document
            write_json(grid.folder / f"{run.config.name}.json", document)
            said = f"failed: {document['error']}" if "error" in document else f"top-1 {document['top1_last']:.2f} %"
            say(overview.ended(run.config.name, said))
    return [{**(found[run.config.name] or {}), "grid": run.place} for run in wanted]


def summarise(grid: Grid, costs: Mapping[tuple[str, int, str], float] | None = None) -> list[Row]:
    """Write ``comparison.md``, ``.tex``, ``.csv``, what they say in words and the figures into ``grid.folder``.

    Every result in that folder counts, so grids that write into one folder are one comparison.

    Args:
        grid: whose results are there.
        costs: as for `compare`.

    Returns:
        The rows of the comparison.
    """
    from crossres.evaluate.figures import draw_comparison

    rows = compare(read_results(grid.folder), grid.baseline, costs)
    for ending, render in FORMATS.items():
        _write(grid.folder / f"comparison.{ending}", render(rows, grid.baseline))
    words = [sentence(row, grid.baseline) for row in rows if row.method != grid.baseline]
    _write(grid.folder / "comparison.txt", "\n".join([LEGEND.format(baseline=grid.baseline), *words]))
    draw_comparison(rows, grid.baseline, grid.folder)
    return rows


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(f"{text.rstrip()}\n".encode()))


def _done(grid: Grid, run: Run) -> Document | None:
    """Return the result that is there with the same options; an option it did not know yet had its default."""
    try:
        document: Document = json.loads((grid.folder / f"{run.config.name}.json").read_text())
        known = configs.sha256(from_dict(Distill, document["config"]))
    except (OSError, ValueError, KeyError, CrossresError):
        return None
    lacking = any(
        name not in document.get(part, {}) for part in ("transfer", "unseen") for name in getattr(grid, part)
    )
    return document if known == configs.sha256(run.config) and not lacking else None


def _side_by_side(grid: Grid, todo: list[Run], parallel: int, overview: Overview) -> Iterator[tuple[Run, Document]]:
    """Yield the ends of the runs as they come."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    parallel = max(1, min(parallel, len(cores), len(todo)))
    jobs: queue.SimpleQueue[Run] = queue.SimpleQueue()
    ends: queue.SimpleQueue[tuple[Run, Document]] = queue.SimpleQueue()
    processes: list[subprocess.Popen[bytes]] = []
    for run in todo:
        jobs.put(run)

    def work(share: list[int]) -> None:
        while True:
            try:
                run = jobs.get_nowait()
            except queue.Empty:
                return
            overview.begins(run.config.name, run.config.folder / "log.txt")
            ends.put((run, _one(grid, run, share if parallel > 1 else None, processes)))

    for number in range(parallel):
        threading.Thread(target=work, args=(cores[number::parallel],), daemon=True).start()
    left = len(todo)
    try:
        while left:
            try:
                yield ends.get(timeout=LOOK_EVERY)
            except queue.Empty:
                overview.look()
                continue
            left -= 1
    finally:
        # Ctrl-C: the runs end with their epoch and can be gone on with
        while not jobs.empty():
            jobs.get()
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


def _over_ray(grid: Grid, todo: list[Run], parallel: int, overview: Overview) -> Iterator[tuple[Run, Document]]:  # noqa: ARG001
    try:
        import ray
    except ImportError:
        raise CrossresError("engine ray needs Ray: pip install 'crossres[ray]'") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(_one)
    # a worker starts in a folder of its own
    given = {name: {**options, "data": _absolute(options["data"])} for name, options in grid.transfer.items()}
    grid = replace(grid, transfer=given)
    running = {}
    for run in todo:
        there = deepcopy(run.config)
        there.data, there.runs = _absolute(there.data), str(Path(there.runs).resolve())
        there.teacher = _absolute(there.teacher) if there.teacher else None
        running[remote.remote(grid, replace(run, config=there), None)] = run
        overview.begins(run.config.name, run.config.folder / "log.txt")
    while running:
        done, _ = ray.wait(list(running), timeout=LOOK_EVERY)
        overview.look()
        for reference in done:
            yield running.pop(reference), ray.get(reference)


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path


def _one(
    grid: Grid, run: Run, cores: list[int] | None, processes: list[subprocess.Popen[bytes]] | None = None
) -> Document:
    """Do one run, each command a process of its own; return its result, or ``{name, error}``."""
    config = run.config
    folder = config.folder
    log = folder / "log.txt"
    running = processes if processes is not None else []
    if not (folder / "result.json").exists() or not _same(folder, config):
        asked = folder / "asked.yaml"
        write_atomically(asked, lambda file: file.write(configs.to_yaml(config).encode()))
        started = (folder / "state.pt").exists() and _same(folder, config)
        words = ["--resume", str(folder)] if started else ["--config", str(asked), "--overwrite"]
        _, failed = _call(["distill", *words], log, cores, running)
        if failed:
            return {"name": config.name, "error": failed}
    document: Document = json.loads((folder / "result.json").read_text())
    model = str(folder / "model")
    for name, options in grid.transfer.items():
        given = [word for key, value in options.items() if key != "data" for word in (f"--{key}", str(value))]
        words = ["transfer", model, options["data"], *given, "--device", config.train.device, "--json"]
        said, failed = _call(words, log, cores, running)
        if failed:
            return {"name": config.name, "error": f"transfer to {name}: {failed}"}
        document.setdefault("transfer", {})[name] = json.loads(said)
    for name, degradation in grid.unseen.items():
        words = ["evaluate", model, config.data, "--degradation", degradation, *_reading(config), "--json"]
        said, failed = _call(words, log, cores, running)
        if failed:
            return {"name": config.name, "error": f"under {name}: {failed}"}
        judged = json.loads(said)
        document.setdefault("unseen", {})[name] = {
            key: judged[key] for key in ("degradation", "top1", "top5", "curve")
        }
    return document


def _reading(config: Distill) -> list[str]:
    """Return how the run's own data are read, as options of ``crossres evaluate``."""
    images = config.images
    values = {
        "image_column": images.image_column,
        "label_column": images.label_column,
        "classes": ",".join(images.classes) if images.classes else None,
        "corrupt": images.corrupt,
        "root": images.root,
        "memory_mb": images.memory_mb,
        "device": config.train.device,
    }
    return [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]


def _call(
    words: list[str], log: Path, cores: list[int] | None, processes: list[subprocess.Popen[bytes]]
) -> tuple[str, str | None]:
    """Run a command of crossres; return its stdout and, where it failed, why."""
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(len(cores))} if cores else {})}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "crossres.cli", *words],
            stdout=subprocess.PIPE,
            stderr=file,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        processes.append(process)
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, cores)
        said, _ = process.communicate()
    if not process.returncode:
        return said.decode(), None
    lines = log.read_text(errors="replace").splitlines()
    return "", f"exit code {process.returncode}: {lines[-1] if lines else 'it said nothing'}"


def _same(folder: Path, config: Distill) -> bool:
    try:
        return configs.sha256(of_run(Distill, folder)) == configs.sha256(config)
    except CrossresError:
        return False
