"""MobileFaceNet at native low resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.models.mobile import InvertedResidual

# expansion, channels, blocks, stride of the first; as published, the strides are 2, 2, 1, 2, 1 behind a stem of 2
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 1), (2, 128, 2, 1))
#: side of the map that the global depthwise convolution weighs
_GRID = 4


class MobileFaceNet(nn.Module):
    """Images (B, 3, h, w) -> embedding (B, 128), for faces of 8 to 64 pixels.

    Published for 112 x 112, where it divides the side by 16 before a global depthwise convolution over 7 x 7. Here
    the stem and the fourth stage do not stride, so the side is divided by 4, and the global convolution weighs a grid
    of 4 x 4: the map itself at 16 x 16, averaged to it (or repeated) at other sizes.

    Source: Chen et al. 2018 (arXiv 1804.07573), Table 1.
    """

    #: paths of the modules whose outputs end a stage
    stages = ("stage1", "stage3", "stage5")

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim = 128
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)),
            *(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)),
        )
        width = 64
        for number, (expansion, channels, blocks, stride) in enumerate(_STAGES, 1):
            stage = []
            for block in range(blocks):
                stage.append(InvertedResidual(width, channels, stride if block == 0 else 1, expansion, nn.PReLU))
                width = channels
            self.add_module(f"stage{number}", nn.Sequential(*stage))
        self.expand = nn.Sequential(nn.Conv2d(width, 512, 1, bias=False), nn.BatchNorm2d(512), nn.PReLU(512))
        self.weigh = nn.Sequential(nn.Conv2d(512, 512, _GRID, groups=512, bias=False), nn.BatchNorm2d(512))
        self.project = nn.Sequential(nn.Conv2d(512, self.embedding_dim, 1, bias=False), nn.BatchNorm2d(128))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images)
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"stage{number}")(x)
        x = F.adaptive_avg_pool2d(self.expand(x), _GRID)
        embedding: Tensor = self.project(self.weigh(x))
        return embedding.flatten(1)
