"""An encoder judged on faces, per side and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from crossres import CrossresError, Degradation, Encoder, EvaluateFaces
from crossres.data.degrade import degrade
from crossres.data.faces import Search, draw_pairs, first_image_search
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.face_protocols import FaceTest
from crossres.evaluation.faces import evaluate_face_encoder, write_scores
from crossres.evaluation.figures import draw_faces
from crossres.evaluation.identification import identify
from crossres.evaluation.verification import verify

RNG = np.random.default_rng(0)
COUNTS = [3, 1, 2, 4, 1, 2]


def people() -> ImageSet:
    """Each person is a colour with noise."""
    labels = [person for person, count in enumerate(COUNTS) for _ in range(count)]
    colours = RNG.integers(40, 216, (len(COUNTS), 1, 1, 3))
    pixels = (colours[labels] + RNG.integers(-40, 40, (len(labels), 16, 16, 3))).astype(np.uint8)
    return ImageSet(ArrayItems(pixels), labels, [f"p{i}" for i in range(len(COUNTS))], "colours")


class Cells(nn.Module):
    """The image's four quarters, centred: an embedding of 12."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def encoder(size: int | None = None, factor: float = 1.0) -> Encoder:
    made = Encoder(Cells(), embedding_dim=12, classes=(), input_size=size, mean=(0.5,) * 3, std=(factor,) * 3)
    return made.eval()


def judge(
    judged: Encoder, test: FaceTest, *, gallery: Encoder | None = None, progress: Any = None, **options: Any
) -> dict[str, Any]:
    """`evaluate_face_encoder` with these options, images read at 16 pixels."""
    request = EvaluateFaces(model="in memory", data="in memory", **({"hr_size": 16, "resamples": 0} | options))
    how = {"progress": progress} if progress else {}
    return evaluate_face_encoder(judged, test, request, gallery=gallery, **how)


def test_each_side_is_read_at_its_resolution() -> None:
    images = people()
    pairs, search = draw_pairs(images, 40, 0), first_image_search(images)
    realistic = Degradation(blur=(1.0, 1.0))
    result = judge(encoder(), FaceTest(images, pairs, search), sizes=[4, 8], degradation=realistic)
    assert [(row["sides"], row["size"]) for row in result["rows"]] == [
        ("hr-hr", None),
        ("hr-lr", 4),
        ("lr-lr", 4),
        ("hr-lr", 8),
        ("lr-lr", 8),
    ]
    pixels = torch.stack([torch.from_numpy(images.image(i)) for i in range(len(images))]).permute(0, 3, 1, 2) / 255
    low = degrade(pixels, 4, realistic)
    with torch.no_grad():
        high_rows, low_rows = encoder()(pixels).embedding, encoder()(low).embedding
    for row, left, right in zip(
        result["rows"][:3], (high_rows, high_rows, low_rows), (high_rows, low_rows, low_rows), strict=True
    ):
        expected = verify(left.numpy(), right.numpy(), pairs, resamples=0)
        assert row["verification"]["auc"] == pytest.approx(expected["auc"])
        assert row["verification"]["threshold_best"] == pytest.approx(expected["threshold_best"], abs=1e-4)
        expected = identify(left.numpy(), right.numpy(), search, resamples=0)
        assert row["identification"]["cmc"] == expected["cmc"]


def test_an_image_and_its_mirror_image_share_an_embedding() -> None:
    images = people()
    pairs = draw_pairs(images, 40, 0)
    noisy = Degradation(noise=(0.2, 0.2))
    for gallery in (None, encoder(16, factor=0.1)):
        result = judge(encoder(), FaceTest(images, pairs), gallery=gallery, sizes=[4], degradation=noisy, flip=True)
        assert result["flip"]
        pixels = images.pixels(16).float() / 255
        # a small image and its mirror image have one noise
        low = next(Loader(images, hr_size=16, lr_size=4, degradation=noisy).ordered(batch_size=13)).lr

        def both(judged: Encoder, seen: torch.Tensor) -> np.ndarray:
            with torch.no_grad():
                return (judged(seen).embedding + judged(seen.flip(3)).embedding).numpy()

        expected = verify(both(gallery or encoder(), pixels), both(encoder(), low), pairs, resamples=0)
        row = result["rows"][1]["verification"]
        assert row["auc"] == pytest.approx(expected["auc"])
        assert row["threshold_best"] == pytest.approx(expected["threshold_best"], abs=1e-4)
        alone = judge(encoder(), FaceTest(images, pairs), gallery=gallery, sizes=[4], degradation=noisy)["rows"][1]
        assert alone["verification"]["threshold_best"] != pytest.approx(row["threshold_best"], abs=1e-4)


def test_a_teachers_gallery_takes_the_hr_side() -> None:
    images = people()
    pairs = draw_pairs(images, 40, 0)
    alone, taught = (
        judge(encoder(8), FaceTest(images, pairs), sizes=[8], gallery=gallery)["rows"]
        for gallery in (None, encoder(16, factor=0.1))
    )
    # another gallery's lengths do not count: a cosine
    assert [row["verification"]["auc"] for row in taught] == pytest.approx(
        [row["verification"]["auc"] for row in alone], abs=3
    )
    narrow = Encoder(nn.Flatten(), embedding_dim=3, classes=(), input_size=1)
    with pytest.raises(CrossresError, match=r"^the gallery's embeddings have 3 numbers, the probes' 12: [^\n]*$"):
        judge(encoder(8), FaceTest(images, pairs), sizes=[8], gallery=narrow)


def test_rows_of_each_kind_are_drawn(tmp_path: Path) -> None:
    images = people()
    test = FaceTest(images, draw_pairs(images, 40, 0), first_image_search(images))
    result = judge(encoder(8), test, sizes=[8], resamples=20)
    sides = []
    for number, parts in enumerate((("verification", "identification"), ("verification",), ("identification",))):
        rows = [{key: row[key] for key in ("sides", "size", *parts)} for row in result["rows"]]
        draw_faces({"model": "m"} | result | {"rows": rows}, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as figure:
            sides.append(figure.size)
    assert sides[0][1] > 1.5 * sides[1][1] == 1.5 * sides[2][1]


def test_other_images_choose_the_threshold() -> None:
    images = people()
    pairs, chooser = draw_pairs(images, 10, 0), draw_pairs(images, 40, 1)
    passes: list[int] = []
    rows = judge(
        encoder(),
        FaceTest(images, pairs, chooser=(images, chooser)),
        sizes=[8],
        progress=lambda _, __, total: passes.append(total),
    )["rows"]
    alone = judge(encoder(), FaceTest(images, chooser), sizes=[8])["rows"]
    for row, other in zip(rows, alone, strict=True):
        assert row["verification"]["threshold_chosen"] == pytest.approx(other["verification"]["threshold_best"])
    # no image is read that no pair names
    assert passes[0] == len(np.unique([pairs.left, pairs.right])) < len(images)


class CountedItems(ArrayItems):
    """Images in memory that count how often one of them is opened."""

    opened = 0

    def open(self, row: int) -> Image.Image:
        self.opened += 1
        return super().open(row)


def test_what_is_low_already_is_decoded_once_where_nobody_reads_it_larger() -> None:
    images = people()
    items = CountedItems(np.stack([images.image(i) for i in range(len(images))]))
    counted = ImageSet(items, images.labels, images.classes, "counted")
    test = FaceTest(counted, search=first_image_search(counted))
    result = judge(encoder(8), test, native=True)
    assert (items.opened, [(row["sides"], row["size"]) for row in result["rows"]]) == (13, [("native", 8)])
    assert result["degradation"] is None
    judge(encoder(8), test, native=True, gallery=encoder(12), hr_size=12)
    assert items.opened == 3 * 13


def test_what_cannot_be_judged_is_said_in_one_line() -> None:
    images = people()
    pairs = draw_pairs(images, 40, 0)
    with pytest.raises(CrossresError, match=r"^nothing to judge: give pairs, a search or both$"):
        judge(encoder(), FaceTest(images), sizes=[8])
    with pytest.raises(CrossresError, match=r"^sizes: 32 is outside 1\.\.16 \(hr_size\)$"):
        judge(encoder(), FaceTest(images, pairs), sizes=[32])
    blind = Encoder(Cells(), embedding_dim=12, classes=(), input_size=None, mean=(0.5,) * 3, std=(torch.inf,) * 3)
    with pytest.raises(CrossresError, match=r"^the embedding of .* is NaN, infinite or 0; 13 such images in all$"):
        judge(blind.eval(), FaceTest(images, search=first_image_search(images)), sizes=[8])
    embedding = RNG.normal(size=(len(images), 3))
    embedding[pairs.left[0]] = np.nan
    with pytest.raises(
        CrossresError, match=rf"embedding {pairs.left[0]} of the images is NaN, infinite or 0; 1 such rows in all$"
    ):
        verify(embedding, embedding, pairs)
    empty = Search(*(np.array([], dtype=np.int64),) * 2, *(np.arange(3),) * 2)
    with pytest.raises(CrossresError, match=r"^the gallery: no embeddings$"):
        identify(RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3)), empty)


def test_every_pass_over_the_images_tells_how_far_it_is() -> None:
    images = people()
    calls: list[tuple[str, int, int]] = []
    judge(
        encoder(8),
        FaceTest(images, draw_pairs(images, 40, 0)),
        sizes=[8],
        gallery=encoder(16, factor=0.1),
        progress=lambda *call: calls.append(call),
    )
    assert [what for what, done, total in calls if done == total] == ["gallery", "at 8 pixels"]
    assert {total for _, _, total in calls} == {len(images)}


def test_a_rate_that_is_given_twice_is_measured_once() -> None:
    images = people()
    test = FaceTest(images, draw_pairs(images, 40, 0), first_image_search(images))
    row = judge(encoder(), test, sizes=[8], far=[0.1, 0.01, 0.1], fpir=[0.5, 0.5])["rows"][0]
    assert [point["far"] for point in row["verification"]["tar_at_far"]] == [0.1, 0.01]
    assert [point["fpir"] for point in row["identification"]["open_set"]] == [0.5]


def test_scores_read_back_exactly(tmp_path: Path) -> None:
    images = people()
    pairs = draw_pairs(images, 10, 0)
    similarity = RNG.normal(size=len(pairs))
    test = FaceTest(images, pairs)
    write_scores(tmp_path / "scores.csv", test, [("hr-lr", 8, similarity), ("lr-lr", 8, -similarity)])
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "left,right,same,fold,sides,size,similarity"
    fields = [line.split(",") for line in lines[1:]]
    assert [float(each[-1]) for each in fields] == [*similarity, *-similarity]
    assert [int(each[-5]) for each in fields[: len(pairs)]] == pairs.same.tolist()
    with pytest.raises(CrossresError, match=r"^cannot write .*scores\.csv"):
        write_scores(tmp_path / "scores.csv" / "scores.csv", test, [])
