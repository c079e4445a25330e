"""How the runs of a grid are carried out: side by side on this machine, or over a Ray cluster."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from crossres.bench.grid import Grid, GridRun, judgements_of
from crossres.config.experiment import Experiment
from crossres.config.reading import of_run
from crossres.config.record import sha256, to_yaml
from crossres.core.cores import usable_cores
from crossres.core.errors import CrossresError, needs, one_line
from crossres.core.files import SAFE, read_json, write_atomically
from crossres.core.progress import Overview

#: Runs as they end, each with its result or ``{name, error}``.
Ends = Iterator[tuple[GridRun, dict[str, Any]]]
#: What a result keeps of a judgement; all of the others.
KEPT = {"unseen": ("degradation", "top1", "top5", "curve")}
#: Seconds between two looks at the runs' logs.
LOOK_EVERY = 2.0


def side_by_side(grid: Grid, runs: list[GridRun], parallel: int, overview: Overview) -> Ends:
    """Do runs on this machine, ``parallel`` at a time, each with its own share of the cores."""
    cores = usable_cores()
    parallel = max(1, min(parallel, len(cores), len(runs)))
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for number in range(parallel):
        shares.put(cores[number::parallel])
    processes: list[subprocess.Popen[bytes]] = []

    def work(run: GridRun) -> dict[str, Any]:
        share = shares.get()
        overview.begins(run.config.name, run.config.folder / "log.txt")
        try:
            return _carry_out(grid, run, share if parallel > 1 else None, processes)
        finally:
            shares.put(share)

    pool = ThreadPoolExecutor(parallel)
    running: dict[Any, GridRun] = {pool.submit(work, run): run for run in runs}
    try:
        yield from _ends(running, partial(wait, return_when=FIRST_COMPLETED), Future.result, overview)
    finally:
        # Ctrl-C: the runs end with their epoch and can be gone on with
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def over_ray(grid: Grid, runs: list[GridRun], parallel: int, overview: Overview) -> Ends:
    """Do runs on the cluster that Ray is connected to, ``parallel`` to a GPU."""
    with needs("engine ray", "ray"):
        import ray
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    on_gpu = resources.get("GPU", 0) and all(run.config.device != "cpu" for run in runs)
    remote = ray.remote(num_cpus=1, num_gpus=1 / max(1, parallel) if on_gpu else 0)(_carry_out_in)
    running = {remote.remote(os.getcwd(), grid, run): run for run in runs}
    for run in runs:
        overview.begins(run.config.name, run.config.folder / "log.txt")
    yield from _ends(running, ray.wait, ray.get, overview)


def _ends(
    running: dict[Any, GridRun], wait: Callable[..., Any], result: Callable[[Any], dict[str, Any]], overview: Overview
) -> Ends:
    while running:
        done, _ = wait(list(running), timeout=LOOK_EVERY)
        overview.look()
        for future in done:
            run = running.pop(future)
            try:
                document = result(future)
            except Exception as error:  # such as a machine that went away, or a full disk: one run's end
                document = {"name": run.config.name, "error": one_line(error)[-300:]}
            yield run, document


def _carry_out_in(folder: str, grid: Grid, run: GridRun) -> dict[str, Any]:
    """Do a run where paths mean what they mean here; a worker of Ray starts in a folder of its own."""
    os.chdir(folder)
    return _carry_out(grid, run, None, [])


def _carry_out(
    grid: Grid, run: GridRun, cores: list[int] | None, processes: list[subprocess.Popen[bytes]]
) -> dict[str, Any]:
    """Do a run and its judgements, each command a process of its own; return the result, or ``{name, error}``."""
    command = partial(_command, run.config.folder, cores, processes)
    where = ""
    try:
        _train(run.config, command)
        document: dict[str, Any] = read_json(run.config.folder / "result.json")
        for part, name, options in judgements_of(grid, run):
            where = f"{part}.{name}: "
            judged = json.loads(command(options, "--json"))
            if part == "natural":
                judged = judged["discrepancy"][1]  # after the images as trained
            if part in KEPT:
                judged = {key: judged[key] for key in KEPT[part]}
            document.setdefault(part, {})[name] = judged
    except CrossresError as error:
        return {"name": run.config.name, "error": f"{where}{error}"}
    return document


def _train(config: Experiment, command: Callable[..., str]) -> None:
    """Train, or go on where an earlier bench stopped."""
    folder = config.folder
    try:
        same = sha256(of_run(type(config), folder)) == sha256(config)
    except CrossresError:
        same = False
    if same and (folder / "result.json").exists():
        return
    if same and (folder / "state.pt").exists():
        try:
            command(config, "--resume", str(folder))
            return
        except CrossresError as error:
            # what it depends on may have changed since: then it begins anew; one that diverged does not
            if "use --overwrite" not in str(error):
                raise
    command(config, "--overwrite")


def _command(
    folder: Path, cores: list[int] | None, processes: list[subprocess.Popen[bytes]], options: Any, *switches: str
) -> str:
    """Run a command of crossres, with its options in the folder, in a process of its own; return its stdout."""
    path, log = folder / "options.yaml", folder / "log.txt"
    write_atomically(path, lambda file: file.write(to_yaml(options).encode()))
    given = [] if "--resume" in switches else ["--config", str(path)]
    if options.trust_code:
        given += ["--trust_code", "true"]
    environment = {**os.environ, "CROSSRES_PARENT": str(os.getpid())}
    if cores:
        environment["OMP_NUM_THREADS"] = str(len(cores))
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *SAFE, "-m", "crossres.commands.main", *options.command.split()[1:], *given, *switches],
            stdout=subprocess.PIPE,
            stderr=file,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        processes.append(process)
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, cores)
        output, _ = process.communicate()
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise CrossresError(f"exit code {process.returncode}: {lines[-1] if lines else 'nothing in its log'}")
    return output.decode()
