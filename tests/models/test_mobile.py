"""Blocks of the mobile networks."""

import pytest
import torch
from torch.nn import functional as F

from crossres.models.mobile import ShuffleBlock


@pytest.mark.parametrize("stride", [1, 2])
def test_a_shuffle_block_ends_in_the_channel_shuffle_of_two_groups(stride):
    block = ShuffleBlock(8, 8, stride).eval()
    outputs = {}
    for name, module in block.named_children():
        module.register_forward_hook(lambda _module, _args, output, name=name: outputs.update({name: output}))
    images = torch.rand(2, 8, 4, 4)
    shuffled = block(images)
    left, right = (images[:, :4], "bn3") if stride == 1 else (outputs["bn2"].relu(), "bn5")
    assert torch.equal(shuffled, F.channel_shuffle(torch.cat((left, outputs[right].relu()), 1), 2))
    assert shuffled.shape == (2, 8, 4 // stride, 4 // stride)
