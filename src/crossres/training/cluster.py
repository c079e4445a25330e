"""A run over a Ray cluster: one group of processes, as torchrun would start it on every machine."""

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from crossres.config.experiment import Experiment
from crossres.core.errors import CrossresError, needs, one_line
from crossres.training.processes import LostProcess

Config = TypeVar("Config", bound=Experiment)
#: Seconds in which the other processes may say what they know, once one has failed.
PATIENCE = 10.0
#: Seconds within which all processes have to begin.
START = 300.0


def on_cluster(config: Experiment) -> bool:
    """Whether a run has to be handed to the cluster: it asks for one, and this is none of its processes."""
    return config.engine == "ray" and "RANK" not in os.environ


def over_ray(work: Callable[[Config], dict[str, Any]], config: Config) -> dict[str, Any]:
    """Do ``work(config)`` in a process for each GPU of a cluster, or ``train.devices`` on each machine without.

    Where some machines have GPUs, those without take no part.

    Returns:
        What the first process returned.

    Raises:
        CrossresError: machines with different numbers of GPUs, a cluster that is busy, or what one of the processes
            raised.
    """
    with needs("engine ray", "ray"):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=True)
    machines, gpus = _machines(ray.nodes(), config)  # type: ignore[no-untyped-call]
    each, cores = gpus or config.train.devices, int(min(node["Resources"]["CPU"] for node in machines))
    if each > cores:
        raise CrossresError(f"{each} processes on each machine of the cluster: one has {cores} cores for Ray")
    world = each * len(machines)
    # all processes of a machine see all of its GPUs, and take that of their local number
    how: dict[str, Any] = {"runtime_env": {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}}
    how |= {"num_gpus": int(gpus > 0), "num_cpus": cores // each}
    processes: list[Any] = []
    for node in machines:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        processes += [ray.remote(_Process).options(scheduling_strategy=place, **how).remote() for _ in range(each)]
    try:
        ports = _all_of([process.port.remote() for process in processes], START)
        address = {"MASTER_ADDR": machines[0]["NodeManagerAddress"], "MASTER_PORT": ports[0]}
        ends = []
        for rank, process in enumerate(processes):
            numbers = {"RANK": rank, "LOCAL_RANK": rank % each, "NODE_RANK": rank // each}
            group = {**address, **numbers, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": each}
            ends.append(
                process.run.remote(os.getcwd(), {name: str(value) for name, value in group.items()}, work, config)
            )
        first: dict[str, Any] = _all_of(ends)[0]
        return first
    finally:
        for process in processes:
            ray.kill(process)


def _machines(nodes: list[dict[str, Any]], config: Experiment) -> tuple[list[dict[str, Any]], int]:
    """Return the machines that take part, and how many GPUs of each do."""
    machines = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    if not machines:
        raise CrossresError("no machine of the cluster has a core for Ray; start one with ray start")
    counts = [0 if config.device == "cpu" else int(node["Resources"].get("GPU", 0)) for node in machines]
    some = sorted({count for count in counts if count})
    if len(some) > 1:
        raise CrossresError(f"the machines of the cluster have from {some[0]} to {some[-1]} GPUs; use equal ones")
    gpus = max(counts)
    # often the head has none
    return [node for node, count in zip(machines, counts, strict=True) if count == gpus], gpus


def _all_of(calls: list[Any], timeout: float | None = None) -> list[Any]:
    """Return what each process returns, once all have; raise the error that ended the run."""
    import ray

    try:
        results: list[Any] = ray.get(calls, timeout=timeout)
        return results
    except ray.exceptions.GetTimeoutError:
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        free, whole = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
        kinds = [f"{free.get(kind, 0):g} of {whole[kind]:g} {kind}s" for kind in ("CPU", "GPU") if kind in whole]
        raise CrossresError(
            f"{len(ready)} of {len(calls)} processes began within {timeout:g} s; free in the cluster: "
            f"{', '.join(kinds)}; wait until its other jobs end"
        ) from None
    except ray.exceptions.RayError:
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
    causes: list[Exception] = []
    for call in done:
        try:
            ray.get(call)
        except ray.exceptions.RayError as error:  # one of a process holds what that raised
            causes.append(getattr(error, "cause", None) or error)
    own = [cause for cause in causes if isinstance(cause, CrossresError)]
    reasons = [cause for cause in own if not isinstance(cause, LostProcess)]
    # of a process that was killed, what the others say of it
    cause = (reasons or own or causes)[0]
    # at the end of Ray's own stands what happened, after a stack trace
    text = str(cause).strip().rpartition("\n")[2] if isinstance(cause, ray.exceptions.RayError) else cause
    raise CrossresError(one_line(text, 600)) from None


class _Process:
    """A process of the run, as an actor of Ray."""

    def port(self) -> int:
        """Return a port that is free here."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return int(listener.getsockname()[1])

    def run(
        self, folder: str, group: dict[str, str], work: Callable[[Config], dict[str, Any]], config: Config
    ) -> dict[str, Any]:
        """Work as one of a group, where paths mean what they mean to the user."""
        os.chdir(folder)
        os.environ |= group
        return work(config)
