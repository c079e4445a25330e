"""The feature maps of two networks: which ones, how large, and a run that compares them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossres import CrossresError, wrap
from crossres.models.backbones import BACKBONES
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.stages import capture_maps, paired_stages, stage_paths

CLASSES = ("a", "b", "c")


def encoder(name: str, size: int | None = None) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name, classes=CLASSES, input_size=size)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_knows_its_stages(name: str) -> None:
    network = encoder(name)
    paths = stage_paths(network)
    shapes = capture_maps(network, paths, 32)
    assert len(shapes) == len(paths) >= 3
    sizes = [height for _, height, width in shapes if height == width]
    assert len(sizes) == len(shapes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    features = network.eval()(torch.rand(2, 3, 32, 32)).features
    assert [tuple(maps.shape[1:]) for maps in features.values()] == shapes
    assert list(features) == paths


def test_measuring_the_maps_changes_no_statistics() -> None:
    network = encoder("resnet8").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert capture_maps(network, ["layer3", "layer1"], 8) == [(64, 2, 2), (16, 8, 8)]
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_timm_names_its_stages() -> None:
    pytest.importorskip("timm")
    network = encoder("timm:resnet18", 32)
    assert stage_paths(network)[-2:] == ["layer3", "layer4"]
    assert capture_maps(network, stage_paths(network)[-2:], 32)[-1][0] == 512


def test_the_last_stages_of_unlike_networks_are_paired() -> None:
    three, five = encoder("resnet8"), encoder("vgg8")
    assert paired_stages(five, three, None, None) == (["block2", "block3", "block4"], ["layer1", "layer2", "layer3"])
    assert paired_stages(five, three, ["block0", "block3"], ["layer1", "layer3"]) == (
        ["block0", "block3"],
        ["layer1", "layer3"],
    )
    assert paired_stages(five, three, ["block0"], None) == (["block0"], ["layer3"])
    for left, right in ((["block0"], ["layer1", "layer2"]), (["block0"] * 4, None)):
        with pytest.raises(
            CrossresError, match=r"^stages: \d maps of the teacher and \d of the student; name as many"
        ):
            paired_stages(five, three, left, right)


def test_a_network_that_shows_its_embedding_only() -> None:
    class Closed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    with pytest.raises(
        CrossresError,
        match=r"^'wrapped' has no feature maps, only its embedding; choose losses that read embeddings",
    ):
        stage_paths(wrap(Closed(), classes=(), input_size=8))


def test_a_network_whose_stages_nobody_knows() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    own = wrap(nn.Sequential(*layers), classes=CLASSES, input_size=8)
    with pytest.raises(CrossresError, match=r"^the stages of 'wrapped' are not known; name its modules in stages"):
        stage_paths(own)
    assert capture_maps(own, ["0"], 8) == [(4, 6, 6)]
    with pytest.raises(CrossresError, match=r"^stages: '2' returns \(1, 4\), not a map .* --method crrcd-images\)$"):
        capture_maps(own, ["2"], 8)


def test_maps_with_their_channels_last_are_refused() -> None:
    pytest.importorskip("timm")
    network = encoder("timm:swin_tiny_patch4_window7_224", 32)
    with pytest.raises(CrossresError, match=r"^the maps of 'timm:swin_\w+' have their channels last; choose losses"):
        stage_paths(network)
