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


def on_cluster(config: Experiment) -> bool:
    """Whether a run has to be handed to the cluster: it asks for one, and this is none of its processes."""
    return config.engine == "ray" and "RANK" not in os.environ


def over_ray(work: Callable[[Config], dict[str, Any]], config: Config) -> dict[str, Any]:
    """Do ``work(config)`` in a process for each GPU of a cluster, or ``train.devices`` on each machine without.

    Returns:
        What the first process returned.

    Raises:
        CrossresError: machines with different numbers of GPUs, or what one of the processes raised.
    """
    with needs("engine ray", "ray"):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=True)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    machines = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    gpus = {0 if config.device == "cpu" else int(node["Resources"].get("GPU", 0)) for node in machines}
    if len(gpus) > 1:
        raise CrossresError(f"the machines of the cluster have from {min(gpus)} to {max(gpus)} GPUs; use equal ones")
    each, cores = max(gpus) or config.train.devices, int(min(node["Resources"]["CPU"] for node in machines))
    if each > cores:
        raise CrossresError(f"{each} processes on each machine of the cluster: one has {cores} cores for Ray")
    world = each * len(machines)
    # all processes of a machine see all of its GPUs, and take that of their local number
    how: dict[str, Any] = {"runtime_env": {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}}
    how |= {"num_gpus": int(max(gpus) > 0), "num_cpus": cores // each}
    processes: list[Any] = []
    for node in machines:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        processes += [ray.remote(_Process).options(scheduling_strategy=place, **how).remote() for _ in range(each)]
    try:
        address = {
            "MASTER_ADDR": machines[0]["NodeManagerAddress"],
            "MASTER_PORT": ray.get(processes[0].port.remote()),
        }
        ends = []
        for rank, process in enumerate(processes):
            numbers = {"RANK": rank, "LOCAL_RANK": rank % each, "NODE_RANK": rank // each}
            group = {**address, **numbers, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": each}
            ends.append(
                process.run.remote(os.getcwd(), {name: str(value) for name, value in group.items()}, work, config)
            )
        return _first_of(ends)
    finally:
        for process in processes:
            ray.kill(process)


def _first_of(ends: list[Any]) -> dict[str, Any]:
    """Return what the first process returns, once all are done; raise the error that ended the run."""
    import ray

    try:
        results: list[dict[str, Any]] = ray.get(ends)
        return results[0]
    except ray.exceptions.RayError:
        done, _ = ray.wait(ends, num_returns=len(ends), timeout=PATIENCE)
    causes: list[Exception] = []
    for end in done:
        try:
            ray.get(end)
        except ray.exceptions.RayError as error:  # one of a process holds what that raised
            causes.append(getattr(error, "cause", None) or error)
    own = [cause for cause in causes if isinstance(cause, CrossresError)]
    reasons = [cause for cause in own if not isinstance(cause, LostProcess)]
    # of a process that was killed, what the others say of it
    raise CrossresError(one_line((reasons or own or causes)[0], 600)) from None


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
