"""The .bin of insightface, made here: read, and nothing in it run."""

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
from crossres.data.face_bin import read_bin


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


#: A pickle whose dtype claims to hold objects and whose bytes are then taken for pointers.
POINTERS = (
    b"\x80\x02]q\x00(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03c_codecs\nencode\n"
    b"X\x01\x00\x00\x00bX\x06\x00\x00\x00latin1\x86R\x87R(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89X\x08\x00\x00\x00AAAAAAAAtbe]\x88a\x86."
)


@pytest.mark.parametrize("arrays", [False, True])
def test_the_bin_of_insightface(arrays: bool, tmp_path: Path) -> None:
    pictures = [png(i) for i in range(6)]
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
    path.write_bytes(pickle.dumps(([png(0), b"no picture", png(2), png(3)], [True, False])))
    found, _ = read_bin(path)
    with pytest.raises(
        CrossresError, match=r"1 of the 4 images of lfw cannot be read: its lists name every image, so none"
    ):
        found.pixels(8)


def test_a_bin_that_python_2_wrote(tmp_path: Path) -> None:
    shown = png(1)
    raw = struct.pack("<I", len(shown)) + shown
    # names of dtypes and pictures are byte strings there
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01M"
        + struct.pack("<H", len(shown))
        + b"\x85cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + raw
        + b"tb"
    )
    path = tmp_path / "old.bin"
    path.write_bytes(b"\x80\x02](" + array + b"T" + raw + b"e]\x88a\x86.")
    kept = pickle.loads(path.read_bytes(), encoding="bytes")[0]
    assert [bytes(each) for each in kept] == [shown, shown]
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
        with pytest.raises(
            CrossresError, match=r"not a .bin of insightface \(it refers to posix.mkdir, which is never run\)$"
        ):
            read_bin(path)
    assert not (tmp_path / "ran").exists()
    # arrays of anything but bytes: pointers that numpy would follow
    for array in (np.array([object()], dtype=object), np.zeros(3, dtype=np.float64)):
        path.write_bytes(pickle.dumps(([array, array], [True]), protocol=2) if array.dtype != object else POINTERS)
        with pytest.raises(CrossresError, match=r"not a .bin of insightface \(it (holds an array|refers to)"):
            read_bin(path)
    path.write_bytes(b"\x80\x04garbage")
    with pytest.raises(CrossresError, match=r"not a .bin of insightface"):
        read_bin(path)
    path.write_bytes(pickle.dumps(([b"x"], [True, False])))
    with pytest.raises(CrossresError, match=r"1 images for 2 pairs, expected two for each$"):
        read_bin(path)
    with pytest.raises(CrossresError, match=r"No such file"):
        read_bin(tmp_path / "none.bin")


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
