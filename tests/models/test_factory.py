"""Networks of one's own, named as package.module:callable."""

import sys
import types

import pytest
import torch
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import build_encoder

CLASSES = ("ant", "bee", "cat")


def classifier(num_classes=3):
    pooled = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*pooled, nn.Linear(6, num_classes))


def embedder():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), nn.Tanh())


@pytest.fixture(autouse=True)
def own_networks(monkeypatch):
    module = types.ModuleType("own_networks")
    module.classifier, module.embedder, module.number, module.text = classifier, embedder, 3, lambda: "net"
    module.broken = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "own_networks", module)


def test_a_factory_by_import_path():
    encoder = build_encoder("own_networks:classifier", classes=tuple("abcd"), input_size=8)
    assert encoder(torch.rand(2, 3, 8, 8)).logits.shape == (2, 4)
    assert encoder.embedding_dim == 6
    encoder = build_encoder("own_networks:classifier", classes=tuple("abcd"), input_size=8, embedding_dim=9)
    assert encoder(torch.rand(2, 3, 8, 8)).embedding.shape == (2, 9)
    encoder = build_encoder("own_networks:embedder", classes=(), input_size=8)
    assert encoder(torch.rand(2, 3, 8, 8)).embedding.shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks:classifer", "no callable 'classifer'; did you mean 'classifier'"),
        ("own_networks:number", "no callable 'number'"),
        ("own_networks:text", "returns str"),
        ("no_such_package.at_all:net", "cannot import 'no_such_package.at_all'"),
        ("os:abort", "is not a network"),
        ("own_networks:", "is not a network"),
        ("own_networks:broken", "'own_networks:broken' failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_factory_that_cannot_be_used(name, message):
    with pytest.raises(CrossresError, match=message):
        build_encoder(name, classes=CLASSES, input_size=8)
