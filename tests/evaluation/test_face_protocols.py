"""What a face model is judged on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossres import CrossresError, Encoder, EvaluateFaces, build_encoder
from crossres.data.align import TEMPLATE, Aligner
from crossres.data.faces import Pairs, Search
from crossres.data.images import ArrayItems, ImageSet
from crossres.evaluation.face_protocols import FaceTest, read_protocols


def numbered(count: int) -> ImageSet:
    """Images whose pixels are their position, two of each person."""
    pixels = np.full((count, 4, 4, 3), 0, np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    people = np.arange(count) // 2
    return ImageSet(ArrayItems(pixels), people, [f"p{i}" for i in range(count // 2)], "numbered")


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder("resnet8", classes=(), input_size=8)


def test_only_the_images_that_are_named_are_kept() -> None:
    images = numbered(20)
    pairs = Pairs(np.array([3, 8]), np.array([8, 11]), np.array([True, False]), np.array([0, 1]))
    search = Search(np.array([2]), np.array([1]), np.array([3, 15]), np.array([1, 7]))
    chooser = numbered(8), Pairs(np.array([6]), np.array([1]), np.array([True]), np.array([0]))
    used = FaceTest(images, pairs, search, chooser).used()
    assert [int(used.images.image(i)[0, 0, 0]) for i in range(len(used.images))] == [2, 3, 8, 11, 15]
    assert used.pairs is not None
    assert used.search is not None
    assert used.chooser is not None
    assert (used.pairs.left.tolist(), used.pairs.right.tolist()) == ([1, 2], [2, 3])
    assert (used.pairs.same.tolist(), used.pairs.fold.tolist()) == ([True, False], [0, 1])
    assert (used.search.gallery.tolist(), used.search.probes.tolist()) == ([0], [1, 4])
    assert used.search.probe_identity.tolist() == [1, 7]
    others, choosing = used.chooser
    assert [int(others.image(i)[0, 0, 0]) for i in range(len(others))] == [1, 6]
    assert (choosing.left.tolist(), choosing.right.tolist()) == ([1], [0])
    # what it was made of is unchanged
    assert pairs.left.tolist() == [3, 8]


def test_people_are_read_with_pairs_and_a_search(encoder: Encoder, crowd: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("left,right,same\np12_0000,p12_0001,1\np12_0000,p13_0000,0\n")
    options = EvaluateFaces(model="m", data=str(crowd), pairs=str(tmp_path / "pairs.csv"))
    test = read_protocols(options, encoder)
    assert (len(test.images), test.chooser) == (72, None)
    assert test.pairs is not None
    assert test.search is not None
    assert [test.images.path(i) for i in test.pairs.right] == ["test/p12/p12_0001.png", "test/p13/p13_0000.png"]
    assert len(test.search.gallery) == 12
    assert read_protocols(replace(options, pairs_only=True), encoder).search is None


def test_of_people_with_one_image_each_nobody_is_identified(
    encoder: Encoder, crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in (12, 13):
        place = tmp_path / "single" / f"p{person}"
        place.mkdir(parents=True)
        (place / "0.png").write_bytes((crowd / "test" / f"p{person}" / f"p{person}_0000.png").read_bytes())
        (place / "1.png").write_bytes((crowd / "test" / f"p{person}" / f"p{person}_0001.png").read_bytes())
    rows = "left,right,same\np12/0,p12/1,1\np12/0,p13/0,0\n"
    (tmp_path / "pairs.csv").write_text(rows)
    options = EvaluateFaces(model="m", data=str(tmp_path / "single"), pairs=str(tmp_path / "pairs.csv"))
    assert read_protocols(options, encoder).search is not None
    for person in (12, 13):
        (tmp_path / "single" / f"p{person}" / "1.png").rename(tmp_path / f"{person}.png")
    (tmp_path / "single" / "p14").mkdir()
    (tmp_path / "12.png").rename(tmp_path / "single" / "p14" / "1.png")
    (tmp_path / "pairs.csv").write_text("left,right,same\np12/0,p14/1,1\np12/0,p13/0,0\n")
    capsys.readouterr()
    test = read_protocols(options, encoder)
    assert (test.search, len(test.images)) == (None, 3)
    judged, skipped = capsys.readouterr().err.splitlines()
    assert judged == f"{options.data}: test 3 images"
    assert skipped == f"{options.data}: no person has two images; skipping identification"


def test_ten_folds_over_both_splits_of_lfw(encoder: Encoder, tmp_path: Path) -> None:
    """View 2 of LFW, on the parquet files: its pairs, in ten folds, show people of both splits of View 1."""
    if not os.environ.get("CROSSRES_DATA"):
        pytest.skip("CROSSRES_DATA is not set: it is the folder that holds lfw/")
    folder = Path(os.environ["CROSSRES_DATA"]) / "lfw"
    people = {
        split: [line.split("\t") for line in (folder / f"peopleDev{split}.txt").read_text().splitlines()[1:]]
        for split in ("Train", "Test")
    }
    several = [name for split in people.values() for name, count in split if int(count) > 1]
    same = [f"{name}\t1\t2\n" for name in several[:: len(several) // 30][:30]]
    other = [f"{people['Train'][i][0]}\t1\t{people['Test'][i][0]}\t1\n" for i in range(30)]
    folds = ["".join(same[i : i + 3] + other[i : i + 3]) for i in range(0, 30, 3)]
    (tmp_path / "pairs.txt").write_text("10\t3\n" + "".join(folds))
    options = EvaluateFaces(
        model="m", data=str(folder), split="all", pairs=str(tmp_path / "pairs.txt"), pairs_only=True
    )
    test = read_protocols(options, encoder)
    assert (len(test.images), int((test.images.class_counts > 0).sum())) == (13_233, 5_749)
    assert test.pairs is not None
    assert np.bincount(test.pairs.fold).tolist() == [6] * 10
    names = np.array(test.images.classes)[test.images.labels]
    assert np.array_equal(names[test.pairs.left] == names[test.pairs.right], test.pairs.same)


def test_of_native_images_the_gallery_is_aligned(
    encoder: Encoder,
    crowd: Path,
    tmp_path: Path,
    yunet: Callable[[np.ndarray], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    for path in ("gallery/ann/1.png", "gallery/bob/2.png", "probes/ann/3.png", "probes/bob/4.png"):
        pixels = rng.integers(0, 255, (96, 120, 3), np.uint8)
        if "2" not in path:  # in which no face is detected
            pixels[:8, :8] = (255, 0, 0)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / path)
    detector = str(yunet(TEMPLATE / 2 + 30))
    options = EvaluateFaces(model="m", data=str(tmp_path), layout="folders", native=True, align=detector)
    test, plain = read_protocols(options, encoder), read_protocols(replace(options, align=None), encoder)
    assert [test.images.image(i).shape[:2] for i in range(4)] == [(56, 56), *[(96, 120)] * 3]
    assert np.array_equal(test.images.image(0), Aligner(detector)(plain.images.image(0)))
    assert test.images.fingerprint != plain.images.fingerprint
    line = "no face was detected in 1 of 2 images, first "
    assert capsys.readouterr().err.splitlines()[-1].startswith(line)
    # what is shrunk is aligned before
    whole = read_protocols(replace(options, native=False, sizes=[8]), encoder)
    assert [whole.images.image(i).shape[0] for i in range(4)] == [56, 96, 56, 56]
    with pytest.raises(CrossresError, match=r"^--align: of images that are small already only a gallery is al"):
        read_protocols(replace(options, layout=None, data=str(crowd)), encoder)


def test_options_that_the_data_leave_no_room_for(encoder: Encoder, crowd: Path) -> None:
    options = EvaluateFaces(model="m", data=str(crowd), layout="folders", pairs_only=True)
    with pytest.raises(CrossresError, match=r"has its own gallery and probes; leave --pairs_only out$"):
        read_protocols(options, encoder)
    options = EvaluateFaces(model="m", data="lfw.bin")
    options.images.corrupt = "skip"
    with pytest.raises(CrossresError, match=r"^lfw.bin: its pairs need every image; leave --images.corrupt out$"):
        read_protocols(options, encoder)
