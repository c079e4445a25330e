"""Which device, how many, and in which precision."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
        CrossresError: a GPU is requested and there is none.
    """
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise CrossresError("device cuda: torch finds no GPU here; choose cpu or auto")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    world = int(os.environ.get("WORLD_SIZE", local))
    if kind == "cuda" and local > torch.cuda.device_count():
        raise CrossresError(f"train.devices {local}: torch finds {torch.cuda.device_count()} GPUs here")
    if kind == "cpu" and devices > 8 * (os.cpu_count() or 1):
        raise CrossresError(f"train.devices {devices}: this machine has {os.cpu_count()} cores")
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device("cpu")
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16(kind) else "float32"
    return Device(place, precision, local, max(1, world // local))


@contextmanager
def sharing_cores(say: Callable[[str], None], kept: int | None = None) -> Iterator[None]:
    """Within the context, torch uses as many threads as cores are idle now, but at least half; a line says so.

    Threads wait for each other by spinning: two jobs on the same cores are much less than half as fast each. A job
    that begins later still slows this one. Where OMP_NUM_THREADS is set, and where the system does not say what its
    cores do, nothing changes.

    Args:
        say: prints a line.
        kept: take so many threads, or as many as torch has, however busy the cores are: the last bits of a number
            depend on them.
    """
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        threads, half = before if kept is None else min(kept, before), max(1, before // 2)
        # half a core is for the clock's ticks and what the system does
        free = max(half, round(_idle_share() * before)) if threads > half else before
        if threads > free:
            if kept is None:
                threads = free
                say(f"the cores are busy: computing on {free} of {before} threads (OMP_NUM_THREADS=N takes N)")
            else:
                say(f"the cores are busy, and a resumed run keeps its {threads} threads: slow beside other jobs")
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _idle_share(seconds: float = 0.1) -> float:
    """Return the share of this process's cores that is idle now; 1 where the system does not say."""

    def ticks() -> tuple[int, int]:
        """Of this process's cores since the system started: all of them, and the idle ones."""
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        with open("/proc/stat") as file:
            lines = [line.split() for line in file]
        times = [[int(field) for field in line[1:]] for line in lines if line and line[0] in mine]
        # the fourth field is of idle cores, the fifth of those that wait for a disk
        return sum(map(sum, times)), sum(sum(each[3:5]) for each in times)

    try:
        before = ticks()
        time.sleep(seconds)
        every, idle = (late - early for late, early in zip(ticks(), before, strict=True))
        return idle / every if every > 0 else 1.0
    except (OSError, AttributeError, ValueError):
        return 1.0


def fast_bfloat16(kind: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(flag in _cpuinfo("flags") for flag in ("amx_bf16", "avx512_bf16"))


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor as Linux lists it, else nothing."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")
    return ""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a number."""
    numbers = {"python": platform.python_version()}
    networks = ("crossres", "torch", "torchvision", "timm", "lightning-fabric")
    for package in (*networks, "numpy", "pillow", "pyarrow", "onnxruntime"):
        with suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers


def machine(device: Device) -> dict[str, Any]:
    """Return what a run was measured on."""
    gpu = device.torch.type == "cuda"
    processor = _cpuinfo("model name") or platform.processor() or "unknown"
    return {
        "device": device.torch.type,
        "processor": torch.cuda.get_device_name(device.torch) if gpu else processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": device.world_size,
        "system": f"{platform.system()} {platform.machine()}",
    }


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
    here = str(Path(__file__).resolve().parents[1])

    def git(*words: str) -> str:
        command = ["git", "-C", here, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    with suppress(OSError, subprocess.SubprocessError):
        # an installed copy inside somebody's checkout is not that checkout's source
        if git("ls-files", "--", "__init__.py"):
            return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", here) else "")
    return None
