from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from crossres.core.errors import CrossresError
from crossres.data.folder import FileItems
from crossres.data.images import ArrayItems, ImageSet, left_out
from crossres.data.items import Numbers

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)


def in_memory(pixels: np.ndarray = PIXELS, name: str = "noise") -> ImageSet:
    return ImageSet(ArrayItems(pixels), np.arange(len(pixels)) % 2, ["even", "odd"], name)


@pytest.fixture
def on_disk(tmp_path: Path) -> ImageSet:
    paths = [f"{i}.png" for i in range(len(PIXELS))]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(tmp_path / path)
    return ImageSet(FileItems(tmp_path, paths), np.arange(10) % 2, ["even", "odd"], "noise")


class Samples(Dataset[torch.Tensor]):
    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.images.sample(i, 8)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_pixels_of_the_right_size_are_exact(on_disk: ImageSet, fit: str) -> None:
    expected = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
    for images in (in_memory(), on_disk):
        decoded = images.pixels(8, fit)
        assert decoded.dtype == torch.uint8
        assert torch.equal(decoded, expected)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_sample_equals_pixels(on_disk: ImageSet, fit: str) -> None:
    decoded = on_disk.pixels(5, fit)
    assert decoded.shape == (10, 3, 5, 5)
    for i in range(len(on_disk)):
        assert torch.equal(on_disk.sample(i, 5, fit), decoded[i])


def test_grey_array() -> None:
    grey = in_memory(PIXELS[..., 0])
    assert torch.equal(grey.pixels(8)[:, 1], torch.from_numpy(PIXELS[..., 0]))
    np.testing.assert_array_equal(grey.image(3)[..., 2], PIXELS[3, ..., 0])


def test_image_is_a_writeable_copy(on_disk: ImageSet) -> None:
    for images in (in_memory(), on_disk):
        first = images.image(0)
        np.testing.assert_array_equal(first, PIXELS[0])
        first[:] = 0
        np.testing.assert_array_equal(images.image(0), PIXELS[0])


def test_subset_keeps_order_and_composes(on_disk: ImageSet) -> None:
    part = on_disk.subset([7, 2, 5]).subset([True, False, True])
    assert len(part) == 2
    assert part.labels.tolist() == [1, 1]
    np.testing.assert_array_equal(part.image(0), PIXELS[7])
    assert part.path(1) == "5.png"
    assert part.class_counts.tolist() == [0, 2]
    with pytest.raises(IndexError):
        on_disk.subset([10])
    with pytest.raises(IndexError):
        part.image(2)


def test_some_classes_alone() -> None:
    images = ImageSet(ArrayItems(PIXELS), np.arange(len(PIXELS)) % 3, ["a", "b", "c"], "noise")
    part = images.of_classes(["c", "a"])
    assert part.classes == ["a", "c"]
    assert part.labels.tolist() == [{0: 0, 2: 1}[i % 3] for i in range(len(images)) if i % 3 != 1]
    kept = [i for i in range(len(images)) if i % 3 != 1]
    assert all(np.array_equal(part.image(row), images.image(i)) for row, i in enumerate(kept))
    assert images.classes == ["a", "b", "c"]
    with pytest.raises(CrossresError, match=r"^noise has no class 'cc'; did you mean 'c'"):
        images.of_classes(["a", "cc"])
    with pytest.raises(CrossresError, match=r"^noise: an empty list of classes; name at least 2 of its 3$"):
        images.of_classes([])


def test_fingerprint_follows_the_content(on_disk: ImageSet) -> None:
    images = in_memory()
    assert images.fingerprint == in_memory(name="other").fingerprint
    assert images.fingerprint != images.subset(range(9)).fingerprint
    assert images.fingerprint != in_memory(255 - PIXELS).fingerprint
    relabelled = ImageSet(ArrayItems(PIXELS), np.zeros(10), ["even", "odd"], "noise")
    assert images.fingerprint != relabelled.fingerprint
    before = on_disk.subset(range(10)).fingerprint
    assert before == on_disk.fingerprint
    file = Path(on_disk.where(4))
    os.utime(file, ns=(1, 1))
    assert before != on_disk.subset(range(10)).fingerprint
    file.unlink()
    with pytest.raises(CrossresError, match=r"4\.png is gone"):
        on_disk.subset(range(10)).fingerprint  # noqa: B018


def test_names_that_are_numbers_take_no_memory_and_count_as_names() -> None:
    count = 10_000
    items, labels = ArrayItems(np.zeros((count, 1, 1), np.uint8)), np.arange(count)
    tracemalloc.start()
    images = ImageSet(items, labels, Numbers(count), "many")
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 30 * count
    named = ImageSet(items, labels, [str(i) for i in range(count)], "many")
    assert list(images.classes) == named.classes
    assert images.fingerprint == named.fingerprint
    assert pickle.loads(pickle.dumps(images)).classes[-1] == "9999"


def test_enlarged_counts_before_and_after_decoding(tmp_path: Path) -> None:
    for name, size in {"a.png": (40, 20), "b.png": (10, 10), "c.png": (64, 64)}.items():
        Image.new("RGB", size).save(tmp_path / name)
    images = ImageSet(FileItems(tmp_path, ["a.png", "b.png", "c.png"]), [0, 0, 0], ["one"], "sizes")
    expected = {"crop": 2, "squash": 2, "pad": 1}
    assert {fit: images.enlarged(32, fit) for fit in expected} == expected
    again = images.subset([0, 1, 2])
    again.pixels(32)
    assert {fit: again.enlarged(32, fit) for fit in expected} == expected
    assert again.subset([2]).enlarged(32) == 0


def test_pickle_and_workers(on_disk: ImageSet) -> None:
    again = pickle.loads(pickle.dumps(on_disk))
    assert torch.equal(again.pixels(8), on_disk.pixels(8))
    batches = DataLoader(Samples(on_disk), batch_size=4, num_workers=1)
    assert torch.equal(torch.cat(list(batches)), on_disk.pixels(8))


def test_corrupt_images_are_named_and_counted(on_disk: ImageSet) -> None:
    for i in (3, 6):
        file = Path(on_disk.where(i))
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(CrossresError, match=r"3\.png.*2 of the 10 images of noise.*set corrupt to skip") as caught:
        on_disk.pixels(8)
    assert "\n" not in str(caught.value)
    with pytest.raises(CrossresError, match=r"6\.png"):
        on_disk.image(6)
    assert [i for i, _ in on_disk.corrupt()] == [3, 6]
    assert in_memory().corrupt() == []


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    images = ImageSet(FileItems(tmp_path, ["x.png", "gone.png"]), [0, 0], ["one"], "odd")
    with pytest.raises(CrossresError, match=r"x\.png: not an image"):
        images.image(0)
    with pytest.raises(CrossresError, match=r"gone\.png"):
        images.sample(1, 8)
    with pytest.raises(CrossresError, match=r"x\.png.*2 of the 2"):
        images.enlarged(8)


def test_decompression_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(CrossresError, match=r"bomb\.png.*bomb"):
        ImageSet(FileItems(tmp_path, ["bomb.png"]), [0], ["one"], "bombs").image(0)


def test_memory_shortage_is_not_called_corrupt(on_disk: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(FileItems, "open", short)
    with pytest.raises(MemoryError):
        on_disk.corrupt()


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(CrossresError, match=r"number 1 has label 2.*0 to 1"):
        ImageSet(ArrayItems(PIXELS[:2]), [0, 2], ["a", "b"], "x")
    with pytest.raises(CrossresError, match="label -1"):
        ImageSet(ArrayItems(PIXELS[:2]), [-1, 0], ["a", "b"], "x")
    with pytest.raises(CrossresError, match="2 images but labels of"):
        ImageSet(ArrayItems(PIXELS[:2]), [0], ["a", "b"], "x")


@pytest.mark.parametrize("array", [PIXELS.astype(np.float32), PIXELS[0, 0], PIXELS[..., :2]])
def test_wrong_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(CrossresError, match="should be uint8"):
        ArrayItems(array)


def test_what_a_reader_left_out_is_listed(on_disk: ImageSet) -> None:
    train, test = on_disk.subset([0, 1]), on_disk.subset([2])
    assert repr(train) == "ImageSet('noise', 2 images, 2 classes)"
    assert left_out({"train": train, "test": test}) == []
    test.skipped, train.ignored, test.ignored = ["2.png"], ["notes.txt"], ["notes.txt", *map(str, range(21))]
    named = ", ".join(["notes.txt", *map(str, range(19))])
    assert left_out({"train": train, "test": test}) == [
        "noise: 1 unreadable images of the test split left out: 2.png",
        f"noise: 22 files or folders ignored (not images or splits): {named} and 2 more",
    ]
