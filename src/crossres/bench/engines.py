"""How the runs of a grid are carried out: side by side on this machine, or over a Ray cluster."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossres.bench.grid import FILES, Grid, Run
from crossres.commands.evaluate import transfer_words
from crossres.commands.evaluate_faces import protocol_words
from crossres.config import options as configs
from crossres.config.options import Distill
from crossres.config.reading import of_run
from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.core.progress import Overview
from crossres.models.encoder import ONNX

#: A result, or ``{name, error}``.
Document = dict[str, Any]

#: Seconds between two looks at the runs' logs.
LOOK_EVERY = 2.0


def side_by_side(grid: Grid, todo: list[Run], parallel: int, overview: Overview) -> Iterator[tuple[Run, Document]]:
    """Yield the ends of the runs as they come, ``parallel`` at a time, each with its own share of the cores."""
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
            try:
                document = _one(grid, run, share if parallel > 1 else None, processes)
            except Exception as error:  # such as a full disk: one run's end, not the grid's
                document = _failure(run, error)
            ends.put((run, document))

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
        with suppress(queue.Empty):
            while True:
                jobs.get_nowait()
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


def over_ray(grid: Grid, todo: list[Run], parallel: int, overview: Overview) -> Iterator[tuple[Run, Document]]:
    """Yield the ends of the runs as they come from the cluster that Ray is connected to."""
    try:
        import ray
    except ImportError:
        raise CrossresError("engine ray needs Ray: pip install 'crossres[ray]'") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    # a worker starts in a folder of its own
    grid = replace(grid, transfer=_at_home(grid.transfer), protocols=_at_home(grid.protocols))
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    on_gpu = resources.get("GPU", 0) and all(run.config.train.device != "cpu" for run in todo)
    remote = ray.remote(num_cpus=1, num_gpus=1 / max(1, parallel) if on_gpu else 0)(_one)
    running = {}
    for run in todo:
        there = deepcopy(run.config)
        for place, names in ((there, configs.PATHS), (there.model, ("weights",)), (there.images, ("root",))):
            for name in names:
                if path := getattr(place, name, None):
                    made_by_run = name in ("runs", "cache_dir")
                    setattr(place, name, str(Path(path).resolve()) if made_by_run else _absolute(path))
        if there.model.name.startswith(ONNX):
            there.model.name = ONNX + _absolute(there.model.name.removeprefix(ONNX))
        running[remote.remote(grid, replace(run, config=there), None)] = run
        overview.begins(run.config.name, run.config.folder / "log.txt")
    while running:
        done, _ = ray.wait(list(running), timeout=LOOK_EVERY)
        overview.look()
        for reference in done:
            run = running.pop(reference)
            try:
                document = ray.get(reference)
            except Exception as error:  # such as a machine that went away
                document = _failure(run, error)
            yield run, document


def _failure(run: Run, error: Exception) -> Document:
    said = " ".join(str(error).split()) or type(error).__name__
    return {"name": run.config.name, "error": said[-300:]}


def _at_home(judgements: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return options whose paths are absolute."""
    return {
        name: {key: _absolute(value) if key in FILES else value for key, value in options.items()}
        for name, options in judgements.items()
    }


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
        failed: str | None = ""
        command = config.command.split()[1:]
        if (folder / "state.pt").exists() and _same(folder, config):
            _, failed = _call([*command, "--resume", str(folder)], log, cores, running)
        # what it depends on may have changed since: then it cannot go on and begins anew; one that diverged does not
        if failed == "" or (failed and "use --overwrite" in failed):
            _, failed = _call([*command, "--config", str(asked), "--overwrite"], log, cores, running)
        if failed:
            return {"name": config.name, "error": failed}
    document: Document = json.loads((folder / "result.json").read_text())
    model = str(folder / "model")
    for name, options in grid.transfer.items():
        words = [*transfer_words(model, options), "--device", config.train.device, "--json", *_trusted(config)]
        said, failed = _call(["transfer", *words], log, cores, running)
        if failed:
            return {"name": config.name, "error": f"transfer to {name}: {failed}"}
        document.setdefault("transfer", {})[name] = json.loads(said)
    for name, options in grid.protocols.items():
        words = [*protocol_words(model, options), "--device", config.train.device, "--json", *_trusted(config)]
        # all students of a grid are judged beside one gallery
        words += ["--cache_dir", config.cache_dir] if options.get("gallery") and config.cache_dir else []
        said, failed = _call(["faces", "evaluate", *words], log, cores, running)
        if failed:
            return {"name": config.name, "error": f"protocol {name}: {failed}"}
        document.setdefault("protocols", {})[name] = json.loads(said)
    for name, degradation in grid.unseen.items():
        words = [
            "evaluate",
            model,
            config.data,
            "--degradation",
            degradation,
            *_reading(config),
            *_trusted(config),
            "--json",
        ]
        said, failed = _call(words, log, cores, running)
        if failed:
            return {"name": config.name, "error": f"under {name}: {failed}"}
        judged = json.loads(said)
        document.setdefault("unseen", {})[name] = {
            key: judged[key] for key in ("degradation", "top1", "top5", "curve")
        }
    return document


def _trusted(config: Distill) -> list[str]:
    # the grid's own network, not a stranger's
    return ["--trust_code"] if ":" in config.model.name and not config.model.name.startswith("timm:") else []


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
            [sys.executable, "-m", "crossres.commands.main", *words],
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
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "", f"exit code {process.returncode}: {lines[-1] if lines else 'it said nothing'}"


def _same(folder: Path, config: Distill) -> bool:
    try:
        return configs.sha256(of_run(type(config), folder)) == configs.sha256(config)
    except CrossresError:
        return False
