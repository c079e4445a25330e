"""VGG with batch normalisation and global pooling instead of the large linear layers."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.models.blocks import initialise


class VGG(nn.Module):
    """Plain stacks of 3x3 convolutions: images (B, 3, h, w) -> embedding (B, 512).

    A 2x2 max pool follows each of the first three stages, and the fourth where images are 64 pixels wide
    or more. Pools round up, so a stage that has shrunk to one pixel stays at one pixel; sizes that divide
    evenly give exactly the published network. ``stages`` holds the widths of the convolutions of the five stages.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556) in the form of the CRD benchmark (arXiv 1910.10699).
    """

    #: paths of the modules whose outputs end a stage
    stages = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        width = 3
        for name, widths in zip(self.stages, stages, strict=True):
            self.add_module(name, _stage(width, widths))
            width = widths[-1]
        self.embedding_dim = width
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        halved = 4 if images.shape[-1] >= 64 else 3
        for number, name in enumerate(self.stages):
            x = F.relu(self.get_submodule(name)(x))
            if number < halved:
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return x.mean((2, 3))


def _stage(in_width: int, widths: Sequence[int]) -> nn.Sequential:
    """Convolutions with BN; the ReLU after the last one is left to the caller."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(in_width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
        in_width = width
    return nn.Sequential(*layers[:-1])
