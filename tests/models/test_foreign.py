"""Networks from elsewhere: classifiers cut off where they are the last step, factories, timm models."""

import sys
import types

import pytest
import torch
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import build_encoder
from crossres.models.foreign import cut_classifier, measure_embedding

CLASSES = ("ant", "bee", "cat")


def conv_network() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return nn.Sequential(*layers)


def test_the_last_layer_is_cut_off_a_copy() -> None:
    network = conv_network().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    cut = cut_classifier(network, None, 8)
    assert (cut.embedding_dim, cut.facts) == (6, {"classifier": "4"})
    assert cut.classifier is not None
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(cut.classifier(cut.network.eval()(images)), network.eval()(images))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_layer_that_is_not_the_last_step_stays() -> None:
    network = nn.Sequential(conv_network(), nn.Softmax(1))
    cut = cut_classifier(network, None, 8)
    assert (cut.classifier, cut.facts) == (None, {"classifier": None})
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(cut.network.eval()(images), network.eval()(images))
    assert cut_classifier(conv_network(), None, 8, search=False).embedding_dim == 4
    with pytest.raises(CrossresError, match=r"'0\.4' is not the module's last step; name the final nn.Linear$"):
        cut_classifier(network, "0.4", 8)


def test_a_network_is_tried_on_large_images_where_small_ones_do_not_do() -> None:
    large = nn.Sequential(nn.Conv2d(3, 4, 100), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert measure_embedding(large, None) == 4
    with pytest.raises(CrossresError, match=r"^Sequential cannot read images of 32x32: [^\n]*$"):
        measure_embedding(large, 32)


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


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("mobilenetv3_small_050", 1024), ("vit_tiny_patch16_224", 192)]
)
def test_small_images(name, width):
    encoder = build_encoder(f"timm:{name}", classes=CLASSES, input_size=32).eval()
    outputs = encoder(torch.rand(2, 3, 32, 32))
    assert outputs.embedding.shape == (2, width)
    assert outputs.logits.shape == (2, 3)
    outputs.logits.sum().backward()
    assert next(encoder.parameters()).grad is not None


def test_the_stem_is_adapted_only_where_asked():
    auto = build_encoder("timm:resnet18", classes=CLASSES, input_size=32)
    assert auto.backbone.conv1.stride == (1, 1)
    assert isinstance(auto.backbone.maxpool, nn.Identity)
    assert auto.backbone.layer2[0].conv1.stride == (2, 2)
    assert auto.architecture["small_input"] == "yes"
    kept = build_encoder("timm:resnet18", classes=CLASSES, input_size=32, small_input="no")
    assert kept.backbone.conv1.stride == (2, 2)
    assert isinstance(kept.backbone.maxpool, nn.MaxPool2d)


def test_patches_shrink_with_the_images():
    encoder = build_encoder("timm:vit_tiny_patch16_224", classes=(), input_size=32)
    assert encoder.backbone.patch_embed.patch_size == (4, 4)
    assert encoder.backbone.patch_embed.num_patches == 64


def test_patch_stems_keep_their_border():
    encoder = build_encoder("timm:convnext_atto", classes=(), input_size=8).eval()
    encoder.capture("stem")
    assert encoder(torch.rand(1, 3, 8, 8)).features["stem"].shape[-2:] == (8, 8)


def test_own_size_and_normalisation():
    encoder = build_encoder("timm:vit_tiny_patch16_224", classes=(), input_size=None)
    assert encoder.input_size == 224
    assert encoder.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    encoder = build_encoder("timm:resnet18", classes=(), input_size=None)
    assert encoder.input_size is None
    torch.testing.assert_close(encoder.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet1", 32, "timm has no model 'resnet1'; did you mean 'resnet"),
        ("mixer_s32_224", 8, "cannot read images of 8x8"),
        ("maxvit_tiny_tf_224", 8, "timm cannot create 'maxvit_tiny_tf_224' for input_size 8"),
    ],
)
def test_models_that_cannot_be_had(name, size, message):
    with pytest.raises(CrossresError, match=message):
        build_encoder(f"timm:{name}", classes=CLASSES, input_size=size)


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CrossresError, match=r"pip install 'crossres\[timm\]'"):
        build_encoder("timm:resnet18", classes=CLASSES, input_size=32)
