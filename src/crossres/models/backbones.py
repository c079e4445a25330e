"""Small networks for native low resolution, by name.

Each constructor returns a module from normalised images (B, 3, h, w), of any size from 4x4 to 64x64, to an embedding
(B, d), globally average-pooled (mobilefacenet: weighed by place), without a classifier. Its attribute
``embedding_dim`` is d (measured where it is missing), and ``stages`` are the paths of the modules whose outputs end a
stage, for losses on feature maps. With a linear classifier of 100 classes the parameter counts equal those of the
CRD benchmark's networks (Tian et al. 2020, arXiv 1910.10699), but for mobilefacenet, which is for faces.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from crossres.models.convnets import VGG, ResNet, WideResNet
from crossres.models.mobile import MobileFaceNet, MobileNetV2, ShuffleNetV2

_X4 = (32, 64, 128, 256)

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": partial(ResNet, 8, _X4),
    "resnet32x4": partial(ResNet, 32, _X4),
    **{f"wrn_{depth}_{widen}": partial(WideResNet, depth, widen) for depth in (16, 40) for widen in (1, 2)},
    "vgg8": partial(VGG, ([64], [128], [256], [512], [512])),
    "vgg11": partial(VGG, ([64], [128], [256] * 2, [512] * 2, [512] * 2)),
    "vgg13": partial(VGG, ([64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2)),
    "vgg16": partial(VGG, ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3)),
    "mobilenetv2": MobileNetV2,
    "shufflenetv2": ShuffleNetV2,
    "mobilefacenet": MobileFaceNet,
}
