"""MobileNetV2 and ShuffleNetV2 as the distillation literature trains them on small images, and MobileFaceNet."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.models.convnets import initialise, stack

# Of MobileNetV2 at half width: channels, blocks, stride of the first block; the first stage does not expand.
_STAGES = ((8, 1, 1), (12, 2, 1), (16, 3, 2), (32, 4, 2), (48, 3, 1), (80, 3, 2), (160, 1, 1))
# Of MobileFaceNet: expansion, channels, blocks, stride of the first (published: 2, 2, 1, 2, 1, behind a stem of 2).
_FACE_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 1), (2, 128, 2, 1))
#: side of the map that MobileFaceNet's global depthwise convolution weighs
_GRID = 4


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter depthwise, project by a 1x1 without activation.

    Inside there are ``expansion`` channels per channel in; ``activation`` makes that of a number of channels.
    """

    def __init__(
        self, in_width: int, width: int, stride: int, expansion: int, activation: Callable[[int], nn.Module]
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

    Source: Sandler et al. 2018 (arXiv 1801.04381), with the strides, the half width (of all channels but the last)
    and the expansion of 6 inside a block of the CRD benchmark (arXiv 1910.10699), which keeps an expansion layer of
    factor 1 in the first block and plain ReLU.
    """

    stages = ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6")

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim = 1280
        channels = 16
        self.conv1 = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        stages = []
        for number, (width, blocks, stride) in enumerate(_STAGES):
            block = partial(InvertedResidual, expansion=6 if number else 1, activation=lambda _: nn.ReLU())
            stages.append(stack(block, channels, width, blocks, stride))
            channels = width
        self.blocks = nn.Sequential(*stages)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU())
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.conv2(self.blocks(self.conv1(images)))
        return x.mean((2, 3))


class MobileFaceNet(nn.Module):
    """Images (B, 3, h, w) -> embedding (B, 128), for faces of 8 to 64 pixels.

    Published for 112 x 112, where it divides the side by 16 before a global depthwise convolution over 7 x 7. Here
    the stem and the fourth stage do not stride, so the side is divided by 4, and the global convolution weighs a grid
    of 4 x 4: the map itself at 16 x 16, averaged to it (or repeated) at other sizes.

    Source: Chen et al. 2018 (arXiv 1804.07573), Table 1.
    """

    stages = ("stage1", "stage3", "stage5")

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim = 128
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)),
            *(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)),
        )
        width = 64
        for number, (expansion, channels, blocks, stride) in enumerate(_FACE_STAGES, 1):
            block = partial(InvertedResidual, expansion=expansion, activation=nn.PReLU)
            self.add_module(f"stage{number}", stack(block, width, channels, blocks, stride))
            width = channels
        self.expand = nn.Sequential(nn.Conv2d(width, 512, 1, bias=False), nn.BatchNorm2d(512), nn.PReLU(512))
        self.weigh = nn.Sequential(nn.Conv2d(512, 512, _GRID, groups=512, bias=False), nn.BatchNorm2d(512))
        self.project = nn.Sequential(nn.Conv2d(512, self.embedding_dim, 1, bias=False), nn.BatchNorm2d(128))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images)
        for number in range(1, len(_FACE_STAGES) + 1):
            x = self.get_submodule(f"stage{number}")(x)
        x = F.adaptive_avg_pool2d(self.expand(x), _GRID)
        embedding: Tensor = self.project(self.weigh(x))
        return embedding.flatten(1)


class ShuffleBlock(nn.Module):
    """Half of the channels passes, half goes through a 1x1, a depthwise 3x3 and a 1x1; then a shuffle.

    At stride 2 each half is made of all channels: the first by a depthwise 3x3 and a 1x1, the second as above.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = width // 2
        convolutions = [
            nn.Conv2d(in_width if stride == 2 else half, half, 1, bias=False),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.Conv2d(half, half, 1, bias=False),
        ]
        if stride == 2:
            depthwise = nn.Conv2d(in_width, in_width, 3, 2, 1, groups=in_width, bias=False)
            convolutions = [depthwise, nn.Conv2d(in_width, half, 1, bias=False), *convolutions]
        for number, convolution in enumerate(convolutions, 1):
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(convolution.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.stride == 1 else (F.relu(self._layer(2, self._layer(1, x))), x)
        first = 1 if self.stride == 1 else 3
        right = F.relu(self._layer(first, right))
        right = F.relu(self._layer(first + 2, self._layer(first + 1, right)))
        # interleave the halves, so that the next split mixes them
        return torch.stack((left, right), 2).flatten(1, 2)

    def _layer(self, number: int, x: Tensor) -> Tensor:
        normalised: Tensor = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
        return normalised


class ShuffleNetV2(nn.Module):
    """Images (B, 3, h, w) -> embedding (B, widths[-1]); size 1 by default.

    Source: Ma et al. 2018 (arXiv 1807.11164); the 1x1 stem without stride is the CRD benchmark's
    (arXiv 1910.10699).
    """

    stages = ("layer1", "layer2", "layer3")

    def __init__(self, widths: Sequence[int] = (116, 232, 464, 1024)) -> None:
        super().__init__()
        first, second, third, self.embedding_dim = widths
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = stack(ShuffleBlock, 24, first, 4, stride=2)
        self.layer2 = stack(ShuffleBlock, first, second, 8, stride=2)
        self.layer3 = stack(ShuffleBlock, second, third, 4, stride=2)
        self.conv2 = nn.Conv2d(third, self.embedding_dim, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.embedding_dim)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.relu(self.bn2(self.conv2(x))).mean((2, 3))
