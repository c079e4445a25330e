"""Lists of pairs: LFW's files, CSV and insightface's .bin, on files made here."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.images import EncodedItems, ImageSet
from crossres.data.pairs import read_bin, read_pairs
from crossres.data.readers import read

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
            "line 3: 'Ann_0002' and 'Ann_0001' are two people, but one in line 2",
        ),
        (
            "a.csv",
            "left,right,same\nAnn_0001,Bob_0001,0\nBob_0001.jpg,Ann_0001,1\n",
            "line 3: 'Bob_0001.jpg' and 'Ann_0001' are one person, but two in line 2",
        ),
    ],
)
def test_a_pair_that_is_called_both_kinds(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CrossresError, match=f"{name}, {told}$"):
        read_pairs(tmp_path / name, images())


def test_csv_by_path_name_or_stem(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = ["left,right,same,fold", "a/x.jpg,b/y.jpg,1,0", "x,z.jpg,false,1", "y,b/z,0,0", "y.jpg,x,true,1"]
    path.write_text("\n".join(rows) + "\n")
    pairs = read_pairs(path, images(["a/x.jpg", "b/y.jpg", "b/z.jpg"]))
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 0, 1, 1], [1, 2, 2, 0])
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False, False, True], [0, 1, 0, 1])


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
        ("p.csv", "left,right\n", r"has no column 'same'; expected left, right, same"),
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


#: A pickle whose dtype claims to hold objects and whose bytes are then taken for pointers.
POINTERS = (
    b"\x80\x02]q\x00(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03c_codecs\nencode\n"
    b"X\x01\x00\x00\x00bX\x06\x00\x00\x00latin1\x86R\x87R(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89X\x08\x00\x00\x00AAAAAAAAtbe]\x88a\x86."
)


@pytest.mark.parametrize("arrays", [False, True])
def test_the_bin_of_insightface(arrays: bool, tmp_path: Path) -> None:
    pictures = [picture(i) for i in range(6)]
    bins = [np.frombuffer(p, dtype=np.uint8) for p in pictures] if arrays else pictures
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((bins, [True, False, np.True_ if arrays else True])))
    found, pairs = read_bin(path)
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 2, 4], [1, 3, 5])
    assert pairs.same.tolist() == [True, False, True]
    for i, encoded in enumerate(pictures):
        assert np.array_equal(found.image(i), np.asarray(Image.open(io.BytesIO(encoded))))


def test_a_damaged_picture_of_a_bin_cannot_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([picture(0), b"no picture", picture(2), picture(3)], [True, False])))
    found, _ = read_bin(path)
    with pytest.raises(
        CrossresError, match=r"1 of the 4 images of lfw cannot be read: its lists need them: mend them"
    ):
        found.pixels(8)


def test_a_bin_that_python_2_wrote(tmp_path: Path) -> None:
    png = picture(1)
    raw = struct.pack("<I", len(png)) + png
    # names of dtypes and pictures are byte strings there
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01M"
        + struct.pack("<H", len(png))
        + b"\x85cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + raw
        + b"tb"
    )
    path = tmp_path / "old.bin"
    path.write_bytes(b"\x80\x02](" + array + b"T" + raw + b"e]\x88a\x86.")
    kept = pickle.loads(path.read_bytes(), encoding="bytes")[0]
    assert [bytes(one) for one in kept] == [png, png]
    found, pairs = read_bin(path)
    assert pairs.same.tolist() == [True]
    assert np.array_equal(found.image(0), found.image(1))


def test_a_bin_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Crafted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "bad.bin"
    for content in ((Crafted(), [True]), ([b"x"], Crafted())):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(CrossresError, match=r"not a .bin of insightface \(it asks for posix.mkdir\)$"):
            read_bin(path)
    assert not (tmp_path / "ran").exists()
    # arrays of anything but bytes: pointers that numpy would follow
    for array in (np.array([object()], dtype=object), np.zeros(3, dtype=np.float64)):
        path.write_bytes(pickle.dumps(([array, array], [True]), protocol=2) if array.dtype != object else POINTERS)
        with pytest.raises(CrossresError, match=r"not a .bin of insightface \(it (holds an array|asks for)"):
            read_bin(path)
    path.write_bytes(b"\x80\x04garbage")
    with pytest.raises(CrossresError, match=r"not a .bin of insightface"):
        read_bin(path)
    path.write_bytes(pickle.dumps(([b"x"], [True, False])))
    with pytest.raises(CrossresError, match=r"1 images for 2 pairs, expected two for each$"):
        read_bin(path)
    with pytest.raises(
        CrossresError, match=r"a .bin of insightface has its images with it: give it as the data \('utf-8'"
    ):
        read_pairs(_written(path, b"\x80\x04\xff"), images())
    with pytest.raises(CrossresError, match=r"No such file"):
        read_bin(tmp_path / "none.bin")


def test_a_missing_image_is_never_another_persons(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("left,right,same\nann/0001.jpg,bob/0002.jpg,0\n")
    with pytest.raises(CrossresError, match=r"line 2: there is no image 'bob/0002.jpg' among 2$"):
        read_pairs(path, images(["ann/0001.jpg", "ann/0002.jpg"]))
    # what follows the dot is a number, no ending
    path.write_text("left,right,same\nann.2,bob.1,0\n")
    with pytest.raises(CrossresError, match=r"line 2: there is no image 'ann.2' among 2$"):
        read_pairs(path, images(["ann.jpg", "bob.1.jpg"]))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


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


def test_a_few_bytes_do_not_become_gigabytes(tmp_path: Path) -> None:
    nested: list[object] = [1] * 10
    for _ in range(12):
        nested = [nested] * 10
    path = tmp_path / "bomb.bin"
    path.write_bytes(pickle.dumps(([nested, b"x"], [True])))
    assert path.stat().st_size < 1000
    with pytest.raises(
        CrossresError, match=r"not a .bin of insightface \(it holds an image as list, not as bytes\)$"
    ):
        read_bin(path)
