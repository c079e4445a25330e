"""The teacher's outputs: computed once per view, kept in shards under a key of all they depend on."""

from __future__ import annotations

import gc
import shutil
import signal
import subprocess
import sys
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
from crossres.models import filling
from crossres.models.cache import ShardFile, TeacherCache
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.filling import cached_outputs

CLASSES = ("a", "b", "c")
COUNT = 20
#: logits are kept as float16, whose numbers lie up to 2**-10 of themselves apart
HALF = {"rtol": 2**-11 + 1e-5, "atol": 1e-6}


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
    names = ("flip", "autocast", "precision", "progress", "maps", "mirrored", "top_k")
    own = {k: options.pop(k) for k in names if k in options}
    served = {"hr_size": 16, "lr_size": 8, "batch_size": 6, "shift": 2, "flip": True} | options
    return cached_outputs(of or teacher(), Loader(data or images(), **served), folder, **(settings | own))


def stored(cache: TeacherCache, name: str = "embedding", views: int = 2, count: int = COUNT) -> torch.Tensor:
    """Return what the cache answers for all images: (views, N, ...)."""
    index = torch.arange(count)
    answers = [cache(index, torch.full((count,), view)) for view in range(views)]
    return torch.stack([answer.features.get(name, getattr(answer, name, None)) for answer in answers])


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 8 rows, two batches each."""
    monkeypatch.setattr(filling, "BATCH", 4)
    monkeypatch.setattr(cache_module, "ROWS", 8)
    monkeypatch.setattr(filling, "LOOK_EVERY", 0.02)


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
            torch.testing.assert_close(stored(cache)[view], said.embedding, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(stored(cache, "logits")[view], said.logits, **HALF)
    assert not torch.allclose(*stored(cache), atol=1e-4)
    assert stored(cache).shape == (2, COUNT, 64)
    assert stored(cache, "logits").shape == (2, COUNT, 3)


def test_other_code_or_memory_order_is_another_teacher(tmp_path: Path, counted: list[int]) -> None:
    outputs(tmp_path, teacher())
    other = teacher()
    other.backbone.register_forward_hook(lambda _module, _args, output: output.tanh())
    outputs(tmp_path, other)
    assert sum(counted) == 4 * COUNT
    assert torch.equal(stored(outputs(tmp_path, other)), stored(outputs(None, other)))


def test_it_answers_for_the_images_and_views_asked() -> None:
    cache = outputs(None)
    index, view = torch.tensor([4, 4, 0, 19]), torch.tensor([0, 1, 1, 0])
    said = cache(index, view)
    for row, (i, v) in enumerate(zip(index.tolist(), view.tolist(), strict=True)):
        assert torch.equal(said.embedding[row], stored(cache)[v, i])
        assert said.logits is not None
        assert torch.equal(said.logits[row], stored(cache, "logits")[v, i])
    assert not said.embedding.requires_grad


def test_the_mean_of_both_views_answers_for_either(tmp_path: Path) -> None:
    own = outputs(tmp_path)
    mirrored = outputs(tmp_path, flip=False, mirrored=True)
    index, view = torch.tensor([4, 4, 0]), torch.tensor([0, 1, 1])
    said = mirrored(index, view)
    assert torch.equal(said.embedding, stored(own)[:, index].mean(0))
    assert said.logits is not None
    assert torch.equal(said.logits, stored(own, "logits")[:, index].mean(0))
    assert torch.equal(said.embedding[0], said.embedding[1])


def test_without_flip_there_is_one_view(tmp_path: Path, counted: list[int]) -> None:
    outputs(tmp_path, flip=False)
    assert sum(counted) == COUNT
    # and a run that flips computes the other alone
    outputs(tmp_path)
    assert sum(counted) == 2 * COUNT
    assert len(shards(tmp_path)) == 2


def test_read_again_to_the_last_bit_without_the_teacher(tmp_path: Path, counted: list[int]) -> None:
    first = outputs(tmp_path / "new" / "folder")
    asked = sum(counted)
    again = outputs(tmp_path / "new" / "folder")
    assert sum(counted) == asked == 2 * COUNT
    for name in ("embedding", "logits"):
        assert torch.equal(stored(first, name), stored(again, name))
        assert torch.equal(stored(outputs(None), name), stored(first, name))


def test_the_batch_size_of_a_run_does_not_show(tmp_path: Path, counted: list[int]) -> None:
    one = outputs(tmp_path / "a", batch_size=3)
    asked = counted.copy()
    two = outputs(tmp_path / "b", batch_size=20)
    assert torch.equal(stored(one), stored(two))
    # the last bits may depend on the batch on other machines: it has to be the same
    assert counted == asked * 2
    names = [[path.relative_to(tmp_path / side) for path in shards(tmp_path / side)] for side in "ab"]
    assert names[0] == names[1]


def test_an_embedding_teacher_has_no_logits(tmp_path: Path) -> None:
    for _ in range(2):
        cache = outputs(tmp_path, of=teacher(classes=()))
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
    assert len(shards(tmp_path)) == 4


def test_the_key_does_not_change_with_what_the_teacher_never_sees(tmp_path: Path, counted: list[int]) -> None:
    outputs(tmp_path)
    before = sum(counted)
    outputs(tmp_path, lr_size=4, shift=0, seed=9, batch_size=5)
    assert sum(counted) == before
    assert len(shards(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["cut short", "empty", "noise", "header", "of another teacher", "fewer rows"])
@pytest.mark.usefixtures("small")
def test_a_damaged_shard_is_computed_anew(
    tmp_path: Path, damage: str, counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = stored(outputs(tmp_path / "a"))
    outputs(tmp_path / "other", teacher(1))
    before = sum(counted)
    path, content = shards(tmp_path / "a")[1], shards(tmp_path / "a")[1].read_bytes()
    path.write_bytes(
        {
            "cut short": content[:-1],
            "empty": b"",
            "noise": np.random.default_rng(0).bytes(len(content)),
            "header": b"\xff" * 16 + content[16:],
            "of another teacher": shards(tmp_path / "other")[1].read_bytes(),
            "fewer rows": shards(tmp_path / "a")[2].read_bytes(),
        }[damage]
    )
    assert torch.equal(stored(outputs(tmp_path / "a")), first)
    assert sum(counted) == before + 8  # the other shards are whole
    of_others = damage in ("of another teacher", "fewer rows")
    reason = "is of another teacher or of other data" if of_others else "is cut short or damaged"
    assert capsys.readouterr().err.splitlines() == [f"{path} {reason}; computing it again"]
    outputs(tmp_path / "a")
    assert sum(counted) == before + 8
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("small")
def test_an_interrupted_pass_goes_on_with_the_next_shard(tmp_path: Path, counted: list[int]) -> None:
    whole = outputs(None)

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    for _ in range(2):  # both views of the images 8 to 15 are computed again: their shards were not whole
        counted.clear()
        with pytest.raises(KeyboardInterrupt):
            outputs(tmp_path, progress=stop)
        assert sum(counted) in (32, 16)
    assert [path.name for path in shards(tmp_path)] == ["00000.safetensors"] * 2
    counted.clear()
    again = outputs(tmp_path)
    assert sum(counted) == 2 * (COUNT - 8)
    for name in ("embedding", "logits"):
        assert torch.equal(stored(whole, name), stored(again, name))
    assert not list(tmp_path.rglob("*.lock"))


#: Fills the cache; the process is killed in the middle of its third shard.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_filling as tests
tests.filling.BATCH, tests.cache_module.ROWS = 4, 8
stop = lambda what, done, total: done == 20 and os.kill(os.getpid(), signal.SIGKILL)
tests.outputs(Path(sys.argv[1]), progress=stop)
"""


@pytest.mark.usefixtures("small")
def test_a_killed_process_costs_a_shard(tmp_path: Path, counted: list[int]) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in shards(tmp_path)] == ["00000.safetensors", "00001.safetensors"] * 2
    assert torch.equal(stored(outputs(tmp_path)), stored(outputs(None)))
    assert sum(counted) == 2 * 4 + 2 * COUNT


@pytest.mark.usefixtures("small")
def test_what_another_process_is_at_is_left_to_it(tmp_path: Path, counted: list[int]) -> None:
    whole = outputs(tmp_path, flip=False)
    middle = shards(tmp_path)[1]
    elsewhere = middle.rename(tmp_path / "elsewhere")
    shards(tmp_path)[0].unlink()
    other = FileLock(middle.with_suffix(".lock"))
    other.acquire()
    lines: list[str] = []

    def finish(what: str, *_: int) -> None:
        lines.append(what)
        if len(lines) == 4:
            elsewhere.rename(middle)
            other.release()

    counted.clear()
    assert torch.equal(stored(outputs(tmp_path, flip=False, progress=finish), views=1), stored(whole, views=1))
    assert lines == ["teacher"] * 2 + ["teacher, in other processes"] * 2
    assert sum(counted) == 8
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(
        CrossresError, match=r"^cannot write [^\n]*: Not a directory; nothing was changed; give another cache_dir$"
    ):
        outputs(blocked / "cache")


def test_a_folder_of_another_teacher_is_refused(tmp_path: Path) -> None:
    outputs(tmp_path / "a", flip=False)
    outputs(tmp_path / "b", teacher(1), flip=False)
    ours, theirs = (shards(tmp_path / side)[0].parent for side in "ab")
    shutil.rmtree(theirs)
    ours.rename(theirs)
    with pytest.raises(CrossresError, match=r"^[^\n]* is of another 'teacher'; remove its folder or give [^\n]*$"):
        outputs(tmp_path / "b", teacher(1), flip=False)


def test_a_cache_of_other_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs(tmp_path)
    assert capsys.readouterr().err == ""
    outputs(tmp_path, data=images(seed=1))
    (line,) = capsys.readouterr().err.splitlines()
    assert "is of other images, or of files with other modification times (cp -p keeps them" in line
    assert line.startswith(f"{tmp_path}/")
    outputs(tmp_path, data=images(seed=1))
    outputs(tmp_path, of=teacher(seed=1))
    assert capsys.readouterr().err == ""


def test_files_of_an_earlier_version_are_left_alone(tmp_path: Path) -> None:
    old = tmp_path / f"{'0' * 32}.safetensors"
    old.write_bytes(b"old")
    outputs(tmp_path)
    assert old.read_bytes() == b"old"


@pytest.mark.usefixtures("small")
def test_a_disk_that_fills_in_the_middle_keeps_whole_shards(tmp_path: Path, counted: list[int]) -> None:
    resource = pytest.importorskip("resource", reason="the system has no such limit")
    whole, limits = stored(outputs(None)), resource.getrlimit(resource.RLIMIT_FSIZE)
    counted.clear()

    def fill(_what: str, done: int, _total: int) -> None:
        if done == 16:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))

    line = r"^cannot write [^\n]*00001.safetensors: [^\n]*; nothing was changed; free some space, or give another "
    try:
        with pytest.raises(CrossresError, match=line):
            outputs(tmp_path, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.rglob("0*.safetensors")] == ["00000.safetensors"] * 2
    assert torch.equal(stored(outputs(tmp_path)), whole)
    assert sum(counted) == 2 * (COUNT + 8)


def test_a_disk_without_the_space_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * COUNT * (64 * 4 + 3 * 2) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    outputs(tmp_path, flip=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=COUNT * (64 * 4 + 3 * 2) - 1))
    outputs(tmp_path, flip=False)  # what is there needs none
    with pytest.raises(CrossresError, match=r"^the teacher's outputs need 0.0 GB, and [^\n]* has 0.0 GB free: "):
        outputs(tmp_path)
    assert len(shards(tmp_path)) == 1


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say")
def test_the_memory_does_not_grow_with_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard is mapped from its file, and none of it is this process's own memory."""
    monkeypatch.setattr(cache_module, "ROWS", 256)
    held = []
    real = ShardFile.written
    monkeypatch.setattr(ShardFile, "written", lambda *given: held.append(tracked()) or real(*given))

    def tracked() -> int:
        gc.collect()
        return sum(each.nbytes for each in gc.get_objects() if isinstance(each, torch.Tensor) and not mapped(each))

    def mapped(tensor: torch.Tensor) -> bool:
        lines = Path("/proc/self/maps").read_text().splitlines()
        ranges = [line.split()[0].split("-") for line in lines if line.endswith(".safetensors")]
        return any(int(low, 16) <= tensor.data_ptr() < int(high, 16) for low, high in ranges)

    data = np.random.default_rng(0).integers(0, 256, (2048, 8, 8, 3), dtype=np.uint8)
    many = ImageSet(ArrayItems(data), np.arange(2048) % 3, CLASSES, "noise")
    cache = outputs(tmp_path, data=many, flip=False, hr_size=8)
    assert len(held) == len(cache.shards) == 8
    assert max(held) - held[0] < 256 * 64 * 4
    assert all(mapped(tensor) for shard in cache.shards for tensor in shard.values())


def test_bfloat16_is_kept_as_float32() -> None:
    cache = outputs(None, precision="bfloat16", autocast=partial(torch.autocast, "cpu", torch.bfloat16))
    assert stored(cache).dtype == stored(cache, "logits").dtype == torch.float32
    torch.testing.assert_close(stored(cache), stored(outputs(None)), rtol=0.05, atol=0.05)


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
            shifted += int((live - cache(batch.index, batch.view).embedding).abs().max() > 1e-3)
    assert shifted == 3  # the cache cannot know the shifts
    still = Loader(images(), hr_size=16, lr_size=8, batch_size=6, shift=0, flip=True)
    with torch.no_grad():
        for batch in still.epoch(0, hr=True):
            assert 0 < batch.view.sum() < 6
            said, stored_outputs = teacher()(batch.hr), cache(batch.index, batch.view)
            torch.testing.assert_close(said.embedding, stored_outputs.embedding, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(said.logits, stored_outputs.logits, **HALF)


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
    torch.testing.assert_close(stored(cache), stored(plain), rtol=1e-4, atol=1e-5)
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
    assert torch.equal(stored(again, "layer3"), stored(cache, "layer3"))
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


def test_of_many_classes_the_largest_logits_are_kept(tmp_path: Path) -> None:
    wide = teacher(classes=tuple(f"class {number}" for number in range(12)))
    whole = stored(outputs(tmp_path, wide), "logits")
    part = stored(outputs(tmp_path, wide, top_k=3), "logits")  # another digest: not read from what is there
    assert whole.shape == part.shape == (2, COUNT, 12)
    top, classes = whole.topk(3)
    torch.testing.assert_close(part.gather(2, classes), top)
    shares = [logits.softmax(2).gather(2, classes) for logits in (part, whole)]
    torch.testing.assert_close(*shares, rtol=0, atol=1e-3)
    others = part.scatter(2, classes, torch.nan)
    assert len(others[0, 0][~others[0, 0].isnan()].unique()) == 1
    torch.testing.assert_close(stored(outputs(tmp_path, wide, top_k=12), "logits"), whole)
    shards = sorted(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert shards[0] < shards[-1]
