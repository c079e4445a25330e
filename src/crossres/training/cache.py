"""`crossres cache`: a teacher's outputs before the first training, on this machine or over Ray."""

from contextlib import nullcontext
from functools import partial
from typing import Any

from crossres.config.experiment import Cache, FacesCache
from crossres.config.reading import from_config
from crossres.core.devices import resolve_device, sharing_cores
from crossres.core.errors import CrossresError
from crossres.core.files import holds_embeddings
from crossres.core.progress import Progress
from crossres.losses.options import needs_teacher
from crossres.training.cluster import on_cluster, over_ray
from crossres.training.prepare import cache_folder, prepare
from crossres.training.processes import ends_with_others, launched
from crossres.training.run import TASKS


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
    facts = over_ray(partial(_filled, quiet=quiet), config) if on_cluster(config) else _filled(config, quiet)
    return {"cache_dir": str(cache_folder(config)), "images": facts["images"]["train"]} if facts else {}


def _filled(config: Cache | FacesCache, quiet: bool) -> dict[str, Any]:
    """Fill the cache with the processes of this run; return the facts of what it was made of, in the first one."""
    device = resolve_device(config.device, config.precision, config.train.devices)
    with ends_with_others(lambda: "give the same command again"):
        fabric = launched(config, device)
        progress = Progress(quiet=quiet or fabric.global_rank > 0)
        try:
            with sharing_cores(progress.say) if device.torch.type == "cpu" else nullcontext():
                facts = prepare(config, TASKS[config.task](config), fabric, device, progress).facts
        finally:
            progress.close()
        fabric.barrier()
    return facts if fabric.global_rank == 0 else {}
