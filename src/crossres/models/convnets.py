"""ResNets, wide ResNets and VGGs for native low resolution, and what the small networks share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def stack(
    block: Callable[[int, int, int], nn.Module], in_width: int, width: int, count: int, stride: int
) -> nn.Module:
    """Return ``count`` blocks in a row, made by ``block(in_width, width, stride)``; only the first one strides."""
    return nn.Sequential(block(in_width, width, stride), *(block(width, width, 1) for _ in range(count - 1)))


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions (He et al. 2015, arXiv 1502.01852, fan out); their biases become 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


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

    It has a 3x3 stem without stride or pooling, and three stages; ``widths`` are their channels. Layers carry the
    names of the distillation literature's public checkpoints (``layer2.0.conv1`` ...), which so load by name.

    Source: He et al. 2016, section 4.2 (arXiv 1512.03385), with the 1x1 shortcuts and the 4x widths of the
    CRD benchmark (Tian et al. 2020, arXiv 1910.10699).
    """

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


class VGG(nn.Module):
    """Plain stacks of 3x3 convolutions with batch normalisation: images (B, 3, h, w) -> embedding (B, 512).

    A 2x2 max pool follows each of the first three stages, and the fourth where images are 64 pixels wide or more;
    global pooling stands in for the large linear layers. Pools round up, so a stage that has shrunk to one pixel
    stays at one pixel; sizes that divide evenly give exactly the published network. ``stages`` holds the widths of
    the convolutions of the five stages.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556) in the form of the CRD benchmark (arXiv 1910.10699).
    """

    stages = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        width = 3
        for name, widths in zip(self.stages, stages, strict=True):
            layers: list[nn.Module] = []
            for out in widths:
                layers += [nn.Conv2d(width, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU()]
                width = out
            # the last ReLU is left to `forward`
            self.add_module(name, nn.Sequential(*layers[:-1]))
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
