"""MobileNetV2 and ShuffleNetV2 as the distillation literature trains them on small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of MobileNetV2: channels at width 1, blocks, stride of the first block; the first stage does not expand.
_STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


def _relu(_width: int) -> nn.Module:
    return nn.ReLU()


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter depthwise, project by a 1x1 without activation.

    Args:
        in_width: channels in.
        width: channels out.
        stride: of the depthwise convolution.
        expansion: channels inside, per channel in.
        activation: makes the activation of a number of channels.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        expansion: int,
        activation: Callable[[int], nn.Module] = _relu,
    ) -> None:
        super().__init__()
        inner = in_width * expansion
        self.residual = stride == 1 and in_width == width
        self.conv = nn.Sequential(
            *(nn.Conv2d(in_width, inner, 1, bias=False), nn.BatchNorm2d(inner), activation(inner)),
            *(nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner)),
            *(activation(inner), nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Images (B, 3, h, w) -> embedding (B, 1280). The stem halves the image, as published.

    Args:
        width: multiplier of all channel counts but the last.
        expansion: T, the growth inside a block.

    Source: Sandler et al. 2018 (arXiv 1801.04381); strides, half width and T = 6 of the CRD benchmark
    (arXiv 1910.10699), which keeps an expansion layer of factor 1 in the first block and plain ReLU.
    """

    #: paths of the modules whose outputs end a stage
    stages = ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6")

    def __init__(self, width: float = 0.5, expansion: int = 6) -> None:
        super().__init__()
        self.embedding_dim = 1280
        channels = int(32 * width)
        self.conv1 = _conv_bn_relu(3, channels, 3, 2)
        stages = []
        for number, (base, blocks, stride) in enumerate(_STAGES):
            stage = []
            for block in range(blocks):
                grow = 1 if number == 0 else expansion
                stage.append(InvertedResidual(channels, int(base * width), stride if block == 0 else 1, grow))
                channels = int(base * width)
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        self.conv2 = _conv_bn_relu(channels, self.embedding_dim, 1, 1)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.conv2(self.blocks(self.conv1(images)))
        return x.mean((2, 3))


class ShuffleBlock(nn.Module):
    """Half of the channels pass untouched, half through 1x1, depthwise 3x3, 1x1; then a shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        changed = F.relu(self.bn1(self.conv1(changed)))
        changed = self.bn2(self.conv2(changed))
        changed = F.relu(self.bn3(self.conv3(changed)))
        return _shuffle(torch.cat((kept, changed), 1))


class ShuffleDownBlock(nn.Module):
    """Both branches read all channels at stride 2; each gives half of the output channels."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, 2, 1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return _shuffle(torch.cat((left, right), 1))


class ShuffleNetV2(nn.Module):
    """Images (B, 3, h, w) -> embedding (B, widths[-1]); size 1 by default.

    Source: Ma et al. 2018 (arXiv 1807.11164); the 1x1 stem without stride is the CRD benchmark's
    (arXiv 1910.10699).
    """

    #: paths of the modules whose outputs end a stage
    stages = ("layer1", "layer2", "layer3")

    def __init__(self, widths: Sequence[int] = (116, 232, 464, 1024)) -> None:
        super().__init__()
        first, second, third, self.embedding_dim = widths
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = _shuffle_stage(24, first, 3)
        self.layer2 = _shuffle_stage(first, second, 7)
        self.layer3 = _shuffle_stage(second, third, 3)
        self.conv2 = nn.Conv2d(third, self.embedding_dim, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.embedding_dim)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.relu(self.bn2(self.conv2(x))).mean((2, 3))


def _conv_bn_relu(in_width: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _shuffle_stage(in_width: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(ShuffleDownBlock(in_width, width), *(ShuffleBlock(width) for _ in range(blocks)))


def _shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels, so that the next split mixes them."""
    first, second = x.chunk(2, 1)
    return torch.stack((first, second), 2).flatten(1, 2)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
