"""Pairs and searches of faces: drawn, and lists of pairs in LFW's files and CSV, on files made here."""

from __future__ import annotations

import codecs
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.faces import NOBODY, both_splits, draw_pairs, first_image_search, read_pairs
from crossres.data.images import ImageSet
from crossres.data.items import ArrayItems, EncodedItems
from crossres.data.readers import read


def people(counts: list[int], first: int = 0) -> ImageSet:
    labels = [person for person, count in enumerate(counts) for _ in range(count)]
    pixels = np.zeros((len(labels), 4, 4, 3), dtype=np.uint8)
    return ImageSet(ArrayItems(pixels), labels, [f"p{first + i}" for i in range(len(counts))], "people")


def test_pairs_are_what_they_say_and_none_is_twice() -> None:
    images = people([1] * 20 + [3] * 20 + [60])
    pairs = draw_pairs(images, 60, 0)
    assert pairs.same.sum() == 30
    assert len(pairs) == 60
    assert (draw_pairs(images, 30, 0).fold == 0).all()  # too few for ten folds
    assert ((images.labels[pairs.left] == images.labels[pairs.right]) == pairs.same).all()
    assert (pairs.left != pairs.right).all()
    assert len({frozenset(row) for row in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}) == 60
    assert (np.bincount(pairs.fold) == 6).all()
    assert all(np.bincount(pairs.fold[pairs.same == kind]).tolist() == [3] * 10 for kind in (True, False))
    # the person of 60 images has 95 % of all genuine pairs, but is drawn as one of 21
    assert (images.labels[pairs.left[pairs.same]] == 40).sum() < 10
    again, other = draw_pairs(images, 60, 0), draw_pairs(images, 60, 1)
    assert np.array_equal(again.left, pairs.left)
    assert not np.array_equal(other.left, pairs.left)


def test_a_small_set_gives_the_pairs_it_has() -> None:
    # with as many impostors as there could be, the best threshold would refuse nearly everybody
    pairs = draw_pairs(people([2, 2]), 100, 0)
    assert (pairs.same.sum(), (~pairs.same).sum()) == (2, 2)
    pairs = draw_pairs(people([9, 1]), 100, 0)
    assert (pairs.same.sum(), (~pairs.same).sum()) == (9, 9)


def test_the_first_image_is_enrolled_and_single_ones_are_strangers() -> None:
    images = people([1, 2, 1, 3])
    search = first_image_search(images)
    assert search.gallery.tolist() == [1, 4]
    assert search.gallery_identity.tolist() == [1, 3]
    assert search.probes.tolist() == [0, 2, 3, 5, 6]
    assert search.probe_identity.tolist() == [NOBODY, 1, NOBODY, 3, 3]


def test_what_is_no_set_of_people_is_said_in_one_line() -> None:
    with pytest.raises(CrossresError, match=r"^people: verification needs a person with two images$"):
        draw_pairs(people([1, 1]), 10, 0)
    with pytest.raises(CrossresError, match=r"^people: verification needs two people$"):
        draw_pairs(people([4]), 10, 0)
    with pytest.raises(CrossresError, match=r"^people: identification needs a person with two images$"):
        first_image_search(people([1, 1]))


NAMES = ["Ann_0001.jpg", "Ann_0002.jpg", "Bob_0001.jpg", "Bob_0012.jpg", "Cat_0001.jpg"]


class Named(EncodedItems):
    """Pictures in memory that have file names."""

    def __init__(self, names: list[str]) -> None:
        super().__init__([picture(i) for i in range(len(names))], "test")
        self.names = names

    def path(self, row: int) -> str:
        return self.names[row]


def images(names: list[str] = NAMES) -> ImageSet:
    return ImageSet(Named(names), np.zeros(len(names), int), ["?"], "test")


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_whole_path_means_its_own_image_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("left,right,same\nx.jpg,a/x.jpg,0\nx.jpg,b.jpg,1\n")
    for names in (["x.jpg", "a/x.jpg", "b.jpg"], ["a/x.jpg", "x.jpg", "b.jpg"]):
        pairs = read_pairs(path, images(names))
        assert [names[i] for i in pairs.left] == ["x.jpg", "x.jpg"]
        assert [names[i] for i in pairs.right] == ["a/x.jpg", "b.jpg"]


def test_a_list_of_view_1(tmp_path: Path) -> None:
    path = tmp_path / "pairsDevTest.txt"
    path.write_text("2\nAnn\t1\t2\nBob\t1\t12\nAnn\t2\tBob\t12\nCat\t1\tAnn\t1\n")
    pairs = read_pairs(path, images())
    assert pairs.left.tolist() == [0, 2, 1, 4]
    assert pairs.right.tolist() == [1, 3, 3, 0]
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [0] * 4
    assert len(pairs) == 4


def test_the_ten_folds_of_view_2(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("3\t1\n" + "Ann\t1\t2\nAnn\t1\tBob\t1\n" * 3)
    pairs = read_pairs(path, images())
    assert pairs.fold.tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs.same.tolist() == [True, False] * 3


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "a.txt",
            "1\nAnn\t1\t2\nAnn\t2\tAnn\t1\n",
            "line 3 calls 'Ann_0002' and 'Ann_0001' two people, line 2 one person",
        ),
        (
            "a.csv",
            "left,right,same\nAnn_0001,Bob_0001,0\nBob_0001.jpg,Ann_0001,1\n",
            "line 3 calls 'Bob_0001.jpg' and 'Ann_0001' one person, line 2 two people",
        ),
    ],
)
def test_a_pair_that_is_called_both_kinds(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CrossresError, match=f"{name}: {told}$"):
        read_pairs(tmp_path / name, images())


def test_csv_by_path_name_or_stem(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = ["left,right,same,fold", "a/x.jpg,b/y.jpg,1,0", "x,z.jpg,false,1", "y,b/z,0,0", "y.jpg,x,true,1"]
    path.write_text("\n".join(rows) + "\n")
    pairs = read_pairs(path, images(["a/x.jpg", "b/y.jpg", "b/z.jpg"]))
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 0, 1, 1], [1, 2, 2, 0])
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False, False, True], [0, 1, 0, 1])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(mark: str, encoding: str, tmp_path: Path) -> None:
    rows = [["Left", "RIGHT", "Same "], [r"a\x.jpg", r"b\y.jpg", "TRUE"], [r"a\x.jpg", r"b\z.jpg", "False"]]
    text = "\r\n".join(mark.join(row) for row in rows)
    bom = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else b""
    (tmp_path / "mine.csv").write_bytes(bom + text.encode(encoding))
    pairs = read_pairs(tmp_path / "mine.csv", images(["a/x.jpg", "b/y.jpg", "b/z.jpg"]))
    assert (pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist()) == ([0, 0], [1, 2], [True, False])


def test_names_that_look_alike_are_one(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("left,right,same\ncafe\u0301/a,café/b,1\ncafé/a,x,0\n")
    pairs = read_pairs(tmp_path / "p.csv", images(["café/a.png", "cafe\u0301/b.png", "x.png"]))
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 0], [1, 2])


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("p.txt", "", r"its first line should be the number of pairs"),
        ("p.txt", "0\n", r"its first line should be the number of pairs"),
        ("p.txt", "10\t0\n", r"its first line should be the number of pairs"),
        ("p.txt", "Ann 1 2\n", r"its first line should be the number of pairs"),
        ("p.txt", "1\nAnn\t1\t2\n", r"1 pairs, but its first line promises 2"),
        ("p.txt", "1\nAnn\t1\t2\nAnn\t1\tBob\t3\n", r", line 3: there is no image 'Bob_0003' among 5"),
        ("p.txt", "1\nAnn\tx\t2\nAnn\t1\tBob\t1\n", r", line 2: 'Ann\tx\t2' is not a pair of LFW"),
        ("p.csv", "left,right\n", r"has no column 'same', only left, right; expected left, right, same"),
        ("p.csv", f"left,right,same,fold\nAnn_0001,Bob_0001,1,{10**30}\n", r", line 2: fold is '1000.*', expected a"),
        ("p.txt", "9" * 5000 + "\n", r"its first line should be the number of pairs"),
        ("p.csv", "left,right,same\nAnn_0001,Bob_0001,maybe\n", r", line 2: expected left, right and same"),
        ("p.csv", "left,right,same\n", r"holds no pair"),
        ("p.csv", "left,right,same,fold\nAnn_0001,Bob_0001,1,x\n", r", line 2: fold is 'x', expected a number"),
        ("p.csv", f"left,right,same\n{'x' * 200_000},Bob_0001,1\n", r"not a CSV file \(field larger than"),
        ("p.csv", "left,right,same\nAnn_0001,Ann_0002,1\n", r"holds no impostor pair; verification needs both kinds"),
        ("p.csv", "left,right,same\nAnn_0001,Bob_0001,0\n", r"holds no genuine pair; verification needs both kinds"),
        (
            "p.csv",
            "left,right,same,fold\nAnn_0001,Ann_0002,1,0\nAnn_0001,Bob_0001,0,0\nAnn_0001,Bob_0001,0,1\n",
            r"holds no genuine pair outside fold 0; verification needs both kinds",
        ),
    ],
)
def test_what_is_no_list_of_pairs(name: str, text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CrossresError, match=rf"^{path}:?{line if line.startswith(',') else ' ' + line}[^\n]*$"):
        read_pairs(path, images())


def test_a_name_that_two_images_share_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("left,right,same\nx.jpg,b/y.jpg,0\n")
    with pytest.raises(CrossresError, match=r"line 2: several images are named 'x.jpg'; give its whole path$"):
        read_pairs(path, images(["a/x.jpg", "b/x.jpg", "b/y.jpg"]))
    path.write_text("left,right,same\nb/x.jpg,b/y.jpg,0\na/x.jpg,b/y.jpg,1\n")
    assert read_pairs(path, images(["a/x.jpg", "b/x.jpg", "b/y.jpg"])).left.tolist() == [1, 0]


def test_a_missing_image_is_never_another_persons(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("left,right,same\nann/0001.jpg,bob/0002.jpg,0\n")
    with pytest.raises(CrossresError, match=r"line 2: there is no image 'bob/0002.jpg' among 2$"):
        read_pairs(path, images(["ann/0001.jpg", "ann/0002.jpg"]))
    # what follows the dot is a number, no ending
    path.write_text("left,right,same\nann.2,bob.1,0\n")
    with pytest.raises(CrossresError, match=r"line 2: there is no image 'ann.2' among 2$"):
        read_pairs(path, images(["ann.jpg", "bob.1.jpg"]))


def test_a_bin_is_not_a_list(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"\x80\x04\xff")
    with pytest.raises(
        CrossresError, match=r"insightface's .bin contains images and pairs: give it as DATA, not --pairs \('utf-8'"
    ):
        read_pairs(path, images())


def test_the_official_lists_of_lfw() -> None:
    data = os.environ.get("CROSSRES_DATA")
    if not data:
        pytest.skip("CROSSRES_DATA is not set: it is the folder that holds lfw/")
    folder = Path(data) / "lfw"
    shards = sorted(folder.glob("dev_test-*.parquet"))
    faces = read(shards, split="all", label_column="identity")
    pairs = read_pairs(folder / "pairsDevTest.txt", faces)
    assert len(pairs) == 1000
    assert int(pairs.same.sum()) == 500
    names = np.array(faces.classes)[faces.labels]
    assert np.array_equal(names[pairs.left] == names[pairs.right], pairs.same)


def test_pairs_may_cross_the_splits(crowd: Path, tmp_path: Path) -> None:
    train, test = (read(crowd, split=split, open_set=True) for split in ("train", "test"))
    both = both_splits(train, test)
    assert len(both) == len(train) + len(test)
    assert both.classes == sorted({*train.classes, *test.classes})
    for whole, images, i in ((3, train, 3), (len(train) + 4, test, 4)):
        assert both.path(whole) == images.path(i)
        assert both.classes[both.labels[whole]] == images.classes[images.labels[i]]
        assert np.array_equal(both.image(whole), images.image(i))
    assert both.fingerprint != both.subset([0]).fingerprint
    rows = [f"{train.path(0)},{train.path(1)},1", f"{train.path(0)},{test.path(0)},0"]
    (tmp_path / "p.csv").write_text("\n".join(["left,right,same", *rows]))
    assert read_pairs(tmp_path / "p.csv", both).right.tolist() == [1, len(train)]
