"""ResNets and wide ResNets for native low resolution: a 3x3 stem without stride or pooling, three stages."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.models.blocks import initialise, stack


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        #: what the last activation gets: losses on activation boundaries read it here
        self.joined = nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        # No in-place ReLU: a captured feature must stay what its module returned.
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.joined(self.bn2(self.conv2(inner)) + self.downsample(x)))


class ResNet(nn.Module):
    """CIFAR-style ResNet of depth ``6 n + 2``: images (B, 3, h, w) -> embedding (B, widths[-1]).

    Layers carry the names of the distillation literature's public checkpoints (``layer2.0.conv1`` ...),
    so such a checkpoint loads by name. ``widths`` are the channels of the stem and of the three stages.

    Source: He et al. 2016, section 4.2 (arXiv 1512.03385), with the 1x1 shortcuts and the 4x widths of the
    CRD benchmark (Tian et al. 2020, arXiv 1910.10699).
    """

    #: paths of the modules whose outputs end a stage
    stages = ("layer1", "layer2", "layer3")

    def __init__(self, depth: int, widths: Sequence[int] = (16, 16, 32, 64)) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth {depth} is not of the form 6 n + 2")
        stem, *stages = widths
        self.embedding_dim = stages[-1]
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stack(BasicBlock, stem, stages[0], blocks, stride=1)
        self.layer2 = stack(BasicBlock, stages[0], stages[1], blocks, stride=2)
        self.layer3 = stack(BasicBlock, stages[1], stages[2], blocks, stride=2)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        stem = F.relu(self.bn1(self.conv1(images)))
        x: Tensor = self.layer3(self.layer2(self.layer1(stem)))
        return x.mean((2, 3))


class PreactivationBlock(nn.Module):
    """Of wide ResNets: BN-ReLU-conv twice; where the width changes, the 1x1 shortcut reads the activated input."""

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


def _stage(in_width: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    # named `layer` as in the literature's public checkpoints
    return nn.Sequential(OrderedDict(layer=stack(PreactivationBlock, in_width, width, blocks, stride)))


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
        self.block1 = _stage(16, 16 * widen, blocks, stride=1)
        self.block2 = _stage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = _stage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return F.relu(self.bn1(x)).mean((2, 3))
