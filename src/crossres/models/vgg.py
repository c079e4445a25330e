"""VGG with batch normalisation and global pooling instead of the large linear layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class VGG(nn.Module):
    """Plain stacks of 3x3 convolutions: images (B, 3, h, w) -> embedding (B, 512).

    A 2x2 max pool follows each of the first three stages, and the fourth where images are 64 pixels wide
    or more. Pools round up, so a stage that has shrunk to one pixel stays at one pixel; sizes that divide
    evenly give exactly the published network.

    Args:
        stages: widths of the convolutions of each of the five stages.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556) in the form of the CRD benchmark (arXiv 1910.10699).
    """

    #: paths of the modules whose outputs end a stage
    stages = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if len(stages) != 5:
            raise ValueError(f"a VGG has 5 stages, not {len(stages)}")
        self.embedding_dim = stages[-1][-1]
        in_widths = [3, *(widths[-1] for widths in stages)]
        self.block0 = _stage(in_widths[0], stages[0])
        self.block1 = _stage(in_widths[1], stages[1])
        self.block2 = _stage(in_widths[2], stages[2])
        self.block3 = _stage(in_widths[3], stages[3])
        self.block4 = _stage(in_widths[4], stages[4])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = _halve(F.relu(self.block0(images)))
        x = _halve(F.relu(self.block1(x)))
        x = _halve(F.relu(self.block2(x)))
        x = F.relu(self.block3(x))
        if images.shape[-1] >= 64:
            x = _halve(x)
        return F.relu(self.block4(x)).mean((2, 3))


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _stage(in_width: int, widths: Sequence[int]) -> nn.Sequential:
    """Convolutions with BN; the ReLU after the last one is left to the caller."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(in_width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
        in_width = width
    return nn.Sequential(*layers[:-1])
