"""Which device, how many, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from crossres.config.options import Train
from crossres.core.errors import CrossresError


@dataclass(frozen=True)
class Device:
    """A resolved device.

    Attributes:
        torch: where this process's tensors lie.
        precision: float32 or bfloat16, never auto.
        local_devices: processes on this machine.
        nodes: machines.
        world_size: processes in all.
    """

    torch: torch.device
    precision: str
    local_devices: int = 1
    nodes: int = 1

    @property
    def world_size(self) -> int:
        return self.local_devices * self.nodes

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """Context of a forward pass in this precision."""
        return partial(torch.autocast, self.torch.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def resolve_device(train: Train) -> Device:
    """Turn the auto values into what this machine has.

    Raises:
        CrossresError: a GPU is asked for and there is none.
    """
    kind = train.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise CrossresError("device cuda: torch finds no GPU here; choose cpu or auto")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", train.devices))
    world = int(os.environ.get("WORLD_SIZE", local))
    if kind == "cuda" and local > torch.cuda.device_count():
        raise CrossresError(f"train.devices {local}: torch finds {torch.cuda.device_count()} GPUs here")
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device("cpu")
    precision = train.precision
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16(kind) else "float32"
    return Device(place, precision, local, max(1, world // local))


def fast_bfloat16(kind: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
