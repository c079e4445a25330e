"""The loader: the same view at two resolutions, the same batches for everyone who asks alike."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from crossres import CrossresError, Degradation, read
from crossres.core.types import Batch
from crossres.data.degrade import degrade, recoloured
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader, shift_and_flip, zoomed
from crossres.data.streams import stream_order

SIDE, COUNT = 16, 23
KERNELS = ["area", "bilinear", "bicubic", "lanczos", "nearest"]


@pytest.fixture
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return ImageSet(ArrayItems(array), np.arange(COUNT) % 3, ["a", "b", "c"], "noise")


def loader(images: ImageSet, **options: Any) -> Loader:
    settings: dict[str, Any] = {"hr_size": SIDE, "lr_size": 8, "batch_size": 6, "shift": 3, "flip": True, "seed": 5}
    return Loader(images, **(settings | options))


def assert_same(ours: Batch, theirs: Batch) -> None:
    for name in ("lr", "label", "index", "view"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert (ours.hr is None) == (theirs.hr is None)
    if ours.hr is not None:
        assert torch.equal(ours.hr, theirs.hr)


def pixels_of(images: ImageSet) -> np.ndarray:
    return np.stack([images.image(i) for i in range(len(images))])


def naive_view(image: np.ndarray, down: int, right: int, flip: bool) -> np.ndarray:
    """One image (H, W, 3), pixel by pixel."""
    height, width = image.shape[:2]
    out = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            source = []
            for position, size in ((y - down, height), (x - right, width)):
                while not 0 <= position < size:  # bounce off the borders, which are not repeated
                    position = -position if position < 0 else 2 * (size - 1) - position
                source.append(position)
            out[y, x] = image[source[0], source[1]]
    return out[:, ::-1] if flip else out


# -- shift_and_flip


@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 9), (2, 2), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shift_and_flip_against_a_loop(height: int, width: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, height, width, 3), dtype=np.uint8)
    shift = np.stack([rng.integers(-(n - 1), n, 12) for n in (height, width)], 1)
    flip = rng.random(12) < 0.5
    shift[0], flip[0] = 0, False  # one stays as it is
    shift[1] = height - 1, 1 - width  # and one goes as far as it may
    ours = shift_and_flip(
        torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype), torch.from_numpy(shift), torch.from_numpy(flip)
    )
    assert ours.dtype == dtype
    for i in range(12):
        expected = naive_view(images[i], int(shift[i, 0]), int(shift[i, 1]), bool(flip[i]))
        assert np.array_equal(ours[i].permute(1, 2, 0).numpy(), expected), i
    assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), images[0])


# -- what a batch holds


@pytest.mark.parametrize("kernel", KERNELS)
def test_hr_and_lr_are_the_same_view(images: ImageSet, kernel: Any) -> None:
    batches = list(loader(images, degradation=Degradation(kernel=kernel)).epoch(0, hr=True))
    assert len(batches) == 3
    for batch in batches:
        assert batch.hr is not None
        assert batch.hr.shape == (6, 3, SIDE, SIDE)
        assert batch.lr.shape == (6, 3, 8, 8)
        assert batch.hr.dtype == batch.lr.dtype == torch.float32
        assert torch.equal(batch.lr, degrade(batch.hr, 8, Degradation(kernel=kernel)))
        for part in (batch.hr, batch.lr):
            assert part.min() >= 0
            assert part.max() <= 1


def test_hr_is_the_named_image_in_the_named_view(images: ImageSet) -> None:
    """Every HR image is its source, shifted by at most `shift` and flipped exactly where `view` says so."""
    source = pixels_of(images)
    shifts, views = set(), set()
    for epoch in range(4):
        for batch in loader(images).epoch(epoch, hr=True):
            assert batch.hr is not None
            assert torch.equal(batch.label, batch.index % 3)
            for hr, i, view in zip(batch.hr, batch.index.tolist(), batch.view.tolist(), strict=True):
                seen = (hr * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
                seen = seen[:, ::-1] if view else seen
                inner = seen[3:-3, 3:-3]  # what no border was mirrored into
                found = [
                    (down, right)
                    for down in range(-3, 4)
                    for right in range(-3, 4)
                    # after the flip is undone, the shift is plain
                    if np.array_equal(inner, source[i][3 - down : 13 - down, 3 - right : 13 - right])
                ]
                assert len(found) == 1
                shifts.add(found[0])
                views.add(view)
    assert views == {0, 1}
    assert {down for down, _ in shifts} == {right for _, right in shifts} == set(range(-3, 4))


def test_without_augmentation_hr_is_the_image(images: ImageSet) -> None:
    source = torch.from_numpy(pixels_of(images)).permute(0, 3, 1, 2)
    for batch in loader(images, shift=0, flip=False).epoch(0, hr=True):
        assert batch.hr is not None
        assert torch.equal((batch.hr * 255).round().to(torch.uint8), source[batch.index])
        assert not batch.view.any()


def test_lr_is_native_and_the_same_with_or_without_hr(images: ImageSet) -> None:
    with_hr, without = loader(images, lr_size=7).epoch(2, hr=True), loader(images, lr_size=7).epoch(2)
    for ours, theirs in zip(with_hr, without, strict=True):
        assert theirs.hr is None
        assert ours.lr.shape[-2:] == (7, 7)
        assert torch.equal(ours.lr, theirs.lr)


@pytest.mark.parametrize("degradation", [Degradation(), Degradation().resolved(), Degradation(kernel="area")])
def test_at_full_size_lr_is_hr(images: ImageSet, degradation: Degradation) -> None:
    for batch in loader(images, lr_size=SIDE, degradation=degradation).epoch(0):
        assert batch.lr is batch.hr


def test_realistic_is_degraded_at_full_size_too(images: ImageSet) -> None:
    for batch in loader(images, lr_size=SIDE, degradation=Degradation(preset="realistic")).epoch(0, hr=True):
        assert batch.hr is not None
        assert not torch.equal(batch.lr, batch.hr)


def test_a_range_of_sizes(images: ImageSet) -> None:
    one, two = (next(iter(loader(images, lr_size=(4, 8)).epoch(e, hr=True))) for e in (0, 0))
    assert one.lr.shape == (6, 3, 8, 8)
    assert_same(one, two)
    # each image came through one of the sizes, enlarged again as Pillow does; not all through the same
    assert one.hr is not None
    sizes = set()
    for hr, lr in zip(one.hr, one.lr, strict=True):
        errors = {}
        for size in range(4, 9):
            small = degrade(hr[None], size)
            picture = Image.fromarray((small[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
            again = np.asarray(picture.resize((8, 8), Image.Resampling.BICUBIC)) / 255
            errors[size] = np.abs(again - lr.permute(1, 2, 0).numpy()).mean()
        sizes.add(min(errors, key=lambda size: errors[size]))
        assert min(errors.values()) < 0.02
    assert len(sizes) > 1


@pytest.mark.parametrize(("size", "message"), [(17, "larger than hr_size 16|16"), ((8, 4), "empty"), (0, "1 pixel")])
def test_sizes_that_cannot_be_are_refused(images: ImageSet, size: Any, message: str) -> None:
    with pytest.raises(CrossresError, match=message):
        next(iter(loader(images, lr_size=size).epoch(0)))


# -- who gets which batches


@pytest.mark.parametrize("preset", ["clean", "realistic"])
def test_an_epoch_is_its_number_and_seed_alone(images: ImageSet, preset: Any) -> None:
    options: dict[str, Any] = {"degradation": Degradation(preset=preset), "lr_size": (6, 8)}
    first = list(loader(images, **options).epoch(3, hr=True))
    torch.manual_seed(99)
    torch.rand(5)
    again = loader(images, **options)
    list(again.epoch(0))  # what was served before does not count
    state = torch.get_rng_state()
    for ours, theirs in zip(first, again.epoch(3, hr=True), strict=True):
        assert_same(ours, theirs)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (again.epoch(4, hr=True), loader(images, **(options | {"seed": 6})).epoch(3, hr=True)):
        indices = torch.cat([batch.index for batch in other])
        assert not torch.equal(indices, torch.cat([batch.index for batch in first]))
    # seed 5, epoch 4 is not seed 6, epoch 3
    other = loader(images, **(options | {"seed": 6})).epoch(3)
    assert not torch.equal(next(iter(other)).lr, next(iter(again.epoch(4))).lr)


def memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it is read on Linux")
def test_what_is_drawn_for_an_epoch_takes_few_bytes_an_image() -> None:
    count = 1_000_000
    pixels = np.zeros((count, 2, 2, 3), np.uint8)
    many = ImageSet(ArrayItems(pixels), np.zeros(count, np.int64), ["a"], "zeros")
    served = loader(many, hr_size=2, lr_size=1, shift=1, batch_size=10_000)
    next(served.epoch(0))
    before = memory()
    epoch = served.epoch(0)
    next(epoch)
    assert memory() - before < 30 * count
    shared = loader(many, hr_size=2, lr_size=1, shift=1, batch_size=10_000, rank=1, world_size=10)
    del epoch
    before = memory()
    epoch = shared.epoch(0)
    next(epoch)
    assert memory() - before < 10 * count


def test_a_process_without_a_share_of_a_batch(images: ImageSet) -> None:
    served = loader(images, batch_size=5, rank=3, world_size=4)
    assert [len(batch.lr) for batch in served.epoch(0)] == [0] * 4


def test_an_epoch_serves_no_image_twice(images: ImageSet) -> None:
    whole = loader(images)
    assert whole.steps == 3
    seen = torch.cat([batch.index for batch in whole.epoch(0)])
    assert len(seen) == len(set(seen.tolist())) == 18
    every = {i for epoch in range(8) for batch in whole.epoch(epoch) for i in batch.index.tolist()}
    assert every == set(range(COUNT))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("options", [{}, {"degradation": Degradation(preset="realistic"), "lr_size": (5, 8)}])
@pytest.mark.parametrize("memory_mb", [4096, 0])
def test_the_shares_of_the_ranks_are_the_batch(
    images: ImageSet, ranks: int, options: dict[str, Any], memory_mb: int
) -> None:
    options = {**options, "memory_mb": memory_mb, "workers": 0}
    whole = loader(images, **options).epoch(1, hr=True)
    shares = [loader(images, rank=r, world_size=ranks, **options).epoch(1, hr=True) for r in range(ranks)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part.label) for part in parts] == [6 // ranks] * ranks
        for name in ("hr", "label", "index", "view", "lr"):
            joined = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(joined, getattr(batch, name), rtol=0, atol=1e-6, msg=name)


def test_every_rank_sees_all_of_an_ordered_pass(images: ImageSet) -> None:
    for rank in range(2):
        seen = [batch.index for batch in loader(images, rank=rank, world_size=2).ordered()]
        assert torch.equal(torch.cat(seen), torch.arange(COUNT))


# -- in order


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 7, COUNT, 100])
def test_ordered_serves_every_image_once_unshifted(images: ImageSet, flip: bool, batch_size: int | None) -> None:
    batches = list(loader(images).ordered(flip=flip, hr=True, batch_size=batch_size))
    assert len(batches[0].label) == min(batch_size or 6, COUNT)
    assert torch.equal(torch.cat([b.index for b in batches]), torch.arange(COUNT))
    assert torch.equal(torch.cat([b.label for b in batches]), torch.arange(COUNT) % 3)
    assert torch.equal(torch.cat([b.view for b in batches]), torch.full((COUNT,), int(flip)))
    hr = torch.cat([b.hr for b in batches if b.hr is not None])
    source = torch.from_numpy(pixels_of(images)).permute(0, 3, 1, 2)
    assert torch.equal((hr * 255).round().to(torch.uint8), source.flip(-1) if flip else source)
    torch.testing.assert_close(torch.cat([b.lr for b in batches]), degrade(hr, 8), rtol=0, atol=1 / 255)


def test_ordered_degrades_alike_each_time_in_batches_of_any_size(images: ImageSet) -> None:
    served = loader(images, degradation=Degradation(preset="realistic"))
    one, two = (torch.cat([b.lr for b in served.ordered()]) for _ in range(2))
    assert torch.equal(one, two)
    for batch_size in (1, 7, 100):
        other = torch.cat([b.lr for b in served.ordered(batch_size=batch_size)])
        # one JPEG coefficient that rounds otherwise changes a block by a few steps of 8 bits
        assert (other - one).abs().mean() < 0.1 / 255
        assert (other - one).abs().median() < 1e-6


def test_some_images_are_degraded_as_among_all(images: ImageSet) -> None:
    served = loader(images, lr_size=(5, 8), degradation=Degradation(blur=(0.1, 2), noise=(0.1, 0.1)))
    (whole,) = served.ordered(hr=True, batch_size=100)
    (some,) = served.ordered([20, 3, 8], hr=True)
    assert some.index.tolist() == [20, 3, 8]
    torch.testing.assert_close(some.lr, whole.lr[[20, 3, 8]], rtol=0, atol=2 / 255)
    assert torch.equal(some.hr, whole.hr[[20, 3, 8]])
    assert torch.equal(some.label, some.index % 3)
    rest = torch.cat([b.index for b in served.ordered(range(19, COUNT), batch_size=3)])
    assert rest.tolist() == list(range(19, COUNT))
    assert list(served.ordered([])) == []


def test_the_same_images_at_another_size_and_degradation(images: ImageSet) -> None:
    served = loader(images, degradation=Degradation(kernel="area"))
    small, blurred, hr = served.at(4), served.at((4, 6), Degradation(blur=(2, 2))), served.at(SIDE, Degradation())
    for ours, theirs in (
        (small, loader(images, lr_size=4, degradation=Degradation(kernel="area"))),
        (blurred, loader(images, lr_size=(4, 6), degradation=Degradation(blur=(2, 2)))),
        (served, loader(images, degradation=Degradation(kernel="area"))),
    ):
        for one, other in zip(ours.ordered(), theirs.ordered(), strict=True):
            assert_same(one, other)
    assert all(batch.lr is batch.hr for batch in hr.ordered())


# -- decoded on the fly


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of mixed sizes, shapes and formats."""
    root = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for i, suffix in enumerate(("png", "jpg", "png", "bmp", "webp", "png", "png")):
            width, height = rng.integers(12, 40, 2)
            mode = "L" if i == 2 else "RGB"
            shape = (height, width) if mode == "L" else (height, width, 3)
            picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)
            picture.save(root / name / f"{i}.{suffix}")
    return root


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_decoded_on_the_fly_is_the_same_to_the_last_bit(folder: Path, workers: int, fit: Any) -> None:
    images = read(folder, split="train", test_fraction=0.2)
    options: dict[str, Any] = {"fit": fit, "batch_size": 4, "degradation": Degradation(preset="realistic")}
    memory, files = loader(images, **options), loader(images, memory_mb=0, workers=workers, **options)
    assert memory.in_memory
    assert not files.in_memory
    for ours, theirs in zip(memory.epoch(1, hr=True), files.epoch(1, hr=True), strict=True):
        assert_same(ours, theirs)
    for ours, theirs in zip(memory.ordered(flip=True, hr=True), files.ordered(flip=True, hr=True), strict=True):
        assert_same(ours, theirs)


def test_decoding_on_the_fly_leaves_the_global_generator_alone(images: ImageSet) -> None:
    state = torch.get_rng_state()
    served = loader(images, memory_mb=0, workers=0)
    list(served.epoch(0))
    list(served.ordered())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_budget_decides(images: ImageSet) -> None:
    larger = ImageSet(ArrayItems(np.zeros((400, 32, 32, 3), np.uint8)), [0] * 400, ["a"], "zeros")
    assert larger.pixels(32).numel() > 2**20
    assert loader(larger, hr_size=32, memory_mb=1).in_memory is False
    assert loader(larger, hr_size=32, memory_mb=2).in_memory
    assert loader(images, memory_mb=1).in_memory


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_is_named_while_decoding_on_the_fly(folder: Path, tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(
                (folder / name / "0.png").read_bytes()[: 60 if i == 1 else None]
            )
    images = read(tmp_path, split="train", test_fraction=0.01)
    with pytest.raises(CrossresError, match=r"^cannot read image [^\n]*1\.png: [^\n]*$"):
        list(loader(images, memory_mb=0, workers=workers, batch_size=2).ordered())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_decoding_process_that_is_killed(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ImageSet, "sample", killed)
    with pytest.raises(CrossresError, match=r"^a process that decodes images was killed \(.*: give fewer images\.w"):
        list(loader(images, memory_mb=0, workers=1).epoch(0))


# -- small sets


def test_a_set_smaller_than_the_batch_is_one_batch(images: ImageSet) -> None:
    few = images.subset([3, 1, 4])
    served = loader(few, batch_size=128)
    assert served.batch_size == 3
    assert served.steps == 1
    (batch,) = served.epoch(0)
    assert sorted(batch.index.tolist()) == [0, 1, 2]
    assert torch.equal(batch.label, torch.tensor([0, 1, 1])[batch.index])
    assert sum(len(b.label) for b in served.ordered()) == 3


def test_one_image(images: ImageSet) -> None:
    (batch,) = loader(images.subset([0]), batch_size=4).epoch(0)
    assert batch.lr.shape == (1, 3, 8, 8)


def test_a_shift_beyond_the_image_is_cut(images: ImageSet) -> None:
    assert len(list(loader(images, shift=100).epoch(0))) == 3


def test_images_are_brought_to_hr_size(images: ImageSet) -> None:
    for batch in loader(images, hr_size=12, lr_size=6).epoch(0, hr=True):
        assert batch.hr is not None
        assert batch.hr.shape[-2:] == (12, 12)
        assert batch.lr.shape[-2:] == (6, 6)


@pytest.mark.parametrize(("ranks", "expected"), [(1, 23), (2, 22), (4, 20), (30, 1)])
def test_a_small_sets_batch_divides_over_the_ranks(images: ImageSet, ranks: int, expected: int) -> None:
    assert loader(images, batch_size=100, world_size=ranks).batch_size == expected


def balanced(labels: list[int], **how: Any) -> list[torch.Tensor]:
    pixels = np.zeros((len(labels), 4, 4, 3), dtype=np.uint8)
    classes = [str(i) for i in range(max(labels) + 1)]
    loader = Loader(ImageSet(ArrayItems(pixels), labels, classes, "few"), hr_size=4, lr_size=4, **how)
    return [batch.index for batch in loader.epoch(0)]


def test_classes_and_not_images_are_drawn_where_asked():
    labels = [0] * 20 + [1] + [2, 2] + [3] * 5  # 28 images
    batches = balanced(labels, batch_size=4, images_per_class=2)
    assert len(batches) == 7
    met = [0] * 4
    for index in batches:
        of = [labels[i] for i in index.tolist()]
        assert of[0] == of[1]
        assert of[2] == of[3]
        for pair, label in ((index[:2], of[0]), (index[2:], of[2])):
            assert (pair[0] == pair[1]) == (label == 1)  # the class with one image meets itself
            met[label] += 1
    assert max(met) - min(met) <= 1
    again, other = (balanced(labels, batch_size=4, images_per_class=2, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.cat(again), torch.cat(batches))
    assert not torch.equal(torch.cat(other), torch.cat(batches))
    odd = balanced(labels, batch_size=5, images_per_class=2)
    assert [len(index) for index in odd] == [5] * 5


def test_the_processes_of_a_balanced_run_share_its_batches():
    labels = [i // 3 for i in range(24)]
    whole = balanced(labels, batch_size=8, images_per_class=2)
    halves = [balanced(labels, batch_size=8, images_per_class=2, rank=rank, world_size=2) for rank in (0, 1)]
    for index, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(index, torch.cat([first, second]))


def test_zoom_enlarges_about_the_centre():
    x = torch.linspace(-1, 1, 33).expand(1, 1, 33, 33)
    images = torch.cat([x, x.transpose(2, 3)])
    near, far, same = (zoomed(images, torch.full((2,), factor)) for factor in (2.0, 0.5, 1.0))
    torch.testing.assert_close(same, images)
    torch.testing.assert_close(near, images / 2, atol=0.02, rtol=0)
    inside = slice(9, 24)
    torch.testing.assert_close(far[..., inside, inside], 2 * images[..., inside, inside], atol=0.02, rtol=0)
    assert far.abs().max() <= 1  # mirrored, not extrapolated
    each = zoomed(images, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(each, torch.stack([near[0], images[1]]))


def test_a_zoomed_view_is_the_same_at_both_resolutions():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    images = ImageSet(ArrayItems(pixels), [0, 1] * 4, ["a", "b"], "noise")
    loader = Loader(images, hr_size=16, lr_size=8, batch_size=8, zoom=0.2)
    (batch,) = loader.epoch(0, hr=True)
    assert torch.equal(batch.lr, degrade(batch.hr, 8, Degradation()))
    plain = torch.from_numpy(pixels).permute(0, 3, 1, 2)[batch.index] / 255
    changed = (batch.hr - plain).flatten(1).abs().amax(1)
    assert (changed > 0.01).all()
    (first,) = loader.ordered(hr=True)
    torch.testing.assert_close(first.hr, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


def test_recoloured_is_what_torchvision_says_of_each_image():
    from torchvision.transforms.v2 import functional as T

    images = 0.2 + 0.6 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # torchvision's contrast is about the mean luminance, which is ours where an image is grey
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    factor = torch.tensor([[0.8, 1.2, 1.0], [1.1, 0.7, 1.0]])
    wanted = [
        T.adjust_contrast(T.adjust_brightness(x, b), c) for x, (b, c, _) in zip(grey, factor.tolist(), strict=True)
    ]
    torch.testing.assert_close(recoloured(grey, factor), torch.stack(wanted), atol=1e-3, rtol=0)
    for saturation in (0.0, 0.5, 1.3):
        wanted_of_all = T.adjust_saturation(images, saturation)
        found = recoloured(images, torch.tensor([1.0, 1.0, saturation]).expand(2, -1))
        torch.testing.assert_close(found, wanted_of_all, atol=1e-3, rtol=0)


def test_a_recoloured_view_is_the_same_at_both_resolutions_and_drawn_for_each_image():
    pixels = np.random.default_rng(0).integers(60, 200, (8, 16, 16, 3), dtype=np.uint8)
    images = ImageSet(ArrayItems(pixels), [0, 1] * 4, ["a", "b"], "noise")
    loader = Loader(images, hr_size=16, lr_size=8, batch_size=8, colour=0.3)
    (batch,) = loader.epoch(0, hr=True)
    assert torch.equal(batch.lr, degrade(batch.hr, 8, Degradation()))
    plain = torch.from_numpy(pixels).permute(0, 3, 1, 2)[batch.index] / 255
    brighter = batch.hr.mean((1, 2, 3)) / plain.mean((1, 2, 3))
    assert brighter.std() > 0.05
    assert ((brighter > 0.65) & (brighter < 1.35)).all()
    (first,) = loader.ordered(hr=True)
    torch.testing.assert_close(first.hr, plain[batch.index.argsort()])


# -- shards beyond the memory budget


@pytest.fixture(params=["tar", "parquet"])
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """70 images in three shards, in runs of four."""
    monkeypatch.setattr("crossres.data.tars.RUN", 4)
    monkeypatch.setattr("crossres.data.shards._ROWS", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8)
    for number, rows in enumerate(np.split(np.arange(70), [30, 55])):
        samples = []
        for i in rows.tolist():
            buffer = io.BytesIO()
            Image.fromarray(pixels[i]).save(buffer, "png")
            samples.append((f"{i}", buffer.getvalue(), i % 3))
        if request.param == "tar":
            with tarfile.open(tmp_path / f"a-{number}.tar", "w") as archive:
                for name, image, label in samples:
                    for ending, content in (("png", image), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{name}.{ending}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
        else:
            table = pa.table({"image": [each[1] for each in samples], "label": [each[2] for each in samples]})
            pq.write_table(table, tmp_path / f"a-{number:05}-of-00003.parquet", row_group_size=2)
    return read(tmp_path, split="all", memory_mb=0, cache=tmp_path / "cache")


STREAMED: dict[str, Any] = {"hr_size": 8, "lr_size": 4, "memory_mb": 0, "workers": 0, "buffer": 16, "batch_size": 8}


def order_of(loader: Loader, epoch: int) -> list[int]:
    return [i for batch in loader.epoch(epoch) for i in batch.index.tolist()]


def test_an_epoch_of_shards_has_each_image_once(stored: ImageSet) -> None:
    whole = torch.stack([stored.sample(i, 8) for i in range(70)])
    streamed = loader(stored, **STREAMED, shift=0, flip=False)
    for epoch in range(3):
        seen = []
        for batch in streamed.epoch(epoch, hr=True):
            assert batch.hr is not None
            assert torch.equal((batch.hr * 255).round().byte(), whole[batch.index])
            assert torch.equal(batch.label, batch.index % 3)
            seen += batch.index.tolist()
        assert len(seen) == len(set(seen)) == 64
    orders = [order_of(streamed, epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert order_of(loader(stored, **{**STREAMED, "workers": 2}), 0) == orders[0]
    assert order_of(loader(stored, **STREAMED, seed=6), 0) != orders[0]
    assert [i for batch in streamed.ordered() for i in batch.index.tolist()] == list(range(70))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_shards(stored: ImageSet, world_size: int) -> None:
    """They see the images of one process, and each reads few of the runs that another one reads."""
    alone = list(loader(stored, **STREAMED).epoch(1, hr=True))
    ranks = [loader(stored, **STREAMED, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [list(each.epoch(1, hr=True)) for each in ranks]
    for step, batch in enumerate(alone):
        parts = [own[step] for own in together]
        assert torch.equal(batch.index, torch.cat([part.index for part in parts]))
        assert batch.hr is not None
        assert torch.equal(batch.hr, torch.cat([part.hr for part in parts if part.hr is not None]))
    assert stored.runs is not None
    read_by = [set(stored.runs[[i for batch in own for i in batch.index.tolist()]]) for own in together]
    assert sum(map(len, read_by)) <= len(set.union(*read_by)) + world_size


def test_the_order_of_shards_is_drawn_lane_by_lane() -> None:
    """Each lane is the sequence of runs, every image moved on by a share of the buffer."""
    runs, count, size, buffer = np.arange(700) // 64, 640, 32, 128
    order = stream_order(runs, count, size, buffer, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    turn = torch.randperm(11, generator=generator).tolist()
    sequence = sorted(range(700), key=lambda image: turn[runs[image]])[:count]
    lanes = []
    for lane in range(16):
        own = sequence[40 * lane : 40 * lane + 40]
        delay = torch.rand(40, generator=generator, dtype=torch.float64) * (buffer // 16)
        lanes.append([own[i] for i in sorted(range(40), key=lambda i: float(delay[i]) + i)])
    expected = [lanes[lane][2 * step + i] for step in range(20) for lane in range(16) for i in range(2)]
    assert order.tolist() == expected


def test_a_larger_buffer_mixes_further(stored: ImageSet) -> None:
    def spread(buffer: int) -> float:
        """How far apart in the sequence of runs images lie that follow each other within a lane."""
        order = np.array(order_of(loader(stored, **{**STREAMED, "buffer": buffer, "batch_size": 1}), 0))
        assert stored.runs is not None
        return float((np.diff(stored.runs[order]) != 0).mean())

    assert spread(1) < 0.3 < 0.6 < spread(64)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of the images that are decoded, as they are."""
    positions: list[int] = []
    sample = ImageSet.sample

    def counted(self: ImageSet, i: int, *how: Any) -> Any:
        positions.append(i)
        return sample(self, i, *how)

    monkeypatch.setattr(ImageSet, "sample", counted)
    return positions


def test_each_run_is_decoded_once_and_few_images_wait(stored: ImageSet, decoded: list[int]) -> None:
    batches = loader(stored, **{**STREAMED, "batch_size": 1, "buffer": 4}).epoch(0)
    for count, _ in enumerate(batches, 1):
        assert len(decoded) - count <= 4 + 2 * 4
    assert len(decoded) == len(set(decoded)) == 70
    runs = stored.runs
    assert runs is not None
    assert (np.diff(runs[decoded]) != 0).sum() == runs.max()


def test_few_images_of_long_runs_wait_where_memory_is_small(tmp_path: Path, decoded: list[int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (0, 9, 200)).save(buffer, "png")
    table = pa.table({"image": [buffer.getvalue()] * 8192, "label": [0, 1] * 4096})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1024)
    images = read(tmp_path / "a.parquet", split="all", memory_mb=0)
    epoch = loader(images, **{**STREAMED, "batch_size": 32}).epoch(0)
    for step in range(8):
        next(epoch)
        assert len(decoded) - 32 * (step + 1) <= 2 * 1024


def test_shards_come_again_where_an_epoch_has_more_steps(stored: ImageSet) -> None:
    seen = order_of(loader(stored, **STREAMED).in_steps(20, 8), 0)
    assert len(seen) == 160
    assert sorted(np.bincount(seen, minlength=70))[0] >= 2


def test_a_damaged_image_in_a_shard_is_named(stored: ImageSet, tmp_path: Path) -> None:
    (tmp_path / next(p.name for p in tmp_path.glob("a-*1*"))).touch()
    for workers in (0, 2):
        with pytest.raises(CrossresError, match=r"^\S*a-0*1\S* changed after it was read first: start again"):
            order_of(loader(stored, **{**STREAMED, "workers": workers}), 0)


def test_images_by_class_need_random_access(stored: ImageSet) -> None:
    how = {**STREAMED, "images_per_class": 2}
    if stored.by_group:
        with pytest.raises(CrossresError, match=r"train\.images_per_class draws images at random, and"):
            loader(stored, **how)
    else:
        assert len(order_of(loader(stored, **how), 0)) == 64
