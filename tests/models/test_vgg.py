"""Stages and pools of a VGG."""

import pytest
import torch

from crossres.models.backbones import BACKBONES
from crossres.models.vgg import VGG


def test_it_halves_once_more_at_64_pixels():
    backbone = BACKBONES["vgg8"]()
    sides = []
    backbone.block4.register_forward_hook(lambda _module, args, _output: sides.append(args[0].shape[-1]))
    for size in (4, 8, 32, 64):
        backbone(torch.rand(2, 3, size, size))
    assert sides == [1, 1, 4, 4]


def test_other_numbers_of_stages_are_refused():
    with pytest.raises(ValueError):
        VGG([[64]])
