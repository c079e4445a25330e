"""Cutting a classifier off, where it really is the last step."""

import pytest
import torch
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.cut import cut_classifier, measure_embedding


def classifier() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return nn.Sequential(*layers)


def test_the_last_layer_is_cut_off_a_copy() -> None:
    network = classifier().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    cut = cut_classifier(network, None, 8)
    assert (cut.embedding_dim, cut.facts) == (6, {"classifier": "4"})
    assert cut.classifier is not None
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(cut.classifier(cut.network.eval()(images)), network.eval()(images))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_layer_that_is_not_the_last_step_stays() -> None:
    network = nn.Sequential(classifier(), nn.Softmax(1))
    cut = cut_classifier(network, None, 8)
    assert (cut.classifier, cut.facts) == (None, {"classifier": None})
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(cut.network.eval()(images), network.eval()(images))
    assert cut_classifier(classifier(), None, 8, search=False).embedding_dim == 4
    with pytest.raises(CrossresError, match=r"'0\.4' is not the module's last step; name the final nn.Linear$"):
        cut_classifier(network, "0.4", 8)


def test_a_network_is_tried_on_large_images_where_small_ones_do_not_do() -> None:
    large = nn.Sequential(nn.Conv2d(3, 4, 100), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert measure_embedding(large, None) == 4
    with pytest.raises(CrossresError, match=r"^Sequential cannot read images of 32x32: [^\n]*$"):
        measure_embedding(large, 32)
