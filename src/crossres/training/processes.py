"""The processes of a run, on one machine or several: begun alike, compared, and ended together."""

import atexit
import gc
import logging
import os
import platform
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather

from crossres.config.experiment import Experiment
from crossres.core.devices import Device
from crossres.core.errors import CrossresError
from crossres.losses.options import reads

T = TypeVar("T")
LOST = "another process of the run ended early (see its own message; it has none if it was killed)"


class LostProcess(CrossresError):
    """Another process of the run ended before this one."""


def launched(config: Experiment, device: Device) -> Fabric:
    """Start the processes of a run, or join them where torchrun or Ray started them."""
    fabric = fabric_of(config, device)
    fabric.launch()
    if device.world_size > 1:
        atexit.unregister(_leave_at_exit)
        atexit.register(_leave_at_exit)
    return fabric


def fabric_of(config: Experiment, device: Device) -> Fabric:
    """Return the processes of a run, not yet launched."""
    # its notes on precision and processes would stand between our own lines
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # the last words of the thread that kills all once one that it started has failed
    watcher = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    watcher.setLevel(logging.INFO)
    watcher.addFilter(_in_a_line)
    warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is deprecated")
    strategy: Any = "auto"
    if device.world_size > 1:
        # a loss that reads embeddings alone leaves the classifier without a gradient
        classifies = any(reads(name) == "logits" for name in config.terms)
        strategy = DDPStrategy(find_unused_parameters=not classifies)
    return Fabric(
        accelerator=device.torch.type,
        devices=device.local_devices,
        num_nodes=device.nodes,
        strategy=strategy,
        precision="bf16-mixed" if device.precision == "bfloat16" else "32-true",
    )


def _in_a_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = f"crossres: {LOST}; go on with --resume, or give the same command again", ()
    return True


def leave_group() -> None:
    """Leave a process group of gloo before the interpreter ends.

    A thread of gloo that still frees the tensors of its last exchange would abort the process then.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_backend() != "gloo":
        return
    gc.collect()  # what holds the group, such as DDP's reducer
    distributed.destroy_process_group()


def _leave_at_exit() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # of torchrun, which ends what ends already
        signal.signal(number, signal.SIG_IGN)
    leave_group()


def may_restart() -> bool:
    """Whether torchrun starts the same command again where a process ends early (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


@contextmanager
def ends_with_others(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn the error of a broken connection to another process into a `LostProcess`.

    Args:
        remedy: returns what to do then.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain ones, with its source file in the message
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        if "EADDRINUSE" in str(error):
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise CrossresError(f"the run's processes cannot meet: {where} is in use; choose another port") from None
        raise LostProcess(f"{LOST}; {remedy()}") from None


def demand_same(facts: dict[str, Any]) -> None:
    """Compare what has to be equal in all processes, by what a user would call it.

    Raises:
        CrossresError: in every process, naming the first process that differs and its machine.
    """
    everywhere: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, (platform.node(), facts))
    first, own = everywhere[0]
    for rank, (node, other) in enumerate(everywhere):
        for what in own:
            if other[what] != own[what]:
                raise CrossresError(
                    f"process {rank} ({node}) does not have the same {what} as process 0 ({first}): "
                    "give every process the same files and options"
                )


def together(check: Callable[[], T]) -> T:
    """Return what a check returns once all processes have done theirs.

    Raises:
        CrossresError: in every process: its own, or that of the first one whose check raised it.
    """
    result: T | None = None
    line = None
    try:
        result = check()
    except CrossresError as error:
        line = str(error)
    lines: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(lines, line)
    if line is not None:
        raise CrossresError(line)
    for rank, each in enumerate(lines):
        if each is not None:
            raise CrossresError(f"process {rank}: {each}")
    return cast(T, result)


def share_batch_norm(module: nn.Module) -> None:
    """Let batch norm take mean and variance over the images of all processes, as one process does.

    Layers of other classes, such as timm's with an activation inside, stay as they are: each process has its own.
    """
    for layer in module.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            on_gpu = any(tensor.is_cuda for tensor in (*layer.parameters(), *layer.buffers()))
            layer.__class__ = nn.SyncBatchNorm if on_gpu else _SharedBatchNorm
            layer.__dict__["process_group"] = None  # all processes


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`torch.nn.SyncBatchNorm` on a CPU, where torch has none."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...), of which every process has as many."""
        if not self.training:
            return super().forward(input)
        values, dims = input.float(), [0, *range(2, input.dim())]
        variances, means = torch.var_mean(values, dims, correction=0)
        gathered: tuple[Tensor, ...] = all_gather(torch.stack([means, variances]))  # type: ignore[no-untyped-call]
        means, variances = torch.stack(list(gathered)).unbind(1)  # (processes, C)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), len(gathered) * input.numel() // input.shape[1])
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        to_channels = [1, -1] + [1] * (input.dim() - 2)
        return (values * scale.view(to_channels) + shift.view(to_channels)).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), share)
