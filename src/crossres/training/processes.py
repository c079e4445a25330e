"""The processes of a run: how they are started, and what they do together."""

from __future__ import annotations

import logging
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from crossres.config.experiment import Experiment
from crossres.core.devices import Device
from crossres.losses.options import reads


def fabric_of(config: Experiment, device: Device) -> Fabric:
    # its notes on precision and processes would stand between our own lines
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
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


class Gather:
    """Joins a tensor's parts of all processes, in the order of their ranks, with gradient."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    def __call__(self, part: Tensor) -> Tensor:
        whole = self.fabric.all_gather(part, sync_grads=part.requires_grad)
        assert isinstance(whole, Tensor)
        return whole.flatten(0, 1)
