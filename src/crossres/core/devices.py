"""Which device, how many, and in which precision."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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


def resolve_device(kind: str = "auto", precision: str = "auto", devices: int = 1) -> Device:
    """Turn the auto values into what this machine has.

    Args:
        kind: auto, cpu or cuda.
        precision: auto, float32 or bfloat16.
        devices: GPUs or processes; under torchrun, those it started.

    Raises:
        CrossresError: a GPU is asked for and there is none.
    """
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise CrossresError("device cuda: torch finds no GPU here; choose cpu or auto")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    world = int(os.environ.get("WORLD_SIZE", local))
    if kind == "cuda" and local > torch.cuda.device_count():
        raise CrossresError(f"train.devices {local}: torch finds {torch.cuda.device_count()} GPUs here")
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device("cpu")
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


PACKAGES = (
    "crossres",
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "numpy",
    "pillow",
    "pyarrow",
    "onnxruntime",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a number."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    return numbers


def machine(device: Device) -> dict[str, Any]:
    """Return what a run was measured on."""
    gpu = device.torch.type == "cuda"
    return {
        "device": device.torch.type,
        "processor": torch.cuda.get_device_name(device.torch) if gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": device.world_size,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def peak_memory_mb() -> float | None:
    """Return the largest resident memory of this process so far, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def commit() -> str | None:
    """Return the commit of the source that runs, with ``+`` where it is changed; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # an installed copy inside somebody's checkout is not that checkout's source
        if not git("ls-files", "--", "__init__.py"):
            return None
        changed = git("status", "--porcelain", "--", str(here))
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
