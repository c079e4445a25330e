"""Transfer: probe and neighbours on a frozen encoder's embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossres import build_encoder, read
from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.embedding import embed
from crossres.evaluation.transfer import transfer
from crossres.models.encoder import Encoder
from crossres.models.pretrained import save_pretrained

INFO = {"hr_size": 16, "lr_size": 8, "degradation": {"preset": "clean", "kernel": "area"}}


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = build_encoder("resnet8", classes=("x", "y"), input_size=8)
    made.info = dict(INFO)
    return made


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


def test_the_embeddings_are_the_encoders_at_its_low_resolution(encoder: Encoder) -> None:
    images = coloured([3, 4, 5], 0)
    loader = Loader(images, hr_size=16, lr_size=8, degradation=Degradation(kernel="area"))
    got = embed(encoder, loader, batch_size=5)
    small = torch.cat([batch.lr for batch in loader.ordered()])
    assert small.shape == (12, 3, 8, 8)
    with torch.no_grad():
        expected = encoder.eval()(small).embedding
    assert np.allclose(got, expected.numpy(), atol=1e-5)
    assert got.shape == (12, encoder.embedding_dim)


def test_another_degradation_gives_other_embeddings(encoder: Encoder) -> None:
    sets = coloured([20, 20, 20], 0), coloured([8, 9, 10], 1)
    hard = transfer(encoder, *sets, degradation=Degradation(preset="realistic", noise=(1.0, 1.0)))
    assert hard["degradation"]["preset"] == "realistic"
    assert hard["probe_top1"] < transfer(encoder, *sets)["probe_top1"]


def test_what_cannot_be_judged_is_said_in_one_line(encoder: Encoder) -> None:
    with pytest.raises(CrossresError, match=r"^colours: too few training images to choose on; each class needs"):
        transfer(encoder, coloured([1, 1, 1], 0), coloured([3, 3, 3], 1))
    other = coloured([3, 3, 3], 1)
    other.classes = ["r", "g", "c"]
    with pytest.raises(CrossresError, match=r"^colours: the test images have other classes than the training"):
        transfer(encoder, coloured([5, 5, 5], 0), other)


def test_the_command(
    encoder: Encoder, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused
) -> None:
    save_pretrained(encoder, tmp_path / "model", info=INFO)
    words = ["transfer", str(tmp_path / "model"), str(drawn), "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "model on shapes at 8: 4 classes, 96 training and 40 test images"
    assert main([*words, "--json", "--degradation", "kernel=nearest,blur=0.5:1", "--classes", "disc,bar"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["classes"], result["degradation"]["kernel"]) == (2, "nearest")
    assert result["images"] == {"train": 48, "test": 20}
    same = transfer(
        encoder,
        *(read(drawn, split=split).of_classes(["bar", "disc"]) for split in ("train", "test")),
        degradation=Degradation(kernel="nearest", blur=(0.5, 1.0)),
    )
    assert (result["probe_top1"], result["knn_top1"]) == (same["probe_top1"], same["knn_top1"])
    assert refused(*words, "--degradation", "kernal=area").startswith("degradation: unknown option 'kernal'; did")
    assert refused(*words, "--degradation", "kernel=box").startswith("degradation: kernel is 'box', expected ")
    assert refused(*words, "--degradation", "blur=x").startswith("degradation: blur is 'x', expected a number or")
