"""From a config to a finished run: read, check, build, train, judge, save."""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from crossres.config.check import named_code
from crossres.config.experiment import IN_MEMORY, Distill, Experiment, Faces, Teach
from crossres.config.reading import from_config
from crossres.config.record import sha256, to_yaml
from crossres.core.cores import keeping_freed_memory
from crossres.core.devices import Device, resolve_device, sharing_cores
from crossres.core.errors import CrossresError
from crossres.core.files import load_state, locked, read_json, write_atomically
from crossres.core.progress import Progress
from crossres.data.readers import demand_source
from crossres.models.encoder import Encoder
from crossres.training.classification import Classification
from crossres.training.cluster import on_cluster, over_ray
from crossres.training.faces import FaceTask
from crossres.training.loop import TrainingLoop
from crossres.training.networks import check_networks
from crossres.training.prepare import prepare
from crossres.training.processes import ends_with_others, launched, may_restart, together
from crossres.training.result import finish
from crossres.training.task import Task

#: what a network is trained for, by the name that a config gives it
TASKS: dict[str, type[Task]] = {"classification": Classification, "faces": FaceTask}


def train(
    config: Experiment,
    *,
    teacher: Encoder | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, evaluate and save a network; return what ``result.json`` holds.

    Args:
        config: a `Teach`, `Distill` or `Faces`; every option and type is checked first.
        teacher: for a distillation without one: a network in memory, such as ``crossres.wrap`` makes of
            your own module. It is copied and frozen. Hand it over again to resume.
        resume: go on from the last finished epoch of the run's folder; a finished run is returned as it is.
        overwrite: throw away what the run's folder holds.
        quiet: print nothing.

    Raises:
        CrossresError: bad input, in one line.
        KeyboardInterrupt: after Ctrl-C; the last finished epoch can be resumed.
    """
    config, given = from_config(_with_teacher(config, teacher)), teacher
    if may_restart():  # torchrun gives the same command again: the run goes on
        if overwrite:
            raise CrossresError("--overwrite would begin anew at each restart of torchrun; remove the folder instead")
        resume = resume or any((config.folder / name).exists() for name in ("state.pt", "result.json"))
    # a group first meets: another machine may see an older folder or lack the files
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        if resume and (config.folder / "result.json").exists():
            return _finished(config, quiet)
        teacher = _check_places(config, teacher, resume, overwrite)
    if on_cluster(config):
        how = {"teacher": given, "resume": resume, "overwrite": overwrite, "quiet": quiet}
        return _over_ray(config, how)
    task = TASKS[config.task](config)
    device = resolve_device(config.device, config.precision, config.train.devices)
    with _alone(config.folder) as begin, ends_with_others(lambda: _remedy(config)):
        return _train(config, task, device, begin, teacher, resume, overwrite, quiet)


def _over_ray(config: Experiment, how: dict[str, Any]) -> dict[str, Any]:
    try:
        return over_ray(partial(train, **how), config)
    except KeyboardInterrupt:
        Progress(quiet=how["quiet"]).say(f"stopped; {_remedy(config)}")
        raise


def _train(
    config: Experiment,
    task: Task,
    device: Device,
    begin: Callable[[], None],
    teacher: Encoder | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Do a run whose options are checked; ``begin`` keeps others out of its folder."""
    fabric = launched(config, device)
    progress = Progress(quiet=quiet or fabric.global_rank > 0)
    # else the processes of a restart read the addresses of the earlier ones (pytorch issue 135712)
    if may_restart() and os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1":
        progress.say("restarts may fail to connect: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun")
    line = "stopped before the first step; give the same command again"
    resume, state = fabric.broadcast(_begun(config, resume) if fabric.global_rank == 0 else (False, None))
    if state is None:
        fabric.barrier()
        return _finished(config, quiet) if fabric.global_rank == 0 else {}
    if fabric.world_size > 1:
        teacher = together(lambda: _check_places(config, teacher, resume, overwrite))
    threads = state.get("threads")
    if threads is not None and not (type(threads) is int and threads > 0):
        raise CrossresError("the state is damaged or of another version (threads); use --overwrite")
    on_cpu = device.torch.type == "cpu"
    with sharing_cores(progress.say, threads) if on_cpu else nullcontext():
        try:
            run = prepare(config, task, fabric, device, progress, teacher)
            progress.close()
            if fabric.global_rank == 0 and not resume:
                begin()
                _check_folder(config, resume, overwrite)  # another run may have begun and ended meanwhile
                _begin_folder(config, overwrite)
            fabric.barrier()
            line = f"stopped; go on with: {_how_to_resume(config)}"
            loop = TrainingLoop(run, fabric, progress)
            with keeping_freed_memory():
                if resume:
                    loop.load(state)
                loop.train(config.folder / "state.pt")
                result = finish(loop, device)
        except KeyboardInterrupt:
            progress.close()
            progress.say(line)
            raise
        finally:
            progress.close()
    progress.say(f"{config.folder}: {task.summary(result)}")
    fabric.barrier()
    return result if fabric.global_rank == 0 else {}


def teach(config: Teach, **how: Any) -> dict[str, Any]:
    """Train a network on high-resolution images; see `train`."""
    return train(_of_kind(config, Teach), **how)


def distill(config: Distill, **how: Any) -> dict[str, Any]:
    """Train a low-resolution student; see `train`."""
    return train(_of_kind(config, Distill), **how)


def distill_faces(config: Faces, **how: Any) -> dict[str, Any]:
    """Train a low-resolution face encoder; see `train`."""
    return train(_of_kind(config, Faces), **how)


def _of_kind(config: Any, kind: type[Experiment]) -> Any:
    if type(config) is not kind:
        raise CrossresError(f"config is {type(config).__name__}, expected crossres.{kind.__name__}")
    return config


def _with_teacher(config: Experiment, teacher: Encoder | None) -> Experiment:
    """Note in a config that its teacher is in memory; refuse two teachers, or none where a run had one."""
    if not isinstance(config, Experiment):
        raise CrossresError(f"config is {type(config).__name__}, expected crossres.Teach, Distill or Faces")
    if teacher is not None and not isinstance(teacher, Encoder):
        raise CrossresError(
            f"teacher is {type(teacher).__name__}, expected an Encoder, as crossres.load and crossres.wrap return"
        )
    named = config.distillation.teacher if config.distillation else None
    if teacher is None:
        if named == IN_MEMORY:
            how = _how_to_resume(config)
            raise CrossresError(f"{config.folder}: its teacher was passed in Python; resume with {how}")
        return config
    if config.distillation is None or named not in (None, IN_MEMORY):
        raise CrossresError("teacher= needs a Distill or Faces without config.teacher; give one teacher")
    return replace(config, teacher=IN_MEMORY)  # type: ignore[call-arg]


def _begun(config: Experiment, resume: bool) -> tuple[bool, dict[str, Any] | None]:
    """Return whether a run goes on, and from which state, {} for a new one; None: it is finished."""
    if resume and (config.folder / "result.json").exists():
        return True, None
    return resume, load_state(config.folder / "state.pt") if resume else {}


def _finished(config: Experiment, quiet: bool) -> dict[str, Any]:
    """Return the result of a finished run, which is the same experiment."""
    path = config.folder / "result.json"
    result = read_json(path)
    if result.get("config_sha256") != sha256(config):
        raise CrossresError(f"{config.folder} holds another finished experiment; use --overwrite or another --name")
    Progress(quiet=quiet).say(f"{config.folder} is finished; its numbers are in {path}")
    return result


def _check_places(config: Experiment, teacher: Encoder | None, resume: bool, overwrite: bool) -> Encoder | None:
    """Refuse names and folders that are not there, and then a folder that holds a run already; return the teacher."""
    if not resume:
        teacher = check_networks(config, teacher)
        demand_source(config.data)
    _check_folder(config, resume, overwrite)
    return teacher


def _check_folder(config: Experiment, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a run already, or an overwriting that deletes what the run reads."""
    folder = config.folder
    if not resume and not overwrite and any((folder / name).exists() for name in ("state.pt", "result.json")):
        raise CrossresError(f"{folder} holds a run already; use --resume, --overwrite or another --name")
    teacher = config.distillation.teacher if config.distillation else None
    read = {"teacher": teacher, "model.weights": config.model.weights}
    read["natural_labels"] = config.natural_labels if isinstance(config, Distill) else None
    for what, source in read.items():
        if overwrite and source and Path(source).resolve().is_relative_to(folder.resolve()):
            raise CrossresError(
                f"--overwrite would delete the {what} {source}, which the run needs; choose another --name"
            )


@contextmanager
def _alone(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep other processes out of a run's folder: at once if it exists, else from the call of what is yielded on.

    CrossresError while another one trains there.
    """
    busy = f"another process is training in {folder}; wait until it ends, or choose another --name"
    with ExitStack() as held:
        begin = cache(lambda: held.enter_context(locked(folder / ".lock", busy)))
        # the first of a run's processes holds the lock
        ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
        if folder.is_dir() and all((os.environ.get(name) or "0") == "0" for name in ranks):
            begin()
        yield begin


def _begin_folder(config: Experiment, overwrite: bool) -> None:
    """Delete what an earlier run of this name left, and write the config."""
    folder = config.folder
    for name in ("state.pt", "result.json", "metrics.jsonl"):
        if (folder / name).exists():  # RUNS may be a file: writing says so
            (folder / name).unlink()
    if overwrite:  # or the old model would pass for the new run's until that ends
        for inside in ("model", "tensorboard"):
            shutil.rmtree(folder / inside, ignore_errors=True)
    write_atomically(folder / "config.yaml", lambda file: file.write(to_yaml(config).encode()))


def _remedy(config: Experiment) -> str:
    begun = (config.folder / "state.pt").exists()
    return f"go on with: {_how_to_resume(config)}" if begun else "give the same command again"


def _how_to_resume(config: Experiment) -> str:
    if config.distillation and config.distillation.teacher == IN_MEMORY:
        return f"crossres.{'distill_faces' if config.faces else 'distill'}(config, teacher=..., resume=True)"
    if Path(config.runs).name == f"{config.name}.part":  # crossres adapt, which goes on by itself
        return "the same command"
    trust = " --trust_code" if named_code(config) else ""
    return f"{config.command} --resume {shlex.quote(str(config.folder))}{trust}"
