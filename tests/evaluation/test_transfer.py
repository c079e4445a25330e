"""Transfer: probe and neighbours on a frozen encoder's embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossres import CrossresError, Degradation, Encoder, Transfer, build_encoder
from crossres.data.images import ArrayItems, ImageSet
from crossres.evaluation.transfer import transfer_encoder

INFO = {"hr_size": 16, "lr_size": 8, "degradation": {"preset": "clean", "kernel": "area"}}


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = build_encoder("resnet8", classes=("x", "y"), input_size=8)
    made.info = dict(INFO)
    return made


def transfer(encoder: Encoder, train: ImageSet, test: ImageSet, **options: Any) -> dict[str, Any]:
    """`transfer_encoder` with these options."""
    return transfer_encoder(encoder, train, test, Transfer(model="in memory", data="in memory", **options))


def coloured(counts: list[int], seed: int) -> ImageSet:
    """Images of a class share a colour, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    colours = np.array([[220, 60, 60], [60, 220, 60], [60, 60, 220]])
    pixels = colours[labels][:, None, None] + rng.normal(0, 20, (len(labels), 16, 16, 3))
    return ImageSet(ArrayItems(pixels.clip(0, 255).astype(np.uint8)), labels, ["r", "g", "b"], "colours")


def test_what_is_easy_is_learnt_and_the_encoder_is_left_alone(encoder: Encoder) -> None:
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    result = transfer(encoder, coloured([20, 20, 20], 0), coloured([8, 9, 10], 1))
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert result["probe_top1"] > 95
    assert result["knn_top1"] > 95
    assert (result["dataset"], result["classes"], result["lr_size"], result["hr_size"]) == ("colours", 3, 8, 16)
    assert result["images"] == {"train": 60, "test": 27}
    assert result["chosen_on"] == 12
    assert result["degradation"] == {"preset": "clean", "kernel": "area"}


def test_labels_that_mean_nothing_are_not_learnt(encoder: Encoder) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for n in (120, 300)]
    sets = [ImageSet(ArrayItems(x), rng.permutation(len(x)) % 3, ["a", "b", "c"], "noise") for x in noise]
    result = transfer(encoder, *sets)
    assert 20 < result["probe_top1"] < 47
    assert 20 < result["knn_top1"] < 47


def test_another_degradation_gives_other_embeddings(encoder: Encoder) -> None:
    sets = coloured([20, 20, 20], 0), coloured([8, 9, 10], 1)
    hard = transfer(encoder, *sets, degradation=Degradation(preset="realistic", noise=(1.0, 1.0)))
    assert hard["degradation"]["preset"] == "realistic"
    assert hard["probe_top1"] < transfer(encoder, *sets)["probe_top1"]


def test_what_cannot_be_judged_is_said_in_one_line(encoder: Encoder) -> None:
    with pytest.raises(CrossresError, match=r"^colours: too few images to choose on; a class needs"):
        transfer(encoder, coloured([1, 1, 1], 0), coloured([3, 3, 3], 1))
    other = coloured([3, 3, 3], 1)
    other.classes = ["r", "g", "c"]
    with pytest.raises(CrossresError, match=r"^colours: the test images have other classes than the training"):
        transfer(encoder, coloured([5, 5, 5], 0), other)
