"""timm models, adapted to small images."""

import sys

import pytest
import torch
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import build_encoder

CLASSES = ("ant", "bee")


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("mobilenetv3_small_050", 1024), ("vit_tiny_patch16_224", 192)]
)
def test_small_images(name, width):
    encoder = build_encoder(f"timm:{name}", classes=CLASSES, input_size=32).eval()
    outputs = encoder(torch.rand(2, 3, 32, 32))
    assert outputs.embedding.shape == (2, width)
    assert outputs.logits.shape == (2, 2)
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
