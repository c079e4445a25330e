"""From a config to a finished run: read, check, build, train, judge, save."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossres.config import options as configs
from crossres.config.options import IN_MEMORY, Distill, Faces, Teach
from crossres.config.reading import from_dict
from crossres.core.devices import resolve_device
from crossres.core.errors import CrossresError
from crossres.core.files import load_state, write_atomically
from crossres.core.progress import Progress
from crossres.models.encoder import Encoder
from crossres.training.classification import Classification
from crossres.training.faces import FaceTask
from crossres.training.loop import Fit
from crossres.training.prepare import prepare
from crossres.training.processes import fabric_of
from crossres.training.result import finish


def run(
    config: Teach,
    *,
    teacher: Encoder | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, evaluate and save a network; return what ``result.json`` holds.

    Args:
        config: a :class:`Teach` or a :class:`Distill`; every key and type is checked first.
        teacher: for a :class:`Distill` without one: a network in memory, such as ``crossres.wrap`` makes of
            your own module. It is copied and frozen. Hand it over again to resume.
        resume: go on from the last finished epoch of the run's folder; a finished run is returned as it is.
        overwrite: throw away what the run's folder holds.
        quiet: print nothing.

    Raises:
        CrossresError: bad input, in one line.
        KeyboardInterrupt: after Ctrl-C; the last finished epoch can be resumed.
    """
    if not isinstance(config, Teach):
        raise CrossresError(f"config is {type(config).__name__}, expected crossres.Teach or crossres.Distill")
    if teacher is not None and not isinstance(teacher, Encoder):
        raise CrossresError(
            f"teacher is {type(teacher).__name__}, expected an Encoder, as crossres.load and crossres.wrap return"
        )
    if teacher is not None:
        if not isinstance(config, Distill) or config.teacher not in (None, IN_MEMORY):
            raise CrossresError("a teacher in memory goes with a Distill whose config names no teacher")
        config = replace(config, teacher=IN_MEMORY)
    elif isinstance(config, Distill) and config.teacher == IN_MEMORY:
        raise CrossresError(f"{config.folder} has its teacher from Python: go on there, with teacher=...")
    config = from_dict(type(config), configs.to_dict(config))
    folder = config.folder
    state_path = folder / "state.pt"
    done = folder / "result.json"
    if resume and done.exists():
        found = dict(json.loads(done.read_text()))
        if found.get("config_sha256") != configs.sha256(config):
            raise CrossresError(f"{folder} holds another finished experiment; use --overwrite or another --name")
        Progress(quiet=quiet).say(f"{folder} is finished; its numbers are in {done}")
        return found
    if not resume and not overwrite and (state_path.exists() or done.exists()):
        raise CrossresError(f"{folder} holds a run already; use --resume, --overwrite or another --name")
    sources = {
        "teacher": config.teacher if isinstance(config, Distill) else None,
        "model.weights": config.model.weights,
    }
    for what, source in sources.items():
        if overwrite and source and Path(source).resolve().is_relative_to(folder.resolve()):
            raise CrossresError(
                f"--overwrite would delete the {what} {source}, which the run needs; choose another --name"
            )
    task = FaceTask(config) if isinstance(config, Faces) else Classification()
    device = resolve_device(config.train)
    fabric = fabric_of(config, device)
    fabric.launch()
    progress = Progress(quiet=quiet or fabric.global_rank > 0)

    try:
        experiment = prepare(config, task, fabric, device, progress, teacher)
    except KeyboardInterrupt:
        progress.close()
        progress.say("stopped before the first step; give the same command again")
        raise
    finally:
        progress.close()
    if fabric.global_rank == 0 and not resume:
        for old in (state_path, done, folder / "metrics.jsonl"):
            if old.exists():
                old.unlink()
        if overwrite:  # or the old model would pass for the new run's until that ends
            for inside in ("model", "tensorboard"):
                shutil.rmtree(folder / inside, ignore_errors=True)
        write_atomically(folder / "config.yaml", lambda f: f.write(configs.to_yaml(config).encode()))
    fabric.barrier()
    try:
        fit = Fit(experiment, fabric, progress)
        if resume:
            fit.load(load_state(state_path))
        fit.train(state_path)
        if fabric.global_rank > 0:
            fabric.barrier()
            return {}
        result = finish(
            config, task, experiment.student, fit.history(), experiment.test, experiment.val, device, experiment.facts
        )
    except KeyboardInterrupt:
        progress.close()
        progress.say(f"stopped; go on with: {_how_to_resume(config)}")
        raise
    finally:
        progress.close()
    progress.say(f"{folder}: {task.said(result)}")
    fabric.barrier()
    return result


def teach(config: Teach, **how: Any) -> dict[str, Any]:
    """Train a network on high-resolution images; see :func:`run`."""
    if isinstance(config, Distill):
        raise CrossresError("teach takes a Teach; for a Distill call crossres.distill")
    return run(config, **how)


def distill(config: Distill, **how: Any) -> dict[str, Any]:
    """Train a low-resolution student; see :func:`run`."""
    if not isinstance(config, Distill):
        raise CrossresError("distill takes a Distill; for a Teach call crossres.teach")
    return run(config, **how)


def _how_to_resume(config: Teach) -> str:
    if isinstance(config, Distill) and config.teacher == IN_MEMORY:
        return "crossres.distill(config, teacher=..., resume=True)"
    return f"{config.command} --resume {shlex.quote(str(config.folder))}"
