"""The small networks: sizes as published, any small input, gradients everywhere."""

import pytest
import torch
from torch import nn

from crossres.models.backbones import BACKBONES
from crossres.models.encoder import build_encoder

# With 100 classes, as the distillation benchmarks print them.
PUBLISHED = {
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenetv2": 812_836,
    "shufflenetv2": 1_355_528,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    with torch.device("meta"):
        backbone = BACKBONES[name]()
    count = sum(weight.numel() for weight in backbone.parameters())
    assert count + (backbone.embedding_dim + 1) * 100 == PUBLISHED[name]


@pytest.mark.parametrize("name", BACKBONES)
def test_reads_any_small_size(name):
    backbone = BACKBONES[name]()
    for size in (4, 5, 8, 16, 32):
        embedding = backbone(torch.rand(2, 3, size, size))
        assert embedding.shape == (2, backbone.embedding_dim)
        assert embedding.isfinite().all()


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv2", "mobilefacenet"])
def test_every_weight_learns(name):
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    backbone(torch.rand(4, 3, 16, 16)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in backbone.parameters())


def test_a_line_in_the_dict_makes_a_network_of_ones_own_a_backbone(monkeypatch):
    def plain():
        return nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setitem(BACKBONES, "plain", plain)
    encoder = build_encoder("plain", classes=("bus", "car"), input_size=8)
    assert encoder(torch.rand(2, 3, 8, 8)).embedding.shape == (2, 7)
    assert encoder.embedding_dim == 7
