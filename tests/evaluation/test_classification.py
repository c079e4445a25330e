"""evaluate: the numbers of the run again, at every size, with classes matched by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossres
from crossres import CrossresError, Degradation, Evaluate, read, wrap
from crossres.data.degrade import degrade
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.classification import evaluate_encoder
from crossres.models.encoder import Encoder, build_encoder

CLASSES = ("dark", "middle", "light")
SHAPES = ("bar", "cross", "disc", "frame")  # of the images drawn in conftest.py
INFO = {"hr_size": 32, "lr_size": 8, "degradation": {"kernel": "area"}}


class Brightness(nn.Module):
    """Knows the class from the mean of the image: thirds of 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)
        with torch.no_grad():
            # -(x - m)^2 without the x^2 that all share
            centre = torch.tensor([1 / 6, 3 / 6, 5 / 6])
            self.fc.weight.copy_(2 * centre[:, None])
            self.fc.bias.copy_(-centre.square())

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.mean((1, 2, 3))[:, None])


def judge(info: dict[str, Any] | None = None) -> Encoder:
    encoder = wrap(Brightness(), classes=CLASSES, input_size=None, mean=(0, 0, 0), std=(1, 1, 1))
    encoder.info = dict(INFO if info is None else info)
    return encoder


def evaluate(encoder: Encoder, judged: ImageSet, **options: Any) -> dict[str, Any]:
    """`evaluate_encoder` with these options."""
    return evaluate_encoder(encoder, judged, Evaluate(model="in memory", data="in memory", **options))


def grey(classes: tuple[str, ...] = CLASSES, wrong: int = 0, count: int = 30, side: int = 32) -> ImageSet:
    """Flat images whose brightness is their class; the first `wrong` ones carry the next class's label."""
    label = np.arange(count) % len(classes)
    level = np.array([40 + 85 * CLASSES.index(name) for name in classes])[label]
    noise = np.random.default_rng(0).integers(-20, 21, (count, side, side, 3))
    array = (level[:, None, None, None] + noise).astype(np.uint8)
    label[:wrong] = (label[:wrong] + 1) % len(classes)
    return ImageSet(ArrayItems(array), label, classes, "grey")


def test_the_document() -> None:
    images = grey(wrong=6)
    document = evaluate(judge(), images)
    assert document["dataset"] == "grey"
    assert document["images"] == 30
    assert document["top1"] == pytest.approx(80.0)
    assert document["top5"] == 100.0
    assert (document["hr_size"], document["lr_size"]) == (32, 8)
    assert document["degradation"] == {"kernel": "area"}
    assert document["classes"] == list(CLASSES)
    expected = np.zeros((3, 3), int)
    for i, label in enumerate(images.labels):
        expected[label, i % 3] += 1  # the image is of class i % 3, whatever its label says
    assert document["confusion"] == expected.tolist()
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize("classes", [("light", "dark", "middle"), ("middle", "dark"), ("light",)])
def test_classes_are_matched_by_name(classes: tuple[str, ...]) -> None:
    document = evaluate(judge(), grey(classes))
    assert document["top1"] == 100.0
    # rows and columns are the encoder's classes, in its order
    counts = np.asarray(document["confusion"])
    assert document["classes"] == list(CLASSES)
    assert counts.sum(1).tolist() == [30 // len(classes) if name in classes else 0 for name in CLASSES]
    assert np.array_equal(counts, np.diag(np.diag(counts)))


def test_an_unknown_class_is_refused_by_name() -> None:
    array = np.zeros((4, 32, 32, 3), np.uint8)
    images = ImageSet(ArrayItems(array), [0, 1, 2, 3], ("dark", "Light", "dim", "middle"), "lamps")
    message = r"^lamps: class 'Light' is unknown to the model \(2 of 4 classes are\); it knows dark, middle, light$"
    with pytest.raises(CrossresError, match=message):
        evaluate(judge(), images)


def test_a_model_that_does_not_say_its_hr_size_is_refused() -> None:
    with pytest.raises(CrossresError, match=r"^the model does not say its hr_size; save it with info="):
        evaluate(judge({}), grey())


def test_a_model_that_says_its_input_size_alone_is_judged_at_it() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=CLASSES, input_size=16).eval()
    document = evaluate(encoder, grey())
    assert (document["hr_size"], document["lr_size"]) == (16, 16)
    assert [point["size"] for point in document["curve"]] == [8, 12, 16]


@pytest.mark.parametrize(
    ("hr", "trained", "expected"),
    [
        (32, 8, [4, 6, 8, 10, 12, 16, 32]),
        (32, 16, [8, 12, 16, 20, 24, 32]),
        (32, 32, [16, 24, 32]),
        (28, 4, [2, 3, 4, 5, 6, 8, 16, 28]),
        (28, 7, [4, 5, 7, 9, 10, 14, 28]),
        (32, [8, 16], [4, 6, 8, 12, 16, 20, 24, 32]),
        (8, 2, [2, 3, 4, 8]),
        (32, [6, 9], [3, 4, 6, 7, 8, 9, 11, 14, 18, 32]),
        (32, [6, 24], [3, 4, 6, 8, 12, 16, 18, 24, 30, 32]),
    ],
)
def test_the_curve_goes_around_the_trained_size(hr: int, trained: Any, expected: list[int]) -> None:
    info = {"hr_size": hr, "lr_size": trained}
    curve = evaluate(judge(info), grey(side=hr, count=6))["curve"]
    sizes = [point["size"] for point in curve]
    own = trained if isinstance(trained, list) else [trained]
    assert sizes == sorted(set(sizes))
    assert {*own, hr} <= set(sizes)
    if expected:
        assert sizes == expected
    assert all(point.keys() == {"size", "top1", "top5", "class_mean"} for point in curve)


def test_the_curve_of_chosen_sizes() -> None:
    document = evaluate(judge(), grey(wrong=3), sizes=[16, 5])
    assert [point["size"] for point in document["curve"]] == [16, 5]
    assert [point["top1"] for point in document["curve"]] == [90.0, 90.0]
    for size in (33, 0):
        with pytest.raises(CrossresError, match=rf"^sizes: {size} is outside 1\.\.32 \(the model's hr_size\)$"):
            evaluate(judge(), grey(), sizes=[8, size])


def test_the_trained_size_on_the_curve_is_the_headline(drawn: Path, drawn_teacher: Path) -> None:
    from crossres import load

    encoder, images = load(drawn_teacher), read(drawn, split="test")
    document = evaluate(encoder, images)
    at = {point["size"]: point for point in document["curve"]}
    assert at[16] == {"size": 16, **{name: document[name] for name in ("top1", "top5", "class_mean")}}
    assert document["classes"] == list(SHAPES)
    # a shuffled copy of the set, with its classes in another order
    order = np.random.default_rng(0).permutation(len(images))
    names = ("frame", "bar", "disc", "cross")
    pixels = np.stack([images.image(i) for i in order])
    labels = [names.index(images.classes[images.labels[i]]) for i in order]
    again = evaluate(encoder, ImageSet(ArrayItems(pixels), labels, names, "shuffled"))
    for key in ("top1", "top5", "confusion", "curve", "classes"):
        assert again[key] == document[key], key


@pytest.mark.parametrize("degradation", [None, {"preset": "realistic"}, {"kernel": "nearest", "blur": [0.5, 0.5]}])
def test_the_encoder_reads_what_training_would_show_it(degradation: dict[str, Any] | None) -> None:
    encoder = judge({"hr_size": 32, "lr_size": 8, "degradation": degradation})
    seen: list[Tensor] = []
    encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    evaluate(encoder, grey(count=6), sizes=[8])
    options: dict[str, Any] = {"hr_size": 32, "lr_size": 8, "degradation": Degradation(**(degradation or {}))}
    (batch,) = Loader(grey(count=6), **options).ordered(hr=True)
    assert len(seen) == 1
    assert torch.equal(seen[0], batch.lr)
    if degradation is None:
        assert batch.hr is not None
        assert torch.equal(seen[0], degrade(batch.hr, 8))


def test_a_range_is_judged_on_the_range() -> None:
    encoder = judge({"hr_size": 32, "lr_size": [4, 8]})
    seen: list[Tensor] = []
    encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    document = evaluate(encoder, grey(count=12), sizes=[8])
    assert document["lr_size"] == [4, 8]
    (batch,) = Loader(grey(count=12), hr_size=32, lr_size=(4, 8)).ordered()
    assert torch.equal(seen[0], batch.lr)
    assert len(seen) == 2  # the curve's 8 is not the range 4..8
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_set_over_the_budget_gives_the_same_document(drawn: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=SHAPES, input_size=8).eval()
    encoder.info = {"hr_size": 16, "lr_size": 8}
    images = read(drawn, split="test")
    assert evaluate(encoder, images, sizes=[8], images=crossres.TestImages(memory_mb=0)) == evaluate(
        encoder, images, sizes=[8]
    )


class Witness(Brightness):
    """Keeps the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return super().forward(images)


@pytest.mark.parametrize("trained", [8, [6, 8]])
def test_native_images_are_judged_as_they_are(trained: Any) -> None:
    encoder = wrap(Witness(), classes=CLASSES, input_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    encoder.info = {"hr_size": 32, "lr_size": trained, "degradation": {"preset": "realistic"}}
    images = grey(side=8)
    as_they_are = images.pixels(8).float().mul(1 / 255)
    witness = next(module for module in encoder.modules() if isinstance(module, Witness))
    witness.seen.clear()
    document = evaluate(encoder, images, native=True)
    assert torch.equal(torch.cat(witness.seen), as_they_are)
    assert document["curve"] == [{"size": 8, "top1": 100.0, "top5": 100.0, "class_mean": 100.0}]
    assert (document["native"], document["degradation"], document["enlarged"]) == (True, None, 0)
    assert evaluate(encoder, grey(side=6), native=True)["enlarged"] == 30
    witness.seen.clear()
    evaluate(encoder, images, sizes=[8])
    assert not torch.allclose(witness.seen[-1], as_they_are, atol=0.01)


def test_images_smaller_than_hr_are_counted() -> None:
    assert evaluate(judge(), grey(side=32))["enlarged"] == 0
    assert evaluate(judge(), grey(side=12))["enlarged"] == 30
