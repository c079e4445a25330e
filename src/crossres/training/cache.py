"""`crossres cache`: a teacher's outputs before the first training, on this machine or over Ray."""

import atexit
import os
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from crossres.config.experiment import Cache, FacesCache
from crossres.config.reading import from_config
from crossres.core.devices import resolve_device, sharing_cores
from crossres.core.errors import CrossresError, needs, one_line
from crossres.core.files import holds_embeddings
from crossres.core.progress import Progress
from crossres.losses.options import needs_teacher
from crossres.training.prepare import cache_folder, prepare
from crossres.training.run import TASKS, fabric_of, leave_group


def fill_cache(config: Cache | FacesCache, *, quiet: bool = False) -> dict[str, Any]:
    """Compute the teacher's outputs that a training with the same options reads; what is there is left as it is.

    All processes of the run (``train.devices``, torchrun) share the work; with the ``engine`` ray all machines of the
    cluster do, which see the same folders.

    Returns:
        ``{cache_dir, images}``; empty in all processes of a run but the first.

    Raises:
        CrossresError: bad input, options of which no training reads a cache, or machines that see other files.
    """
    config = from_config(config)
    if config.teacher is None or not config.teacher_cache or not any(map(needs_teacher, config.terms)):
        raise CrossresError("no training with these options reads a cache: give --teacher, and losses that read it")
    if holds_embeddings(config.teacher):
        raise CrossresError(f"{config.teacher} holds embeddings already; train with it")
    facts = _over_ray(config) if config.engine == "ray" else _filled(config, quiet)
    return {"cache_dir": str(cache_folder(config)), "images": facts["images"]["train"]} if facts else {}


def _filled(config: Cache | FacesCache, quiet: bool) -> dict[str, Any]:
    """Fill the cache with the processes of this run; return the facts of what it was made of, in the first one."""
    device = resolve_device(config.device, config.precision, config.train.devices)
    fabric = fabric_of(config, device)
    fabric.launch()
    if device.world_size > 1:
        atexit.unregister(leave_group)
        atexit.register(leave_group)
    progress = Progress(quiet=quiet or fabric.global_rank > 0)
    try:
        with sharing_cores(progress.say) if device.torch.type == "cpu" else nullcontext():
            facts = prepare(config, TASKS[config.task](config), fabric, device, progress).facts
    finally:
        progress.close()
    fabric.barrier()
    return facts if fabric.global_rank == 0 else {}


def _over_ray(config: Cache | FacesCache) -> dict[str, Any]:
    """Fill the cache with a worker for each GPU of a cluster, or for each machine where there is none."""
    with needs("engine ray", "ray"):
        import ray
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    machines = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    gpus = 0 if config.device == "cpu" else int(sum(each.get("GPU", 0) for each in machines))
    cores = int(min(each["CPU"] for each in machines))
    how: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": cores, "scheduling_strategy": "SPREAD"}
    worker = ray.remote(**how)(_filled_in)
    try:
        facts = ray.get([worker.remote(os.getcwd(), config) for _ in range(gpus or len(machines))])
    except Exception as error:  # Ray has a class of its own for each error of a worker
        raise CrossresError(one_line(getattr(error, "cause", None) or error, 600)) from None
    read = [(each["data_sha256"]["train"], each["teacher"]["sha256"]) for each in facts]
    if len(set(read)) > 1:
        raise CrossresError("the machines of the cluster see other images or another teacher under the same names")
    first: dict[str, Any] = facts[0]
    return first


def _filled_in(folder: str, config: Cache | FacesCache) -> dict[str, Any]:
    """Fill the cache where paths mean what they mean here; a worker of Ray starts in a folder of its own."""
    os.chdir(folder)
    return _filled(replace(config, engine="local"), quiet=True)
