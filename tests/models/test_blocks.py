"""Blocks in a row, and their first weights."""

import torch
from torch import nn

from crossres.models.blocks import initialise, stack


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
