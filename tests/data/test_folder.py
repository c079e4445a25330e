from __future__ import annotations

import os
import shutil
import subprocess
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres.config.yaml_file import load_yaml
from crossres.core.errors import CrossresError
from crossres.core.files import load_state
from crossres.data.faces import read_csv
from crossres.data.folder import IMAGE_SUFFIXES, files_below
from crossres.data.images import ImageSet
from crossres.data.items import Names
from crossres.data.readers import read
from crossres.deploy.gallery import Gallery
from crossres.deploy.recognizer import Recognizer
from crossres.models.teachers import stored_encoder


def fill(root: Path, **counts: int) -> Path:
    """Write ``counts[name]`` images into each folder ``name`` (``__`` stands for ``/``)."""
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, len(name), 7)).save(folder / f"{i}.png")
    return root


def paths(images: ImageSet) -> list[str]:
    return [images.path(i) for i in range(len(images))]


def fails(source: Path, match: str, **options: Any) -> None:
    options = {"split": "train", **options}
    with pytest.raises(CrossresError, match=match) as caught:
        read(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_given_splits(tmp_path: Path, name: str) -> None:
    fill(tmp_path, train__b=2, train__a=3, **{f"{name}__b": 1})
    train, test = (read(tmp_path, split=split) for split in ("train", "test"))
    assert train.classes == test.classes == ["a", "b"]
    assert paths(train) == [
        "train/a/0.png",
        "train/a/1.png",
        "train/a/2.png",
        "train/b/0.png",
        "train/b/1.png",
    ]
    assert paths(test) == [f"{name}/b/0.png"]
    assert test.labels.tolist() == [1]
    assert train.name == tmp_path.name


def test_test_is_preferred_to_val_unless_it_has_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, train__a=2, train__b=2, val__a=1, test=3)
    assert paths(read(tmp_path, split="test")) == ["val/a/0.png"]
    assert read(tmp_path, split="train").ignored == [f"{tmp_path}/test/"]
    fill(tmp_path, test__b=1)
    assert paths(read(tmp_path, split="test")) == ["test/b/0.png"]
    assert read(tmp_path, split="train").ignored == [f"{tmp_path}/val/"]


@pytest.mark.parametrize("prefix", ["", "train__"])
def test_split_by_seed(tmp_path: Path, prefix: str) -> None:
    fill(tmp_path, **{f"{prefix}a": 10, f"{prefix}b": 2, f"{prefix}c": 1})
    train, test = (read(tmp_path, split=split, seed=5) for split in ("train", "test"))
    assert train.class_counts.tolist() == [8, 1, 1]
    assert test.class_counts.tolist() == [2, 1, 0]
    assert not set(paths(train)) & set(paths(test))
    assert paths(test) == paths(read(str(tmp_path), split="test", seed=5))
    assert paths(test) != paths(read(tmp_path, split="test", seed=6))
    assert train.fingerprint != test.fingerprint


def test_a_file_more_or_less_leaves_the_held_out_ones_where_they_were(tmp_path: Path) -> None:
    fill(tmp_path, a=40, b=40)
    held = set(paths(read(tmp_path, split="test")))
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "zebra.png")
    fill(tmp_path, **{"b/more": 1})
    moved = held ^ set(paths(read(tmp_path, split="test")))
    # each change can push one image over the edge, and may itself be held out
    assert len(moved) <= 4


def test_all_of_a_folder_without_splits(tmp_path: Path) -> None:
    fill(tmp_path / "loose", a=3, b=2)
    whole = read(tmp_path / "loose", split="all")
    assert whole.class_counts.tolist() == [3, 2]
    fill(tmp_path / "one class", a=2)
    assert len(read(tmp_path / "one class", split="all")) == 2
    fill(tmp_path / "split", train__a=1, train__b=1, test__a=1)
    fails(tmp_path / "split", "has a train and a test split of its own; choose one of them", split="all")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, train=2, bus=2)
    assert read(tmp_path, split="train").classes == ["bus", "train"]


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("TRAIN", "Test"), ("train", "valid"), ("train", "dev"), ("Train", "eval")],
)
def test_splits_by_other_words(tmp_path: Path, train: str, test: str) -> None:
    fill(tmp_path, **{f"{train}__a": 2, f"{train}__b": 2, f"{test}__a": 1})
    assert read(tmp_path, split="train").class_counts.tolist() == [2, 2]
    assert paths(read(tmp_path, split="test")) == [f"{test}/a/0.png"]


def test_a_folder_that_may_be_a_class_or_a_split_is_refused(tmp_path: Path) -> None:
    fails(fill(tmp_path / "flat", train=2, test=2), "holds test and train: if they are splits, call them train and")
    both = fill(tmp_path / "both", train__a=2, train__b=1, ant=2, bee=1)
    fails(both, "holds train with class folders and, beside them, ant and bee with images: if the former are splits")
    fails(
        fill(tmp_path / "two", train__a=1, Training__a=1), "holds Training and train, two training splits: keep one"
    )
    fails(fill(tmp_path / "lone", test__a=2, test__b=2), "holds test but no train: keep one folder called train")
    # folders without images are neither
    (fill(tmp_path / "notes", train__a=2, train__b=2) / "labels").mkdir()
    assert read(tmp_path / "notes", split="train").ignored == [f"{tmp_path}/notes/labels/"]


def test_loose_images_sidecars_and_links(tmp_path: Path) -> None:
    fill(tmp_path / "a set", train__ant=2, train__bee=2, train=1, **{"train__ant__@eaDir": 2, "test__ant": 1})
    fill(tmp_path / "more", **{".": 2})
    (tmp_path / "a set" / "train" / "bee" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "a set" / "train" / "bee" / "up").symlink_to(tmp_path / "a set" / "train" / "bee")
    images = read(tmp_path / "a set", split="train")
    assert images.classes == ["ant", "bee"]
    assert images.class_counts.tolist() == [2, 4]
    assert paths(images)[-2:] == ["train/bee/more/0.png", "train/bee/more/1.png"]
    folder = tmp_path / "a set" / "train"
    assert images.ignored == [f"{folder}/0.png", f"{folder}/ant/@eaDir"]


def test_names_of_two_spellings_and_names_that_cannot_be_seen(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "two", **{f"train__{composed}": 2, "train__bee": 1, f"test__{decomposed}": 1})
    assert read(tmp_path / "two", split="test").labels.tolist() == [1]
    fill(tmp_path / "two", **{f"train__{decomposed}": 1})
    assert read(tmp_path / "two", split="train").class_counts.tolist() == [1, 3]
    for number, name in enumerate(("red\u00a0ant", "red\nant", "ant\u200b")):
        fails(fill(tmp_path / f"{number}", **{name: 1, "bee": 1}), "has characters that cannot be seen; rename it")


def test_images_of_another_ending_are_named(tmp_path: Path) -> None:
    fill(tmp_path, a=1, b=0)
    (tmp_path / "b" / "0.heic").write_bytes(b"x")
    fails(tmp_path, r"class folder .*b holds no images \(1 such; it has files that end in .heic\): fill it")


def test_only_images_count(tmp_path: Path) -> None:
    fill(tmp_path, a=1, b=1, a__deep=1)
    fill(tmp_path, **{".hidden": 1, "a__.thumbs": 1})
    for name in (".DS_Store", "note.txt", ".x.png"):
        (tmp_path / "a" / name).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x")
    Image.new("RGB", (4, 4)).save(tmp_path / "b" / "UPPER.JPG")
    whole = sorted(p for split in ("train", "test") for p in paths(read(tmp_path, split=split)))
    assert whole == ["a/0.png", "a/deep/0.png", "b/0.png", "b/UPPER.JPG"]


def test_every_suffix_is_read(tmp_path: Path) -> None:
    fill(tmp_path, train__b=1, test__a=1)
    (tmp_path / "train" / "a").mkdir()
    for suffix in IMAGE_SUFFIXES:
        image = Image.new("L" if suffix == ".pgm" else "RGB", (4, 4))
        image.save(tmp_path / "train" / "a" / f"x{suffix}")
    images = read(tmp_path, split="train", corrupt="skip")
    assert images.class_counts.tolist() == [len(IMAGE_SUFFIXES), 1]
    assert images.pixels(4).shape == (len(IMAGE_SUFFIXES) + 1, 3, 4, 4)
    assert images.skipped == []


def test_open_set_counts_its_own_classes(tmp_path: Path) -> None:
    fill(tmp_path, train__a=1, train__b=1, test__y=1, test__z=2)
    fails(tmp_path, "class 'y'.*does not have.*2 such", split="test")
    assert read(tmp_path, split="train").classes == ["a", "b"]
    assert read(tmp_path, split="test", open_set=True).classes == ["y", "z"]


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    fails(tmp_path / "bare", "no class folders and no images")
    fails(fill(tmp_path / "flat", **{".": 3}), "3 images but no class folders")
    fails(fill(tmp_path / "void", a=0, b=0), "holds no images")
    fails(fill(tmp_path / "gap", a=2, b=0, c=0), "class folder .*b holds no images .2 such")
    fails(fill(tmp_path / "one", a=3), "only one class, 'a'")
    fails(fill(tmp_path / "single", a=1), "one image in all")
    fails(fill(tmp_path / "pair", a=1, b=1), "nothing for a test split", split="test")
    assert len(read(tmp_path / "pair", split="train")) == 2


def test_missing_folder_suggests_the_nearest(tmp_path: Path) -> None:
    fill(tmp_path / "flowers", a=1, b=1)
    fails(tmp_path / "flower", "no data set .*flower'; did you mean 'flowers'")
    fails(tmp_path / "zzzzqqqq", "a folder, a parquet or tar file or one of digits, cifar10")
    (tmp_path / "a.zip").write_bytes(b"")
    fails(tmp_path / "a.zip", "is not a parquet or tar file")


def test_corrupt_files(tmp_path: Path) -> None:
    fill(tmp_path, train__a=3, train__b=2, test__a=1)
    (tmp_path / "train/a/1.png").write_bytes(b"broken")
    refused = read(tmp_path, split="train")
    with pytest.raises(CrossresError, match=r"train/a/1\.png.*1 of the 5 images"):
        refused.pixels(4)
    left = read(tmp_path, split="train", corrupt="skip")
    assert left.class_counts.tolist() == [2, 2]
    assert left.skipped == [str(tmp_path / "train/a/1.png")]
    np.testing.assert_array_equal(left.pixels(4)[1], refused.image(2).transpose(2, 0, 1))
    for i in range(2):
        (tmp_path / f"train/b/{i}.png").write_bytes(b"")
    fails(tmp_path, "class 'b' .* no image left after 3 corrupt", corrupt="skip")
    (tmp_path / "test/a/0.png").write_bytes(b"")
    fails(tmp_path, "class 'a' .* no image left", corrupt="skip", split="test")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file's name is always Unicode")
def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    fill(tmp_path, a=3, b=3)
    odd = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / odd)
    train, test = (read(tmp_path, split=split) for split in ("train", "test"))
    assert sorted(paths(train) + paths(test)) == sorted(
        [f"a/{odd}", "a/1.png", "a/2.png", *(f"b/{i}.png" for i in range(3))]
    )
    assert len(train.fingerprint) == 64
    assert train.pixels(4).shape == (4, 3, 4, 4)
    (tmp_path / "a").rename(tmp_path / os.fsdecode(b"\xe9"))
    fails(tmp_path, r"the class folder in .* '\\udce9' is not UTF-8; rename it")
    (tmp_path / os.fsdecode(b"\xe9")).rename(tmp_path / "a")
    odd_root = tmp_path.rename(tmp_path.with_name(os.fsdecode(b"\xe9")))
    fails(odd_root, r"the data set '\\udce9' is not UTF-8; rename it")
    odd_root.rename(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"), [("training_set", "test_set"), ("train_images", "val-images"), ("trn", "tst")]
)
def test_other_names_of_splits_are_no_classes(tmp_path: Path, train: str, test: str) -> None:
    for split in (train, test):
        fill(tmp_path / split, ant=3, bee=3)
    fails(tmp_path, "if they are splits, call them train and test and put a folder for each class into them; if they")
    fails(fill(tmp_path / "flat", **{train: 2, test: 2}), f"holds {' and '.join(sorted([train, test]))}: if they are")
    fill(tmp_path / "people" / "train_driver", front=2, side=2)
    fill(tmp_path / "people" / "pilot", front=2, side=2)
    assert read(tmp_path / "people", split="all").classes == ["pilot", "train_driver"]


def test_splits_are_not_looked_for_below_what_may_be_classes(tmp_path: Path) -> None:
    wrapped = fill(tmp_path / "wrapped", archive__train__ant=2, archive__test__ant=2, docs=1)
    fails(wrapped, r"wrapped/archive holds test and train: if it is the data set, give it; else put the splits above")
    inverted = fill(tmp_path / "inverted", ant__train=2, ant__test=1, bee__train=2, bee__test=1)
    fails(inverted, r"inverted/ant holds test and train: .* the classes, as in train/CLASS")


def test_nothing_vanishes_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "set", ant=3, bee=3)
    fill(root, **{".net": 2})
    assert read(root, split="train").ignored == [f"{root}/.net"]
    (root / "cat").symlink_to(tmp_path / "gone")
    fails(root, "set/cat is a link to nothing; mend it or remove it")
    (root / "cat").unlink()

    def closed(folder: str | Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("crossres.data.folder.os.scandir", closed)
    fails(root, "cannot read .*: Permission denied; no image is left out")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ant=3, bee=3)
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    with pytest.raises(CrossresError, match=r"ant/pipe\.png is not a file"):
        read(tmp_path, split="all").pixels(8)
    (tmp_path / "ant" / "pipe.png").unlink()
    (tmp_path / "ant" / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(CrossresError, match=r"ant/zero\.png is not a file"):
        read(tmp_path, split="all").pixels(8)
    for name, reader in {
        "x.parquet": lambda path: read(path, split="all"),
        "x.npz": stored_encoder,
        "x.gallery": Gallery.load,
        "x.onnx": Recognizer.load,
        "x.csv": read_csv,
        "state.pt": load_state,
        "x.yaml": load_yaml,
    }.items():
        os.mkfifo(tmp_path / name)
        with pytest.raises(CrossresError, match=rf"{name} is not a file"):
            reader(tmp_path / name)


def test_folders_nested_too_deep_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    Image.new("RGB", (8, 8)).save("a.png")
    os.chdir(tmp_path)
    started, refusal = time.perf_counter(), ""
    try:
        files_below(tmp_path)
    except CrossresError as error:  # Python 3.12 walks without recursion
        refusal = str(error)
    assert time.perf_counter() - started < 10
    assert refusal in ("", f"{tmp_path}: its folders are nested too deep; move the inner ones out")
    subprocess.run(["rm", "-rf", "d"], check=True)  # Python cannot


def test_a_copy_is_the_same_by_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "set", ant=3, bee=3)
    shutil.copytree(tmp_path / "set", tmp_path / "kept")
    shutil.copytree(tmp_path / "set", tmp_path / "other", copy_function=shutil.copyfile)
    os.utime(tmp_path / "other" / "ant" / "0.png", ns=(1, 1))

    def prints(verify: bool) -> list[str]:
        names = ("set", "kept", "other")
        return [read(tmp_path / name, split="all", verify=verify).fingerprint for name in names]

    one, kept, other = prints(verify=False)
    assert one == kept != other
    assert len(set(prints(verify=True))) == 1
    file = tmp_path / "set" / "ant" / "0.png"
    before, stat = prints(verify=True)[0], file.stat()
    file.write_bytes(bytes([*file.read_bytes()[:-1], 0]))  # of the same size, in the same tick of the clock
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prints(verify=False)[0] == one
    assert prints(verify=True)[0] != before


def test_the_list_of_many_images_is_small() -> None:
    tracemalloc.start()
    names = Names.of(f"train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(names), names[7], names[99_999]) == (
        100_000,
        "train/n00000007/n00000007_7.JPEG",
        "train/n00000999/n00000999_99999.JPEG",
    )
    assert size / len(names) < 50
