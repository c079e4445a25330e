"""Tar shards: samples, labels, the index of each shard, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.readers import read, read_unlabelled


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 2 * value, 0)).save(buffer, "png")
    return buffer.getvalue()


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def numbered(first: int, count: int) -> dict[str, bytes]:
    """Samples of two classes, 0 and 1 in turn."""
    every = range(first, first + count)
    return {name: content for i in every for name, content in ((f"{i}.png", png(i)), (f"{i}.cls", b"%d" % (i % 2)))}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSRES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path: Path, cache: Path) -> Path:  # noqa: ARG001
    """Three shards of training images, the second without any, and one of test images."""
    root = tmp_path / "set"
    tar(root / "train-000000.tar", numbered(0, 6))
    tar(root / "train-000001.tar", {"notes.txt": b"none here"})
    tar(root / "train-000002.tar", numbered(6, 5))
    tar(root / "test-000000.tar", numbered(20, 4))
    return root


def values(images: Any) -> list[int]:
    return [int(images.image(i)[0, 0, 0]) for i in range(len(images))]


def fails(source: Path, match: str, **options: Any) -> None:
    with pytest.raises(CrossresError, match=match) as caught:
        read(source, **{"split": "train", **options})
    assert "\n" not in str(caught.value)


def test_samples_of_all_shards_in_order(shards: Path, cache: Path) -> None:
    train, test = (read(shards, split=split) for split in ("train", "test"))
    assert values(train) == list(range(11))
    assert values(test) == [20, 21, 22, 23]
    assert train.labels.tolist() == [i % 2 for i in range(11)]
    assert (train.classes, train.name, train.path(7)) == (["0", "1"], "set", "7.png")
    assert train.where(7) == f"7.png in {shards}/train-000002.tar"
    assert train.ignored == [f"{shards}/train-000001.tar: notes.txt"]
    assert values(pickle.loads(pickle.dumps(train))) == list(range(11))
    made = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert len(made) == 4
    again = read(shards, split="train")
    assert (values(again), again.fingerprint) == (values(train), train.fingerprint)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == made


def test_shards_in_folders_named_by_split_and_one_alone(shards: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for number, shard in enumerate(sorted(shards.glob(f"{name}*"))):
            shard.rename(tmp_path / "other" / name / f"{number:04}.tar")
    assert values(read(tmp_path / "other", split="test")) == [20, 21, 22, 23]
    alone = read(tmp_path / "other" / "train" / "0000.tar", split="all")
    assert values(alone) == list(range(6))
    assert len(read_unlabelled(tmp_path / "other").classes) == 15


def test_labels_are_texts_json_or_a_key_of_it(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    members: dict[str, bytes] = {}
    for i, name in enumerate(["ant", "bee", "ant", "caf\u0065\u0301"]):
        other = json.dumps({"label": i % 2, "species": name, "box": [1, 2]}).encode()
        members |= {f"x/{i}.json": other, f"x/{i}.input.png": png(i), f"x/{i}.mask.png": png(9)}
    root = tar(tmp_path / "a.tar", members)
    fails(root, r"sample x/0 has two images, input.png and mask.png: name one ending with image_column")
    images = read(root, split="all", image_column="input.png")
    assert (values(images), images.labels.tolist(), images.classes) == ([0, 1, 2, 3], [0, 1, 0, 1], ["0", "1"])
    species = read(root, split="all", image_column="input.png", label_column="species")
    assert (species.labels.tolist(), species.classes) == ([0, 1, 0, 2], ["ant", "bee", "café"])
    texts = {
        f"{i}.{end}": content for i in range(4) for end, content in (("png", png(i)), ("cls", b"ab"[i // 2 :][:1]))
    }
    assert read(tar(tmp_path / "b.tar", texts), split="all").classes == ["a", "b"]
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert read(tar(tmp_path / "c.tar", numbered(0, 4)), split="all").classes == ["cat", "dog"]


def test_classes_of_the_test_are_those_of_the_training(shards: Path) -> None:
    tar(shards / "test-000000.tar", {"1.png": png(1), "1.cls": b"1"})
    assert read(shards, split="test").labels.tolist() == [1]
    tar(shards / "test-000000.tar", {"1.png": png(1), "1.cls": b"7"})
    fails(shards, "1.png in .* is of class '7', which the training split does not have", split="test")
    assert read(shards, split="test", open_set=True).classes == ["7"]


def test_groups_and_a_split_by_names(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    root = tar(tmp_path / "a.tar", numbered(0, 40))
    groups = read(root, split="all", group=r"(.)\.png").groups
    assert groups is not None
    assert groups[:12].tolist() == [*"012345678901"]
    parts = [values(read(root, split=split)) for split in ("train", "test")]
    assert sorted(parts[0] + parts[1]) == list(range(40))
    assert len(parts[1]) == 8


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (
            {"a.png": png(1), "b.png": png(2), "b.cls": b"1"},
            r"a.png in .*s.tar has no label \(1 such\); a sample has",
        ),
        (
            {"a.png": png(1), "a.cls": b"1", "b.png": png(2), "b.cls": b"one"},
            "labels are of two kinds: a.png in .* has 1 but b.png in .* has 'one'; give all as numbers or",
        ),
        ({"a.png": png(1), "a.json": b'{"label": 0.5}'}, "s.tar: the label of a.png is 0.5; expected an integer or"),
        (
            {"a.png": png(1), "a.json": b'{"label": true}'},
            "s.tar: the label of a.png is True; expected an integer or",
        ),
        ({"a.png": png(1), "a.json": b"[1"}, "s.tar: a.json is not a JSON object"),
        ({"a.png": png(1), "a.cls": b"-1"}, "a.png in .*s.tar has the label -1"),
        ({"a.png": png(1), "a.cls": b"\xff"}, "s.tar: a.cls is not UTF-8"),
        ({"a.png": png(1), "a.cls": bytes(2**20 + 1)}, "a.cls has 1,048,577 bytes, too many for a label"),
        ({"a.txt": b"1"}, r"s.tar holds no images \(.png"),
    ],
)
def test_samples_that_are_refused(tmp_path: Path, cache: Path, members: dict[str, bytes], match: str) -> None:
    fails(tar(tmp_path / "s.tar", members), match)
    assert not list(cache.glob("*.part"))


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    root = tar(tmp_path / "s.tar", {**numbered(0, 4), "0.png": b"", "1.png": png(1)[:40]})
    images = read(root, split="all")
    for i, reason in ((0, "it is empty"), (1, ".*")):
        with pytest.raises(CrossresError, match=rf"^cannot read image {i}.png in .*s.tar: {reason}$"):
            images.image(i)
    assert len(read(tar(tmp_path / "t.tar", {**numbered(0, 9), "0.png": b""}), split="all", corrupt="skip")) == 8


def test_a_shard_that_is_cut_short(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    whole = tar(tmp_path / "s.tar", numbered(0, 4)).read_bytes()
    end = 4 * (512 + 512 + 512 + 512)
    for kept in (
        100,
        700,
        end - 300,
        end - 512,
        end,
    ):  # in a header, in an image, in a label, between two, without an end
        (tmp_path / "s.tar").write_bytes(whole[:kept])
        fails(tmp_path / "s.tar", "s.tar is cut short", split="all")
    (tmp_path / "s.tar").write_bytes(whole[:1024] + b"x" * 512 + whole[1536:])
    fails(tmp_path / "s.tar", r"s.tar is cut short or damaged at byte 1,024: fetch it again", split="all")


def test_a_shard_that_changes(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    path = tar(tmp_path / "s.tar", numbered(0, 4))
    before = read(path, split="all")
    tar(path, numbered(10, 4))
    os.utime(path, ns=(1, 1))
    with pytest.raises(CrossresError, match=r"^\S*s\.tar changed after it was read first: start again, it is then"):
        before.image(2)
    after = read(path, split="all")
    assert values(after) == [10, 11, 12, 13]
    assert after.fingerprint != before.fingerprint
    with path.open("rb+") as file:
        file.truncate(5000)  # while it is open
    with pytest.raises(CrossresError, match=r"s\.tar was cut short after it was read first: fetch it again"):
        after.image(3)


def test_a_damaged_index_is_made_again(shards: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(shards, split="train")
    for damage in (lambda content: content[:-9], lambda content: content.replace(b"7.png", b"8.png"), lambda _: b""):
        for file in (files := sorted(cache.iterdir())):
            file.write_bytes(damage(file.read_bytes()))
        assert values(read(shards, split="train")) == list(range(11))
        lines = capsys.readouterr().err.splitlines()
        assert lines
        assert all(" is damaged (" in line and line.endswith(".tar again") for line in lines)
        assert sorted(cache.iterdir()) == files
        read(shards, split="train")
        assert not capsys.readouterr().err


def test_an_index_of_another_reader_is_not_used(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read(shards, split="train")) == 11
    monkeypatch.setattr("crossres.data.tars.IMAGE_SUFFIXES", (".jpg",))
    fails(shards, r"holds no images \(\.jpg\)")


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that read the headers of shards, which take half a second each."""
    seen: list[int] = []
    real = tarfile.open

    def slow(*given: Any, **how: Any) -> Any:
        seen.append(get_ident())
        time.sleep(0.5)
        return real(*given, **how)

    monkeypatch.setattr(tarfile, "open", slow)
    return seen


def test_one_of_several_readers_makes_an_index(tmp_path: Path, cache: Path, readers: list[int]) -> None:
    shard = tar(tmp_path / "a.tar", numbered(0, 6))
    readers.clear()  # that one was written
    with ThreadPoolExecutor(3) as pool:
        sets = list(pool.map(lambda _: read(shard, split="all"), range(3)))
    assert [values(images) for images in sets] == [list(range(6))] * 3
    assert len(readers) == 1
    assert [file.suffix for file in cache.iterdir()] == [".npz"]


def test_several_readers_share_the_shards(tmp_path: Path, readers: list[int]) -> None:
    for number in (0, 1):
        tar(tmp_path / f"train-{number}.tar", numbered(6 * number, 6))
    readers.clear()
    with ThreadPoolExecutor(2) as pool:
        sets = list(pool.map(lambda _: read(tmp_path, split="all"), range(2)))
    assert [values(images) for images in sets] == [list(range(12))] * 2
    assert len(readers) == len(set(readers)) == 2  # none waited for the other's shard


def test_the_fingerprint_follows_times_or_bytes(shards: Path) -> None:
    def prints() -> tuple[str, str]:
        fast, exact = (read(shards, split="train", verify=verify).fingerprint for verify in (False, True))
        return fast, exact

    first = prints()
    assert first == prints()
    os.utime(shards / "train-000002.tar", ns=(1, 1))
    later = prints()
    assert first[0] != later[0]
    assert first[1] == later[1]
    content = (shards / "train-000002.tar").read_bytes()
    other = png(77)
    (shards / "train-000002.tar").write_bytes(content.replace(png(7), other))
    os.utime(shards / "train-000002.tar", ns=(1, 1))
    if len(other) == len(png(7)):  # the same size and time: bytes alone tell
        assert prints()[0] == later[0]
    assert prints()[1] != later[1]


def test_two_endings_of_one_shard_have_fingerprints_of_their_own(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    samples = [
        (f"{i}.{end}", content)
        for i in range(4)
        for end, content in (("front.png", png(i)), ("back.png", png(9 + i)), ("cls", b"%d" % (i % 2)))
    ]
    root = tar(tmp_path / "a.tar", dict(samples))
    front, back = (read(root, split="all", image_column=f"{side}.png") for side in ("front", "back"))
    assert front.fingerprint != back.fingerprint


def test_parquet_beside_tars_is_refused(shards: Path) -> None:
    (shards / "train.parquet").touch()
    fails(shards, "holds test-000000.tar and train.parquet: move the shards of one kind away")
    (shards / "train.parquet").unlink()
    (shards / "a.tar.gz").touch()
    fails(shards / "a.tar.gz", "is not a parquet or tar file; give one, or a folder")


def test_an_index_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    hint = r"^cannot write .*tar-.*; nothing was changed; it says where a tar's images lie: set \$CROSSRES_CACHE$"
    fails(tar(tmp_path / "s.tar", numbered(0, 4)), hint, cache=tmp_path / "file")


def test_numpy_labels_and_positions(shards: Path) -> None:
    images = read(shards, split="train")
    assert images.labels.dtype == np.int64
    assert images.runs is not None
    assert images.runs.tolist() == [0] * 6 + [1] * 5
    assert images.subset([0, 7, 10]).runs.tolist() == [0, 1, 1]  # type: ignore[union-attr]
