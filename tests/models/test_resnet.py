"""Depths of residual networks."""

import pytest

from crossres.models.resnet import ResNet, WideResNet


@pytest.mark.parametrize(("network", "depth"), [(ResNet, (9,)), (ResNet, (2,)), (WideResNet, (17, 1))])
def test_impossible_depths_are_refused(network, depth):
    with pytest.raises(ValueError, match="is not of the form 6 n"):
        network(*depth)
