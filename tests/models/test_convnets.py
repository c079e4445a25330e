"""Blocks in a row and their first weights; depths of residual networks; stages and pools of a VGG."""

import pytest
import torch
from torch import nn

from crossres.models.backbones import BACKBONES
from crossres.models.convnets import VGG, ResNet, WideResNet, initialise, stack


def test_only_the_first_block_of_a_row_changes_width_and_strides():
    made = []

    def block(*shape):
        made.append(shape)
        return nn.Conv2d(*shape[:2], 3, shape[2], 1)

    assert stack(block, 3, 8, 3, stride=2)(torch.rand(1, 3, 8, 8)).shape == (1, 8, 4, 4)
    assert made == [(3, 8, 2), (8, 8, 1), (8, 8, 1)]


def test_first_weights_keep_the_variance_of_what_flows_back():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(64, 128, 3), nn.Linear(2, 2))
    linear = network[1].weight.clone()
    initialise(network)
    assert abs(network[0].weight.var().item() * 128 * 9 / 2 - 1) < 0.05
    assert not network[0].bias.any()
    assert torch.equal(network[1].weight, linear)


@pytest.mark.parametrize(("network", "depth"), [(ResNet, (9,)), (ResNet, (2,)), (WideResNet, (17, 1))])
def test_impossible_depths_are_refused(network, depth):
    with pytest.raises(ValueError, match="is not of the form 6 n"):
        network(*depth)


def test_a_vgg_halves_once_more_at_64_pixels():
    backbone = BACKBONES["vgg8"]()
    sides = []
    backbone.block4.register_forward_hook(lambda _module, args, _output: sides.append(args[0].shape[-1]))
    for size in (4, 8, 32, 64):
        backbone(torch.rand(2, 3, size, size))
    assert sides == [1, 1, 4, 4]


def test_a_vgg_has_five_stages():
    with pytest.raises(ValueError):
        VGG([[64]])
