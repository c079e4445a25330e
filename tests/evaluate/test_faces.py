"""The face protocols on an encoder's embeddings: against slow loops, and per side and size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from crossres.data.faces import NOBODY, Search, draw_pairs, first_image_search
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.pairs import Pairs
from crossres.degrade import Degradation, degrade
from crossres.errors import CrossresError
from crossres.evaluate import faces
from crossres.evaluate.face_figures import draw_faces
from crossres.evaluate.faces import evaluate_faces, identify, verify
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


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def test_verify_takes_the_cosine_of_both_sides() -> None:
    left, right = RNG.normal(size=(2, 20, 5))
    pairs = Pairs(np.arange(10), np.arange(10, 20), np.array([True] * 5 + [False] * 5), np.arange(10) % 5)
    scores = [unit(left[a]) @ unit(right[b]) for a, b in zip(pairs.left, pairs.right, strict=True)]
    found = verify(left, right, pairs, resamples=50)
    wins = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i in range(5) for j in range(5, 10)]
    assert found["auc"] == pytest.approx(100 * np.mean(wins))
    best = max(np.mean([(s >= t) == same for s, same in zip(scores, pairs.same, strict=True)]) for t in [*scores, 2])
    assert found["accuracy_best"] == pytest.approx(100 * best)
    assert found["pairs"] == {"genuine": 5, "impostor": 5}
    for each, fold in zip(found["folds"], range(5), strict=True):
        at = np.flatnonzero(pairs.fold == fold)
        judged = [(scores[i] >= each["threshold"]) == pairs.same[i] for i in at]
        assert (each["fold"], each["accuracy"]) == (fold, pytest.approx(100 * np.mean(judged)))
    assert found["accuracy"] == pytest.approx(np.mean([each["accuracy"] for each in found["folds"]]))
    for name, (low, high) in found["intervals"].items():
        assert 0 <= low <= high <= 100, name
    assert [point["too_few"] for point in found["tar_at_far"]] == [True] * 4
    one_fold = Pairs(pairs.left, pairs.right, pairs.same, np.zeros(10, dtype=np.int64))
    unfolded = verify(left, right, one_fold, resamples=0)
    assert unfolded["accuracy"] is unfolded["folds"] is None
    other = verify(left, right, pairs, resamples=50, fars=(0.5, 0.2))["tar_at_far"]
    assert [(point["far"], point["too_few"]) for point in other] == [(0.5, True), (0.2, True)]
    impostors = np.array(scores)[~pairs.same]
    for point, allowed in zip(other, (2, 1), strict=True):
        lowest = min(t for t in scores if (impostors >= t).sum() <= allowed)
        assert point["tar"] == pytest.approx(100 * np.mean(np.array(scores)[pairs.same] >= lowest))
        assert point["interval"][0] <= point["tar"] <= point["interval"][1]
    chosen = verify(left, right, pairs, resamples=50, threshold=0.1)
    right_at = np.mean([(s >= 0.1) == same for s, same in zip(scores, pairs.same, strict=True)])
    assert chosen["accuracy_chosen"] == pytest.approx(100 * right_at)
    low, high = chosen["intervals"]["accuracy_chosen"]
    assert low < chosen["accuracy_chosen"] < high
    assert found["accuracy_chosen"] is None
    for point in found["tar_at_far"]:
        assert point["interval"][0] <= point["tar"] <= point["interval"][1]
    json.dumps(found, allow_nan=False)


def test_identify_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probes = RNG.normal(size=(2, 12, 4))
    search = Search(
        np.arange(4), np.array([0, 1, 2, NOBODY]), np.arange(4, 12), np.array([0, 0, 1, 2, 2, NOBODY, NOBODY, 2])
    )
    found = identify(gallery, probes, search, resamples=50)
    first = []
    for probe, identity in zip(search.probes, search.probe_identity, strict=True):
        if identity == NOBODY:
            continue
        similarity = [unit(probes[probe]) @ unit(gallery[g]) for g in search.gallery]
        own = similarity[search.gallery_identity.tolist().index(identity)]
        first.append(1 + sum(s >= own for s in similarity) - 1)
    for k in (1, 5):
        assert found[f"rank{k}"] == pytest.approx(100 * np.mean([rank <= k for rank in first]))
    assert (found["mated_probes"], found["strangers"], found["gallery"]) == (6, 2, 4)
    assert found["cmc"][-1] == 100
    assert len(found["open_set"]) == 3
    for name, value in (("rank1", found["rank1"]), ("map", found["retrieval"]["map"])):
        low, high = found["intervals"][name]
        assert low < value < high
    for point in found["open_set"]:
        assert point["interval"][0] <= point["tpir"] <= point["interval"][1]
        assert point["tpir"] <= point["tpir_rank20"]
    # at rank 20 of 4 every mated probe is found whose own similarity reaches the threshold
    loose = found["open_set"][-1]
    owns = [
        unit(probes[probe]) @ unit(gallery[search.gallery_identity.tolist().index(identity)])
        for probe, identity in zip(search.probes, search.probe_identity, strict=True)
        if identity != NOBODY
    ]
    assert loose["tpir_rank20"] == pytest.approx(100 * np.mean([own >= loose["threshold"] for own in owns]))
    # two strangers: none, one or both of them let in
    assert found["open_set_curve"]["fpir"] == [0, 0.5, 1]
    points = identify(gallery, probes, search, resamples=0, fpirs=(0.5,))["open_set"]
    assert [(point["fpir"], point["tpir"]) for point in points] == [(0.5, found["open_set_curve"]["tpir"][1])]
    assert found["open_set_curve"]["tpir"][2] == found["rank1"]
    monkeypatch.setattr(faces, "CHUNK", 3)  # a large search goes in parts
    assert identify(gallery, probes, search, resamples=50) == found
    mated_only = Search(search.gallery, search.gallery_identity, search.probes[:5], search.probe_identity[:5])
    closed = identify(gallery, probes, mated_only, resamples=0)
    assert closed["open_set"] is closed["open_set_curve"] is None


def test_intervals_draw_people() -> None:
    rng = np.random.default_rng(3)
    gallery, probes = rng.normal(size=(2, 30, 4))
    probes[:12] += gallery[:12]
    enrolled, nobody = np.arange(12), np.full(8, NOBODY)
    known = np.append(enrolled, 100 - np.arange(8))  # strangers with a name each

    def intervals(identity: np.ndarray, times: int = 1) -> list[list[float]]:
        at = np.repeat(np.arange(len(identity)), times)
        found = identify(gallery, probes, Search(enrolled, enrolled, at, identity[at]), resamples=100)
        return [*found["intervals"].values(), *(point["interval"] for point in found["open_set"])]

    alone = intervals(known)
    # nothing new is known by looking at the same probe often
    assert np.allclose(intervals(known, times=9), alone)
    # whom nobody named is drawn alone
    assert intervals(np.append(enrolled, nobody)) == alone
    assert not np.allclose(intervals(np.append(enrolled, nobody), times=9)[2:], alone[2:])


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


def test_the_curve_says_what_the_table_says_at_low_far() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 8))
    embeddings = np.repeat(people, 20, axis=0) + 0.6 * rng.normal(size=(1200, 8))
    left, right = (side.ravel() for side in np.triu_indices(1200, 1))
    chosen = (left // 20 != right // 20) | (rng.random(len(left)) < 0.05)
    left, right = left[chosen][::3], right[chosen][::3]
    found = verify(
        embeddings, embeddings, Pairs(left, right, left // 20 == right // 20, np.zeros(len(left), int)), resamples=0
    )
    far, tar = (np.array(found["roc"][name]) for name in ("far", "tar"))
    for point in found["tar_at_far"]:
        drawn = tar[far <= point["far"]][-1]
        assert 100 * drawn == pytest.approx(point["tar"]), point["far"]


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
