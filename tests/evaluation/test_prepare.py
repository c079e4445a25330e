"""What every judgement shares: options in range, a split, a device, an encoder's outputs on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import crossres
from crossres import CrossresError, Degradation, Encoder, Evaluate, EvaluateFaces, Transfer, build_encoder
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.prepare import (
    CPU,
    Unwritten,
    check,
    degradation_of,
    device_of,
    embeddings_of,
    kept,
    loader_of,
    logits_of,
    own_positions,
    read_split,
    sizes_of,
)

GIVEN: dict[str, Any] = {"model": "m", "data": "d"}
CLASSES = ("dark", "middle", "light")


def grey(count: int = 30) -> ImageSet:
    """Noise of three brightnesses."""
    label = np.arange(count) % 3
    noise = np.random.default_rng(0).integers(0, 80, (count, 32, 32, 3)) + 80 * label[:, None, None, None]
    return ImageSet(ArrayItems(noise.astype(np.uint8)), label, CLASSES, "grey")


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = build_encoder("resnet8", classes=("a", "b"), input_size=8)
    made.info = {"hr_size": 16, "lr_size": [4, 8], "degradation": {"kernel": "area"}, "test_fraction": 0.5}
    return made


def test_a_judgement_splits_the_data_of_the_training_by_its_groups(encoder: Encoder, tmp_path: Path) -> None:
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)):
        place = tmp_path / "tracks" / "ab"[number % 2] / f"{number // 8}_{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    options = Evaluate(model="m", data=str(tmp_path / "tracks"))
    encoder.info |= {"dataset": "tracks", "group": r"/(\d)_"}
    assert len(set(read_split(options, "test", encoder).groups)) == 3
    encoder.info["dataset"] = "others"
    assert read_split(options, "test", encoder).groups is None


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (Evaluate(**GIVEN, sizes=[8, 0]), "--sizes: 0 is below 1"),
        (EvaluateFaces(**GIVEN, hr_size=0), "--hr_size: 0 is below 1"),
        (EvaluateFaces(**GIVEN, resamples=-1), "--resamples: -1 is below 0"),
        (EvaluateFaces(**GIVEN, far=[0.1, 1.0]), "--far: 1 is not between 0 and 1"),
        (EvaluateFaces(**GIVEN, fpir=[float("nan")]), "--fpir: nan is not between 0 and 1"),
        (Transfer(**GIVEN, images=crossres.TestImages(test_fraction=1)), "--images.test_fraction: 1 is not between"),
        (Evaluate(**GIVEN, images=crossres.TestImages(memory_mb=-1)), "--images.memory_mb: -1 is below 0"),
        (Evaluate(**GIVEN, native=True, sizes=[8]), "--sizes: cannot be combined with native images"),
        (EvaluateFaces(**GIVEN, native=True, degradation=Degradation()), "--degradation: cannot be combined with"),
    ],
)
def test_options_out_of_range_are_named_as_they_are_written(options: Any, line: str) -> None:
    with pytest.raises(CrossresError) as error:
        check(options)
    assert str(error.value).startswith(line)


def test_options_in_range() -> None:
    check(Evaluate(**GIVEN, sizes=[1]))
    check(Transfer(**GIVEN, images=crossres.TestImages(test_fraction=0.5, memory_mb=0)))
    check(EvaluateFaces(**GIVEN, hr_size=1, resamples=0, far=[1e-6], fpir=[0.999], native=True))


def test_what_is_left_out_is_as_in_the_training(encoder: Encoder, drawn: Path) -> None:
    options = Transfer(model="m", data=str(drawn / "train"), device="cpu")
    assert degradation_of(options, encoder) == Degradation(kernel="area")
    assert device_of(options, encoder).precision == "float32"
    assert len(read_split(options, "test", encoder)) == 48
    encoder.info["precision"] = "bfloat16"
    assert device_of(options, encoder).precision == "bfloat16"
    images = crossres.TestImages(test_fraction=0.25, classes=["bar", "disc"])
    given = Transfer(**GIVEN, device="cpu", images=images, degradation=Degradation(blur=(1, 1)), precision="float32")
    given.data = str(drawn / "train")
    assert degradation_of(given, encoder) == Degradation(blur=(1, 1))
    assert device_of(given, encoder).precision == "float32"
    test = read_split(given, "test", encoder)
    assert (len(test), test.classes) == (12, ["bar", "disc"])


def test_images_are_served_at_the_sizes_of_the_training(encoder: Encoder, drawn: Path) -> None:
    options = Evaluate(model="m", data=str(drawn))
    images = read_split(options, "test", encoder)
    loader = loader_of(options, encoder, images, CPU)
    assert (loader.hr_size, loader.lr_size, loader.fit) == (16, (4, 8), "crop")
    assert loader.degradation == Degradation(kernel="area")
    native = loader_of(options, encoder, images, CPU, native=True)
    assert (native.hr_size, native.lr_size, native.degradation) == (8, 8, Degradation())


def test_a_file_that_cannot_be_written_costs_no_numbers() -> None:
    document = {"top1": 50.0}
    with pytest.raises(Unwritten, match=r"^no space$") as error, kept(document):
        raise CrossresError("no space")
    assert error.value.document is document


# outputs


@pytest.fixture
def network() -> Encoder:
    torch.manual_seed(0)
    return build_encoder("resnet8", classes=CLASSES, input_size=8)


def test_predict_goes_in_order_and_leaves_the_network_as_it_was(network: Encoder) -> None:
    served = Loader(grey(), hr_size=32, lr_size=8, shift=4, flip=True, batch_size=7)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        logits = logits_of(network, served)
        assert network.training is training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert logits.shape == (30, 3)
        assert logits.dtype == torch.float32
        assert not logits.requires_grad
    network.eval()
    (batch,) = served.ordered(batch_size=30)
    with torch.no_grad():
        expected = network(batch.lr).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits_of(network, served, batch_size=4), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "processes"), [(30, 4), (7, 3), (4, 4), (3, 4)])
def test_each_image_is_judged_by_one_process_in_whole_batches(count: int, processes: int) -> None:
    shares = [
        own_positions(Loader(grey(count), hr_size=8, lr_size=8, rank=rank, world_size=processes), 2)
        for rank in range(processes)
    ]
    assert sorted(at for share in shares for at in share) == list(range(count))
    for share in shares:  # batches of two, as of one process, but for the set's last one
        batches = [share[start : start + 2] for start in range(0, len(share), 2)]
        assert all(batch in ([at, at + 1], [count - 1]) for batch in batches for at in batch[:1])


def test_predict_in_bfloat16_is_close_and_float32(network: Encoder) -> None:
    served = Loader(grey(), hr_size=32, lr_size=8)
    low = logits_of(network, served, lambda: torch.autocast("cpu", torch.bfloat16))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, logits_of(network, served), rtol=0.1, atol=0.1)
    assert not torch.equal(low, logits_of(network, served))
    assert not torch.equal(low, low.bfloat16().float())  # logits of bfloat16 would tie


def test_the_embeddings_are_the_encoders_at_its_low_resolution(network: Encoder) -> None:
    loader = Loader(grey(12), hr_size=16, lr_size=8, degradation=Degradation(kernel="area"))
    calls: list[tuple[int, int]] = []
    embeddings = embeddings_of(network, loader, batch_size=5, progress=lambda *call: calls.append(call))
    small = torch.cat([batch.lr for batch in loader.ordered()])
    assert small.shape == (12, 3, 8, 8)
    with torch.no_grad():
        expected = network.eval()(small).embedding
    assert np.allclose(embeddings, expected.numpy(), atol=1e-5)
    assert (embeddings.shape, embeddings.dtype) == ((12, network.embedding_dim), np.float32)
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_the_sizes_of_a_training(network: Encoder) -> None:
    assert sizes_of(network) == (8, 8, 8)  # its input size, where it says nothing else
    network.info = {"hr_size": 32, "lr_size": [4, 8]}
    assert sizes_of(network) == (32, 4, 8)
    network.info, network.input_size = {}, None
    with pytest.raises(CrossresError, match=r"^the model does not say its hr_size; save it with info="):
        sizes_of(network)
