"""The teacher's outputs: computed once per view, kept under a key of all they depend on."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from crossres.core.errors import CrossresError
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.models import cache as cache_module
from crossres.models.cache import TeacherCache, cached_outputs
from crossres.models.encoder import Encoder, build_encoder

CLASSES = ("a", "b", "c")
COUNT = 20


def images(seed: int = 0, first_label: int = 0) -> ImageSet:
    array = np.random.default_rng(seed).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    return ImageSet(ArrayItems(array), (np.arange(COUNT) + first_label) % 3, CLASSES, "noise")


def teacher(seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder("resnet8", classes=classes, input_size=None).eval()


def outputs(
    folder: Path | None, of: Encoder | None = None, data: ImageSet | None = None, **options: Any
) -> TeacherCache:
    settings: dict[str, Any] = {"flip": True, "autocast": nullcontext, "precision": "float32"}
    own = {
        k: options.pop(k) for k in ("flip", "autocast", "precision", "progress", "maps", "mirrored") if k in options
    }
    served = {"hr_size": 16, "lr_size": 8, "batch_size": 6, "shift": 2, "flip": True} | options
    return cached_outputs(of or teacher(), Loader(data or images(), **served), folder, **(settings | own))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that a teacher is asked about; its one probe is none."""
    seen: list[int] = []
    real = Encoder.forward

    def forward(self: Encoder, pictures: torch.Tensor) -> Any:
        if len(pictures) > 1:
            seen.append(len(pictures))
        return real(self, pictures)

    monkeypatch.setattr(Encoder, "forward", forward)
    return seen


def test_each_view_is_what_the_teacher_says_of_it(tmp_path: Path) -> None:
    cache = outputs(tmp_path)
    source = torch.from_numpy(np.stack([images().image(i) for i in range(COUNT)])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for view, pictures in enumerate((source, source.flip(-1))):
            said = teacher()(pictures)
            torch.testing.assert_close(cache.embedding[view], said.embedding, rtol=1e-5, atol=1e-6)
            assert cache.logits is not None
            torch.testing.assert_close(cache.logits[view], said.logits, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(cache.embedding[0], cache.embedding[1], atol=1e-4)
    assert cache.embedding.shape == (2, COUNT, 64)
    assert cache.logits.shape == (2, COUNT, 3)


def test_other_code_or_memory_order_is_another_teacher(tmp_path: Path, counted: list[int]) -> None:
    outputs(tmp_path, teacher())
    other = teacher()
    other.backbone.register_forward_hook(lambda _module, _args, output: output.tanh())
    outputs(tmp_path, other)
    assert sum(counted) == 4 * COUNT
    expected = outputs(None, other).embedding
    assert torch.equal(outputs(tmp_path, other).embedding, expected)


def test_it_answers_for_the_images_and_views_asked() -> None:
    cache = outputs(None)
    index, view = torch.tensor([4, 4, 0, 19]), torch.tensor([0, 1, 1, 0])
    said = cache(index, view)
    for row, (i, v) in enumerate(zip(index.tolist(), view.tolist(), strict=True)):
        assert torch.equal(said.embedding[row], cache.embedding[v, i])
        assert said.logits is not None
        assert cache.logits is not None
        assert torch.equal(said.logits[row], cache.logits[v, i])
    assert not said.embedding.requires_grad


def test_the_mean_of_both_views_answers_for_either(tmp_path: Path) -> None:
    own = outputs(tmp_path)
    mirrored = outputs(tmp_path, flip=False, mirrored=True)
    index, view = torch.tensor([4, 4, 0]), torch.tensor([0, 1, 1])
    said = mirrored(index, view)
    assert own.logits is not None
    assert said.logits is not None
    torch.testing.assert_close(said.embedding, (own.embedding[0, index] + own.embedding[1, index]) / 2)
    torch.testing.assert_close(said.logits, (own.logits[0, index] + own.logits[1, index]) / 2)
    assert torch.equal(said.embedding[0], said.embedding[1])


def test_without_flip_there_is_one_view(tmp_path: Path, counted: list[int]) -> None:
    assert outputs(tmp_path, flip=False).embedding.shape == (1, COUNT, 64)
    assert sum(counted) == COUNT
    # and a run that flips computes the other alone
    assert outputs(tmp_path).embedding.shape == (2, COUNT, 64)
    assert sum(counted) == 2 * COUNT
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_read_again_to_the_last_bit_without_the_teacher(tmp_path: Path, counted: list[int]) -> None:
    first = outputs(tmp_path / "new" / "folder")
    asked = sum(counted)
    again = outputs(tmp_path / "new" / "folder")
    assert sum(counted) == asked == 2 * COUNT
    assert torch.equal(first.embedding, again.embedding)
    assert first.logits is not None
    assert again.logits is not None
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(outputs(None).embedding, first.embedding)


def test_the_batch_size_of_a_run_does_not_show(tmp_path: Path, counted: list[int]) -> None:
    one = outputs(tmp_path / "a", batch_size=3)
    asked = counted.copy()
    two = outputs(tmp_path / "b", batch_size=20)
    assert torch.equal(one.embedding, two.embedding)
    # the last bits may depend on the batch on other machines: it has to be the same
    assert counted == asked * 2
    names = [sorted(p.name for p in (tmp_path / side).glob("*.safetensors")) for side in "ab"]
    assert names[0] == names[1]


def test_an_embedding_teacher_has_no_logits(tmp_path: Path) -> None:
    for _ in range(2):
        cache = outputs(tmp_path, of=teacher(classes=()))
        assert cache.logits is None
        assert cache(torch.tensor([1]), torch.tensor([1])).logits is None


def nudged() -> Encoder:
    encoder = teacher()
    with torch.no_grad():
        encoder.backbone.conv1.weight[0, 0, 0, 0] += 1e-6
    return encoder


OTHERS: dict[str, dict[str, Any]] = {
    "weights": {"of": nudged},
    "images": {"data": partial(images, 1)},
    "labels": {"data": partial(images, first_label=1)},
    "order": {"data": lambda: images().subset(np.arange(COUNT)[::-1])},
    "subset": {"data": lambda: images().subset(np.arange(COUNT - 1))},
    "size": {"hr_size": 12},
    "fit": {"fit": "pad"},
    "precision": {"precision": "bfloat16", "autocast": partial(torch.autocast, "cpu", torch.bfloat16)},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS.keys())
def test_the_key_changes_with_all_that_the_outputs_depend_on(
    tmp_path: Path, options: dict[str, Any], counted: list[int]
) -> None:
    outputs(tmp_path)
    before = sum(counted)
    built = {k: v() if k in ("of", "data") else v for k, v in options.items()}
    outputs(tmp_path, **built)
    assert sum(counted) - before == 2 * len(built.get("data", images()))
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_the_key_does_not_change_with_what_the_teacher_never_sees(tmp_path: Path, counted: list[int]) -> None:
    outputs(tmp_path)
    before = sum(counted)
    outputs(tmp_path, lr_size=4, shift=0, seed=9, batch_size=5)
    assert sum(counted) == before
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "header"])
def test_a_damaged_file_is_computed_anew(
    tmp_path: Path, damage: str, counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = outputs(tmp_path)
    before = sum(counted)
    path = sorted(tmp_path.glob("*.safetensors"))[0]
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "noise": np.random.default_rng(0).bytes(len(content)),
            "header": b"\xff" * 16 + content[16:],
        }[damage]
    )
    again = outputs(tmp_path)
    assert torch.equal(first.embedding, again.embedding)
    assert sum(counted) == before + COUNT  # the other view was whole
    assert capsys.readouterr().err.splitlines() == [f"{path} cannot be read; computing it again"]
    outputs(tmp_path)
    assert sum(counted) == before + COUNT
    assert capsys.readouterr().err == ""


def test_tensors_that_were_changed_are_computed_anew(
    tmp_path: Path, counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = outputs(tmp_path, flip=False)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # a bit of a number: the file can be read all the same
    path.write_bytes(content)
    before = sum(counted)
    assert torch.equal(outputs(tmp_path, flip=False).embedding, first.embedding)
    assert sum(counted) == before + COUNT
    assert capsys.readouterr().err.splitlines() == [f"{path} was changed after it was written; computing it again"]


def test_an_interrupted_pass_goes_on_where_it_stopped(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "BATCH", 4)
    monkeypatch.setattr(cache_module, "PART", 8)
    whole = outputs(None)

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    for _ in range(2):  # the images 8 to 16 are asked for again: their part was not whole
        counted.clear()
        with pytest.raises(KeyboardInterrupt):
            outputs(tmp_path, progress=stop)
        assert sum(counted) in (16, 8)
    (parts,) = tmp_path.glob("*.parts")
    (part,) = parts.iterdir()
    counted.clear()
    again = outputs(tmp_path)
    assert sum(counted) == COUNT - 8 + COUNT
    assert torch.equal(whole.embedding, again.embedding)
    assert again.logits is not None
    assert torch.equal(whole.logits, again.logits)
    assert not parts.exists()
    # a damaged part is computed again, and those after it
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        outputs(tmp_path, progress=stop)
    part.write_bytes(part.read_bytes()[:-1])
    counted.clear()
    assert torch.equal(outputs(tmp_path).embedding, whole.embedding)
    assert sum(counted) == 2 * COUNT


def test_one_process_asks_and_the_others_wait_for_what_it_writes(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LOOK_EVERY", 0.02)
    whole = outputs(tmp_path, flip=False)
    (path,) = tmp_path.glob("*.safetensors")
    done = path.rename(tmp_path / "elsewhere")
    other = FileLock(path.with_suffix(".lock"))
    other.acquire()
    told: list[str] = []

    def finish(what: str, *_: int) -> None:
        told.append(what)
        if len(told) == 2 and other.is_locked:
            done.rename(path)
            other.release()

    counted.clear()
    assert torch.equal(outputs(tmp_path, flip=False, progress=finish).embedding, whole.embedding)
    assert told[:2] == ["teacher, in another process"] * 2
    assert sum(counted) == 0
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CrossresError, match=r"^cannot lock [^\n]*: give another cache_dir \([^\n]+\)$"):
        outputs(blocked / "cache")


def test_bfloat16_is_kept_as_float32() -> None:
    cache = outputs(None, precision="bfloat16", autocast=partial(torch.autocast, "cpu", torch.bfloat16))
    assert cache.embedding.dtype == torch.float32
    assert cache.logits is not None
    assert cache.logits.dtype == torch.float32
    torch.testing.assert_close(cache.embedding, outputs(None).embedding, rtol=0.05, atol=0.05)


def test_it_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    outputs(None, flip=False, progress=lambda *said: told.append(said))
    assert told[-1] == ("teacher", COUNT, COUNT)


def test_the_live_teacher_sees_the_students_own_view() -> None:
    """What training asks a live teacher: exactly the HR side of the student's batch, shifts and all."""
    loader = Loader(images(), hr_size=16, lr_size=8, batch_size=6, shift=2, flip=True)
    cache = outputs(None)
    shifted = 0
    with torch.no_grad():
        for batch in loader.epoch(0, hr=True):
            live = teacher()(batch.hr).embedding
            stored = cache(batch.index, batch.view).embedding
            shifted += int((live - stored).abs().max() > 1e-3)
    assert shifted == 3  # the cache cannot know the shifts
    still = Loader(images(), hr_size=16, lr_size=8, batch_size=6, shift=0, flip=True)
    with torch.no_grad():
        for batch in still.epoch(0, hr=True):
            assert 0 < batch.view.sum() < 6
            said, stored_outputs = teacher()(batch.hr), cache(batch.index, batch.view)
            torch.testing.assert_close(said.embedding, stored_outputs.embedding, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(said.logits, stored_outputs.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zoom", [0.0, 0.2])
def test_stored_maps_follow_the_shift_and_the_zoom_of_the_view(zoom: float) -> None:
    """Of a teacher whose map is the image itself the moved map is the student's view, but for what was out of it."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    pixels = torch.stack([8 * y + 4 * x, 160 - 3 * y + 2 * x, 100 + 5 * y - 6 * x], -1)  # no view is another's mirror
    smooth = ImageSet(ArrayItems(pixels.byte().numpy()[None].repeat(6, 0)), np.zeros(6, int), ["a"], "slopes")
    loader = Loader(smooth, hr_size=16, lr_size=8, batch_size=6, shift=2, flip=True, zoom=zoom)
    image = pixels.permute(2, 0, 1) / 255
    stored = torch.stack([image, image.flip(-1)])[:, None].expand(-1, 6, -1, -1, -1)
    cache = TeacherCache(torch.zeros(2, 6, 1), None, {"image": stored})
    for batch in loader.epoch(0, hr=True):
        assert batch.place is not None
        assert 0 < batch.view.sum() < 6
        still = cache(batch.index, batch.view).features["image"]
        moved = cache(batch.index, batch.view, batch.place).features["image"]
        inside = (..., slice(5, -5), slice(5, -5))
        torch.testing.assert_close(moved[inside], batch.hr[inside], rtol=0, atol=1e-5)
        assert (still[inside] - batch.hr[inside]).abs().mean() > 0.01


def test_an_unmoved_batch_has_no_place() -> None:
    loader = Loader(images(), hr_size=16, lr_size=8, batch_size=6)
    assert next(loader.epoch(0)).place is None
    assert next(loader.ordered()).place is None


def test_maps_are_kept_as_they_are_compared(tmp_path: Path, counted: list[int]) -> None:
    encoder = teacher().to(memory_format=torch.channels_last)
    encoder.capture("layer1", "layer3")
    maps = {"layer1": (4, 4), "layer3": (2, 2)}
    plain = outputs(tmp_path)
    cache = outputs(tmp_path, encoder, maps=maps)
    torch.testing.assert_close(cache.embedding, plain.embedding, rtol=1e-4, atol=1e-5)
    index, view = torch.tensor([3, 0, 19]), torch.tensor([0, 1, 1])
    said = cache(index, view)
    assert list(said.features) == ["layer1", "layer3"]
    assert said.features["layer1"].shape == (3, 16, 4, 4)
    source = torch.from_numpy(np.stack([images().image(i) for i in range(COUNT)])).permute(0, 3, 1, 2) / 255
    pictures = torch.stack([source[3], source[0].flip(-1), source[19].flip(-1)])
    with torch.no_grad():
        live = encoder(pictures).features["layer1"]
    expected = live.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    torch.testing.assert_close(said.features["layer1"].float(), expected, rtol=1e-3, atol=1e-3)
    asked = sum(counted)
    again = outputs(tmp_path, encoder, maps=maps)
    assert sum(counted) == asked
    assert torch.equal(again.features["layer3"], cache.features["layer3"])
    outputs(tmp_path, encoder, maps=maps | {"layer3": (1, 1)})
    assert sum(counted) == asked + 2 * COUNT  # of another size they are computed anew


@pytest.mark.parametrize(("value", "classes"), [(float("nan"), CLASSES), (float("inf"), CLASSES), (0.0, ())])
def test_an_embedding_that_says_nothing_is_named_and_not_kept(
    value: float, classes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Encoder.forward

    def forward(self: Encoder, pictures: torch.Tensor) -> Any:
        said = real(self, pictures)
        if len(pictures) > 1:
            said.embedding[7] = value
        return said

    monkeypatch.setattr(Encoder, "forward", forward)
    with pytest.raises(
        CrossresError, match=r"^the teacher's embedding of number 7 is NaN, infinite or 0 \(1 of a batch of 20\): "
    ):
        outputs(tmp_path, teacher(classes=classes))
    assert not list(tmp_path.rglob("*.safetensors"))
