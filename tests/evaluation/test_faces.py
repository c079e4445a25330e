"""An encoder judged on faces, per side and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation
from crossres.data.degrade import degrade
from crossres.data.faces import Search, draw_pairs, first_image_search
from crossres.data.images import ArrayItems, ImageSet
from crossres.evaluation import faces
from crossres.evaluation.faces import evaluate_faces
from crossres.evaluation.figures import draw_faces
from crossres.evaluation.protocols import identify, verify
from crossres.models.encoder import Encoder

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


def test_each_side_is_read_at_its_resolution() -> None:
    images = people()
    pairs, search = draw_pairs(images, 40, 0), first_image_search(images)
    realistic = Degradation(blur=(1.0, 1.0))
    result = evaluate_faces(
        encoder(), images, hr_size=16, sizes=(4, 8), pairs=pairs, search=search, degradation=realistic, resamples=0
    )
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


def test_a_teachers_gallery_takes_the_hr_side(tmp_path: Path) -> None:
    images = people()
    pairs = draw_pairs(images, 40, 0)
    alone, taught = (
        evaluate_faces(encoder(8), images, hr_size=16, sizes=(8,), pairs=pairs, gallery=gallery, resamples=0)["rows"]
        for gallery in (None, encoder(16, factor=0.1))
    )
    # another gallery's lengths do not count: a cosine
    assert [row["verification"]["auc"] for row in taught] == pytest.approx(
        [row["verification"]["auc"] for row in alone], abs=3
    )
    narrow = Encoder(nn.Flatten(), embedding_dim=3, classes=(), input_size=1)
    with pytest.raises(CrossresError, match=r"^the gallery's embeddings have 3 numbers, the probes' 12: [^\n]*$"):
        evaluate_faces(encoder(8), images, hr_size=16, sizes=(8,), pairs=pairs, gallery=narrow)
    result = evaluate_faces(
        encoder(8), images, hr_size=16, sizes=(8,), pairs=pairs, search=first_image_search(images)
    )
    sides = []
    for number, wanted in enumerate((("verification", "identification"), ("verification",), ("identification",))):
        rows = [{key: row[key] for key in ("sides", "size", *wanted)} for row in result["rows"]]
        draw_faces({"model": "m"} | result | {"rows": rows}, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as figure:
            sides.append(figure.size)
    assert sides[0][1] > 1.5 * sides[1][1] == 1.5 * sides[2][1]


def test_other_images_choose_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    images = people()
    pairs, chooser = draw_pairs(images, 10, 0), draw_pairs(images, 40, 1)
    seen: list[int] = []
    real = faces.Loader

    def loader(of: ImageSet, **options: object) -> object:
        seen.append(len(of))
        return real(of, **options)

    monkeypatch.setattr(faces, "Loader", loader)
    rows = evaluate_faces(
        encoder(), images, hr_size=16, sizes=(8,), pairs=pairs, chooses=(images, chooser), resamples=0
    )["rows"]
    alone = evaluate_faces(encoder(), images, hr_size=16, sizes=(8,), pairs=chooser, resamples=0)["rows"]
    for row, other in zip(rows, alone, strict=True):
        assert row["verification"]["threshold_chosen"] == pytest.approx(other["verification"]["threshold_best"])
    # no image is read that no pair names
    assert seen[0] == len(np.unique([pairs.left, pairs.right]))


def test_what_is_low_already_is_decoded_once_where_nobody_reads_it_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    images = people()
    sides: list[int] = []
    real = faces.Loader

    def loader(of: ImageSet, **options: Any) -> object:
        sides.append(options["hr_size"])
        return real(of, **options)

    monkeypatch.setattr(faces, "Loader", loader)
    how: dict[str, Any] = {"hr_size": 16, "sizes": (), "search": first_image_search(images), "native": True}
    evaluate_faces(encoder(8), images, resamples=0, **how)
    assert sides == [8]
    evaluate_faces(encoder(8), images, gallery=encoder(16), resamples=0, **how)
    assert sides == [8, 8, 16]


def test_what_cannot_be_judged_is_said_in_one_line() -> None:
    images = people()
    pairs = draw_pairs(images, 40, 0)
    with pytest.raises(CrossresError, match=r"^nothing to judge: give pairs, a search or both$"):
        evaluate_faces(encoder(), images, hr_size=16, sizes=(8,))
    with pytest.raises(CrossresError, match=r"^sizes: 32 is not within 1 and hr_size 16$"):
        evaluate_faces(encoder(), images, hr_size=16, sizes=(32,), pairs=pairs)
    embedding = RNG.normal(size=(len(images), 3))
    embedding[pairs.left[0]] = np.nan
    with pytest.raises(CrossresError, match=rf"embedding {pairs.left[0]} is NaN, infinite or 0; 1 such rows in all$"):
        verify(embedding, embedding, pairs)
    empty = Search(*(np.array([], dtype=np.int64),) * 2, *(np.arange(3),) * 2)
    with pytest.raises(CrossresError, match=r"^the gallery is empty$"):
        identify(RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3)), empty)


def test_every_pass_over_the_images_tells_how_far_it_is() -> None:
    images = people()
    told: list[tuple[str, int, int]] = []
    evaluate_faces(
        encoder(8),
        images,
        hr_size=16,
        sizes=(8,),
        pairs=draw_pairs(images, 40, 0),
        gallery=encoder(16, factor=0.1),
        resamples=0,
        progress=lambda *said: told.append(said),
    )
    assert [what for what, done, total in told if done == total] == ["gallery", "at 8x8"]
    assert {total for _, _, total in told} == {len(images)}
