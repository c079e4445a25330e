"""Groups of images that belong together: where they are read, and that no split cuts one."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossres import CrossresError, read
from crossres.data.groups import (
    groups_in_both,
    groups_of_files,
    groups_of_several_classes,
    hold_out_groups,
    independent,
    joined_by_groups,
)
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.items import EncodedItems
from crossres.data.readers import read_unlabelled
from crossres.data.splits import hold_out_people, stratified_split


def frames(folder: Path, tracks: int = 6, length: int = 4) -> Path:
    """Tracks of frames of two things: cat/00_0.png, cat/00_1.png ..."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for track in range(tracks):
            for frame in range(length):
                Image.new("RGB", (8, 8), (track, frame, len(name))).save(folder / name / f"{track:02}_{frame}.png")
    return folder


def table(path: Path, **columns: list[object]) -> Path:
    Image.new("RGB", (8, 8)).save(path.with_suffix(".png"))
    image = path.with_suffix(".png").read_bytes()
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": [{"bytes": image, "path": None}] * rows, **columns}), path)
    return path


def test_a_pattern_on_paths_keeps_each_track_on_one_side(tmp_path: Path) -> None:
    source = frames(tmp_path / "tracks")
    sides = [read(source, split=split, test_fraction=0.3, group=r"([^/]+/\d+)_") for split in ("train", "test")]
    names = [set(images.groups) for images in sides]
    assert names[0] | names[1] == {f"{thing}/{track:02}" for thing in ("cat", "dog") for track in range(6)}
    assert not names[0] & names[1]
    assert sides[1].class_counts.tolist() == [8, 8]  # 2 of 6 tracks, the nearest to a share of 0.3
    for images in sides:
        assert [images.path(i).rpartition("_")[0] for i in range(len(images))] == images.groups.tolist()
    # without a bracket the whole of what is found is the name
    assert set(read(source, split="all", group="^[a-z]+").groups) == {"cat", "dog"}
    # without groups the frames of a track are torn apart
    plain = [read(source, split=split, test_fraction=0.3) for split in ("train", "test")]
    torn = [{images.path(i).rpartition("_")[0] for i in range(len(images))} for images in plain]
    assert torn[0] & torn[1]


def test_the_groups_of_many_images_take_few_bytes_each() -> None:
    count = 50_000
    images = ImageSet(EncodedItems([b""] * count, "none"), np.zeros(count, np.int64), ["a"], "many")
    tracemalloc.start()
    groups = groups_of_files(images, "([0-9])$")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert groups[:12].tolist() == [*"012345678901"]
    assert peak < 30 * count


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("(", r"^images\.group: '\(' is not a regular expression: "),
        ("png", r"^images\.group: 'png' is the same in all paths; give a pattern that finds a group's name$"),
        ("^cat", r"^images\.group: '\^cat' finds nothing in dog/00_0\.png \(24 of 48 such\)$"),
    ],
)
def test_patterns_that_say_nothing(tmp_path: Path, pattern: str, line: str) -> None:
    with pytest.raises(CrossresError, match=line):
        read(frames(tmp_path / "tracks"), split="train", group=pattern)


def test_a_column_of_parquet_files(tmp_path: Path) -> None:
    labels, tracks = [0] * 6 + [1] * 6, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    path = table(tmp_path / "signs.parquet", label=labels, track=tracks, weight=[0.5] * 12, gap=[None, *tracks[1:]])
    train, test = (read(path, split=split, group="track") for split in ("train", "test"))
    assert not set(train.groups) & set(test.groups)
    assert len(test) == 4
    for column, line in {
        "trak": r"^images\.group: signs\.parquet has no column 'trak', only image, label, track, weight, gap$",
        "weight": r"^images\.group: column 'weight' is double; expected integers or strings$",
        "gap": r"^images\.group: signs\.parquet row 0 has no 'gap' \(1 such rows\)$",
    }.items():
        with pytest.raises(CrossresError, match=line):
            read(path, split="train", group=column)
    one = table(tmp_path / "one.parquet", label=labels, track=[7] * 12)
    with pytest.raises(CrossresError, match="no class has more than one group; add groups or a test split"):
        read(one, split="test", group="track")
    with pytest.raises(CrossresError, match=r"^images\.group: 'digits' has neither columns nor paths; leave it out$"):
        read("digits", split="train", group="track")


def test_each_class_gives_about_its_share_and_keeps_a_group() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 400)
    groups = np.array([f"{label}-{rng.integers(20)}" for label in labels])
    labels, groups = np.append(labels, [5, 5, 5, 6]), np.append(groups, ["a", "a", "b", "c"])
    kept, held = stratified_split(labels, 0.2, 3, groups=groups)
    assert not set(groups[kept]) & set(groups[held])
    assert sorted([*kept, *held]) == list(range(len(labels)))
    counts = np.bincount(labels[held], minlength=7)
    assert (abs(counts[:5] - 80) <= 20).all()
    assert counts[5:].tolist() == [1, 0]  # the smaller of two groups; a group alone stays
    assert np.array_equal(held, stratified_split(labels, 0.2, 3, groups=groups)[1])
    assert not np.array_equal(held, stratified_split(labels, 0.2, 4, groups=groups)[1])


def test_a_scene_of_several_classes_is_not_cut() -> None:
    labels = np.array([0, 1] * 30)
    groups = np.repeat([f"scene {i}" for i in range(15)], 4)
    held = hold_out_groups(labels, groups, 0.2, 0)
    assert not set(groups[held]) & set(groups[~held])
    assert np.bincount(labels[held]).tolist() == [6, 6]


def test_people_in_one_video_go_together() -> None:
    labels, groups = np.array([0, 0, 1, 1, 2, 3, 4, 5]), np.array(["a", "b", "b", "c", "d", "d", "e", "f"])
    assert joined_by_groups(labels, groups, 7).tolist() == [0, 0, 2, 2, 4, 5, 6]
    labels = np.repeat(np.arange(20), 2)
    images = ImageSet(ArrayItems(np.zeros((40, 8, 8), np.uint8)), labels, [f"p{i}" for i in range(20)], "people")
    images.groups = np.array([f"video {label // 2}" for label in labels])
    train, val = hold_out_people(images, 0.3, 0)
    assert val is not None
    assert not set(train.groups) & set(val.groups)
    assert len(val.classes) >= 6
    images.groups = np.array(["one video"] * 40)
    with pytest.raises(
        CrossresError, match=r"people is 6, but groups join 20 of them; lower train\.val_fraction or check"
    ):
        hold_out_people(images, 0.3, 0)


def test_groups_on_both_sides_of_given_splits_are_reported(tmp_path: Path) -> None:
    for split in ("train", "test"):
        frames(tmp_path / "set" / split, tracks=3 if split == "train" else 2)
    train, test = (read(tmp_path / "set", split=split, group=r"(\w+/\d+)_") for split in ("train", "test"))
    line = "set: 4 of the groups are in the training and in the test images, first 'cat/00': results will be too high"
    assert (groups_in_both(train, test) or "").startswith(line)
    assert groups_in_both(train.subset(train.groups == "cat/02"), test) is None
    test.groups = None
    assert groups_in_both(train, test) is None


def test_of_a_group_the_first_image_is_independent() -> None:
    images = ImageSet(ArrayItems(np.zeros((5, 2, 2, 3), np.uint8)), np.zeros(5, np.int64), ["a"], "drawn")
    assert independent(images).tolist() == [0, 1, 2, 3, 4]
    images.groups = np.array(["b", "a", "b", "c", "a"])
    assert sorted(independent(images).tolist()) == [0, 1, 3]


def test_groups_numbered_anew_in_each_class_are_told(tmp_path: Path) -> None:
    folder = frames(tmp_path / "tracks")
    whole, within = (read(folder, split="train", group=group) for group in ("^[^_]+", "/([0-9]+)"))
    assert groups_of_several_classes(whole) is None
    line = groups_of_several_classes(within)
    assert line is not None
    assert line.startswith("tracks: ")
    assert " groups hold images of several classes, first '" in line


def test_crops_that_nobody_labelled_have_groups_where_they_are_named(tmp_path: Path) -> None:
    frames(tmp_path / "tracks")
    images = read_unlabelled(tmp_path / "tracks", group="^[^_]+")
    assert images.groups is not None
    assert images.groups[0] == images.path(0).partition("_")[0]
    assert read_unlabelled(tmp_path / "tracks", group="^cat").groups is None
    path = table(tmp_path / "signs.parquet", label=[0] * 4, track=[1, 1, 2, 2])
    assert read_unlabelled(path, group="track").groups.tolist() == ["1", "1", "2", "2"]
    assert read_unlabelled(path, group="trak").groups is None
