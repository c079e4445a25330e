"""Wide ResNets: pre-activation residual networks with few layers and many channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PreactivationBlock(nn.Module):
    """BN-ReLU-conv twice; where the width changes, the 1x1 shortcut reads the activated input."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(in_width, width, 1, stride, bias=False) if in_width != width else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        inner: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return inner + shortcut


class _Stage(nn.Module):
    def __init__(self, in_width: int, width: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = (PreactivationBlock(width, width, 1) for _ in range(blocks - 1))
        # Named `layer` as in the literature's public checkpoints.
        self.layer = nn.Sequential(PreactivationBlock(in_width, width, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Wide ResNet of depth ``6 n + 4``: images (B, 3, h, w) -> embedding (B, 64 * widen).

    Source: Zagoruyko & Komodakis 2016 (arXiv 1605.07146), without dropout, as in the CRD benchmark.
    WRN-16-1 and WRN-40-1 keep the identity shortcut in the first stage, whose width equals the stem's.
    """

    #: paths of the modules whose outputs end a stage
    stages = ("block1", "block2", "block3")

    def __init__(self, depth: int, widen: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth {depth} is not of the form 6 n + 4")
        self.embedding_dim = 64 * widen
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = _Stage(16, 16 * widen, blocks, stride=1)
        self.block2 = _Stage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = _Stage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return F.relu(self.bn1(x)).mean((2, 3))
