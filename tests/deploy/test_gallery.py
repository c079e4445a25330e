"""The gallery: who is nearest, thresholds that keep their rate, and files that cannot harm."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import crossres
from crossres.core.errors import CrossresError
from crossres.deploy import gallery_file
from crossres.deploy.gallery import Gallery, Match, Model, unit
from crossres.evaluation.identification import open_set
from crossres.evaluation.verification import tar_at_far

WIDTH = 16
MODEL = Model("teacher", ("a" * 64,))


def some(people: int = 40, seed: int = 0, **options) -> tuple[Gallery, np.ndarray]:
    """A gallery of people with 1 to 5 noisy embeddings each, and the centres of those."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, WIDTH))
    gallery = Gallery(WIDTH, **options)
    for i, centre in enumerate(centres):
        gallery.add(f"p{i}", centre + 0.4 * rng.normal(size=(1 + i % 5, WIDTH)))
    return gallery, centres


def naive(gallery: Gallery, probe: np.ndarray, k: int) -> list[str]:
    rows = {name: unit(held, "row") for name, held in gallery._rows.items()}
    nearest = {name: max(float(row @ unit(probe, "probe")[0]) for row in held) for name, held in rows.items()}
    return sorted(nearest, key=nearest.__getitem__, reverse=True)[:k]


def test_search_ranks_identities_by_their_nearest_embedding() -> None:
    gallery, centres = some()
    probes = centres + np.random.default_rng(1).normal(size=centres.shape)
    for probe, found in zip(probes, gallery.search(probes, 7), strict=True):
        assert [match.name for match in found] == naive(gallery, probe, 7)
        assert found[0].similarity == pytest.approx(
            max(float(row @ unit(probe, "")[0]) for row in gallery._rows[found[0].name]), abs=1e-6
        )
    assert len(gallery.search(probes[0], 1000)[0]) == len(gallery) == 40


def test_an_identity_of_many_embeddings_leaves_room_for_others() -> None:
    gallery = Gallery(WIDTH)
    rng = np.random.default_rng(0)
    crowd = np.eye(WIDTH)[0] + 0.01 * rng.normal(size=(300, WIDTH))
    gallery.add("crowd", crowd)
    for i in range(1, 6):
        gallery.add(f"p{i}", np.eye(WIDTH)[i])
    assert [match.name for match in gallery.search(crowd[0], 3)[0]] == naive(gallery, crowd[0], 3)
    assert len(gallery.search(crowd[0], 6)[0]) == 6


@pytest.mark.parametrize("index", ["exact", "hnsw", "ivf"])
def test_what_is_added_is_found_and_what_is_removed_is_not(index: str) -> None:
    gallery, centres = some(300, index=index)
    near = [found[0].name for found in gallery.search(centres)]
    assert np.mean([name == f"p{i}" for i, name in enumerate(near)]) > 0.95
    probe = np.random.default_rng(9).normal(size=WIDTH)
    assert gallery.add("new", probe) == 1
    assert gallery.search(probe)[0][0] == Match("new", pytest.approx(1, abs=1e-6))
    gallery.remove("new")
    assert gallery.search(probe)[0][0].name != "new"
    with pytest.raises(CrossresError, match=r"there is no 'p3000' among 300 identities; did you mean"):
        gallery.remove("p3000")


def test_another_index_is_built_when_it_is_chosen() -> None:
    gallery, centres = some(200)
    before = gallery.search(centres, 2)
    gallery.index = "hnsw"
    after = gallery.search(centres, 2)
    assert np.mean([a[0].name == b[0].name for a, b in zip(before, after, strict=True)]) > 0.98


def test_a_search_without_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CrossresError, match=r"needs faiss: pip install 'crossres\[predict\]'"):
        some(3)[0].search(np.ones(WIDTH))


def test_the_same_embedding_is_enrolled_once() -> None:
    gallery = Gallery(WIDTH)
    rows = np.random.default_rng(0).normal(size=(3, WIDTH))
    assert gallery.add("ada", rows) == 3
    assert gallery.add("ada", np.concatenate([2 * rows, -rows[:1]])) == 1
    assert gallery.embeddings == 4
    assert gallery.names == ["ada"]


def test_the_threshold_of_a_search_is_that_of_open_set() -> None:
    gallery, centres = some()
    rng = np.random.default_rng(3)
    strangers = rng.normal(size=(1500, WIDTH))
    strangers[5] = strangers[6] = strangers[7]  # equal ones are refused together
    mated = centres + 0.3 * rng.normal(size=centres.shape)
    probes = np.concatenate([mated, strangers])
    held = [unit(rows, "") for rows in gallery._rows.values()]
    scores = np.stack([(unit(probes, "") @ rows.T).max(1) for rows in held], 1)
    identity = np.append(np.arange(len(held)), np.full(len(strangers), -1))
    for fpir in (0.0, 0.01, 0.1):
        threshold = gallery.calibrate(strangers, fpir)
        theirs = open_set(scores, np.arange(len(held)), identity, fpir)
        assert threshold.similarity == pytest.approx(theirs.threshold, abs=1e-6)
        assert threshold.too_few == theirs.too_few
        assert sum(gallery.identify(row) is not None for row in strangers[:200]) <= 200 * fpir * 3
        found = [match and match.name for match in map(gallery.identify, mated)]
        assert 100 * np.mean([name == f"p{i}" for i, name in enumerate(found)]) == pytest.approx(theirs.tpir)
    assert gallery.calibrate(strangers, 1.0).similarity == -1
    assert gallery.identify(strangers[0]) is not None


def test_a_threshold_is_outgrown_by_a_tenth() -> None:
    gallery, _ = some(40)
    assert not gallery.outgrown
    gallery.calibrate(np.random.default_rng(0).normal(size=(50, WIDTH)), 0.1)
    for i in range(5):
        assert not gallery.outgrown
        gallery.add(f"new{i}", np.eye(WIDTH)[i])
    assert gallery.outgrown
    gallery.remove("new0")
    assert not gallery.outgrown


def test_the_threshold_of_pairs_is_that_of_tar_at_far() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(4000) % 2 == 0
    scores = rng.normal(size=4000) + 2 * same
    gallery = Gallery(WIDTH)
    threshold = gallery.calibrate_pairs(scores, same, 0.01, MODEL)
    assert threshold.similarity == tar_at_far(scores, same, 0.01).threshold
    assert (threshold.count, threshold.too_few, threshold.model) == (2000, False, "a" * 64)
    assert (scores[~same] >= threshold.similarity).mean() <= 0.01
    with pytest.raises(CrossresError, match="one of 1 impostor pairs is more alike than all genuine ones"):
        gallery.calibrate_pairs([0.9, 0.8], [False, True], 0.001)
    assert gallery.pair_threshold == threshold


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda g: g.add("ada", [[1.0] * WIDTH, [float("nan")] * WIDTH]), "embedding of ada: row 1 is NaN, infinite"),
        (lambda g: g.add("ada", np.zeros(WIDTH)), "row 0 is NaN, infinite or 0"),
        (lambda g: g.add("ada", np.ones(WIDTH + 1)), "has 17 numbers, the gallery's embeddings 16"),
        (lambda g: g.add("", np.ones(WIDTH)), "'' is no name"),
        (lambda g: g.add("\x1b[2J", np.ones(WIDTH)), "is no name"),
        (lambda g: g.add("a" * 201, np.ones(WIDTH)), "is no name: 1 to 200 printable characters"),
        (lambda g: g.search(np.ones((2, 2, 2))), r"the probe is \(2, 2, 2\), expected \(N, d\)"),
        (lambda g: g.search(np.ones(WIDTH), 0), "k is 0"),
        (lambda g: g.identify(np.ones(WIDTH)), "has no threshold; calibrate"),
        (lambda g: g.calibrate(np.ones((1, WIDTH)), 1.5), r"lies within 0\.\.1, got 1.5"),
        (lambda g: g.calibrate(np.ones((0, WIDTH)), 0.1), "no strangers"),
        (lambda _: Gallery(WIDTH).search(np.ones(WIDTH)), "the gallery is empty"),
        (lambda g: g.demand_shared(MODEL, 8), "teacher makes embeddings of 8 numbers, the gallery holds 16"),
        (lambda _: Model("a\n", ("a",)), "no printable name"),
    ],
)
def test_what_cannot_be(act, message: str) -> None:
    with pytest.raises(CrossresError, match=message):
        act(some(5)[0])


def test_models_that_share_a_space_are_those_taught_by_one_another() -> None:
    other, student = Model("other", ("b" * 64,)), Model("student", ("c" * 64, "a" * 64))
    sibling = Model("sibling", ("d" * 64, "a" * 64))
    Gallery(WIDTH).demand_shared(other, WIDTH)
    by_teacher, by_student = Gallery(WIDTH, model=MODEL), Gallery(WIDTH, model=student)
    for model in (MODEL, student, sibling):
        by_teacher.demand_shared(model, WIDTH)
    by_student.demand_shared(MODEL, WIDTH)
    for gallery, model in ((by_teacher, other), (by_student, sibling)):
        with pytest.raises(CrossresError, match=f"and {model.name} was not taught its embeddings"):
            gallery.demand_shared(model, WIDTH)
        gallery.demand_shared(model, WIDTH, same_space=True)


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    gallery, centres = some(model=MODEL, index="hnsw")
    gallery.add("Ægir 李", centres[0])
    gallery.calibrate(np.random.default_rng(0).normal(size=(60, WIDTH)), 0.1, MODEL)
    gallery.calibrate_pairs([0.9, 0.1], [True, False], 0.5)
    gallery.save(tmp_path / "people.gallery")
    again = Gallery.load(tmp_path / "people.gallery")
    told = ("names", "embeddings", "model", "index", "threshold", "pair_threshold", "outgrown")
    assert [getattr(again, key) for key in told] == [getattr(gallery, key) for key in told]
    again.index = gallery.index = "exact"
    assert again.search(centres, 3) == gallery.search(centres, 3)
    with np.load(tmp_path / "people.gallery", allow_pickle=False) as arrays:
        assert arrays["embeddings"].shape == (gallery.embeddings, WIDTH)
    Gallery(WIDTH).save(tmp_path / "empty")
    assert len(Gallery.load(tmp_path / "empty")) == 0


def test_a_full_disk_leaves_the_gallery_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    gallery, _ = some(5)
    gallery.save(path)
    before = path.read_bytes()
    gallery.add("new", np.ones(WIDTH))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrossresError, match="No space left on device; nothing was changed"):
        gallery.save(path)
    assert path.read_bytes() == before
    assert set(os.listdir(tmp_path)) <= {"people.gallery", ".people.gallery.lock"}


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An .npy file, or one whose header says another shape than it holds."""
    file = io.BytesIO()
    header = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": shape or array.shape,
    }
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def crafted(path: Path, packed: int = zipfile.ZIP_STORED, more: int = 0, claimed: int = 0, **changes: object) -> Path:
    """A sound gallery of two identities but for some of its members."""
    some(2)[0].save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in changes.items():
        member = next(key for key in members if key.startswith(name))
        members[member] = json.dumps(content).encode() if member.endswith("json") else content
    with zipfile.ZipFile(path, "w", packed) as archive:
        for member, content in [*members.items(), *((f"more{i}", b"") for i in range(more))]:
            archive.writestr(member, content)
        if claimed:
            info = archive.getinfo("embeddings.npy")
            info.file_size = info.compress_size = claimed
    return path


NAN = unit(np.ones((3, WIDTH)), "")
NAN[1, 2] = np.nan
FACTS = {"format": "crossres gallery 1", "index": "exact", "model": None, "threshold": None, "pair_threshold": None}
HUGE = npy(np.zeros((3, WIDTH), np.float32), (2**40, WIDTH))
OBJECTS = npy(np.zeros(0, np.uint8)).replace(b"'|u1'", b"'|O' ") + pickle.dumps(Trap())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"embeddings": HUGE}, "which is not what it holds"),
        ({"embeddings": HUGE, "claimed": 128 + 2**46}, "its members are larger than the file"),
        ({"embeddings": OBJECTS}, "which is not what it holds"),
        ({"embeddings": npy(np.zeros((3, WIDTH)))}, "which is not what it holds"),
        ({"embeddings": npy(NAN)}, "row 1 of the embeddings is NaN"),
        ({"embeddings": npy(np.zeros((3, 0), np.float32))}, "2 identities with embeddings"),
        ({"counts": npy(np.array([1, 1]))}, "not 3 embeddings together"),
        ({"counts": npy(np.array([-(2**62), 2**62 + 3]))}, "not 3 embeddings together"),
        ({"counts": npy(np.array([3]))}, "names for 1 identities"),
        ({"names": ["a", "a"]}, "1 names for 2 identities"),
        ({"names": ["a", "b\n"]}, "its facts or its names"),
        ({"names": ["a" * 100_000, "b"]}, "names.json is larger than"),
        ({"gallery": {**FACTS, "more": "a" * 2**17}}, "gallery.json is larger than"),
        ({"gallery": {**FACTS, "format": "crossres gallery 2"}}, "of another version than"),
        ({"gallery": {**FACTS, "index": "lsh"}}, "its facts are broken"),
        ({"gallery": {**FACTS, "threshold": {"similarity": 1}}}, "its facts are broken"),
        ({"gallery": {**FACTS, "model": {"name": "a", "spaces": []}}}, "no digest"),
        ({"gallery": [FACTS]}, "its facts or its names"),
        ({"packed": zipfile.ZIP_DEFLATED, "embeddings": bytes(10**7)}, "a member is packed"),
        ({"more": 1}, "other members than a gallery's"),
        ({"more": 25_000}, "its directory is too long"),
    ],
)
def test_a_crafted_file_is_refused_in_a_line(how, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = crafted(tmp_path / "crafted", **how)
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    with pytest.raises(CrossresError, match=message):
        Gallery.load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert not Path("trapped").exists()


def test_no_damage_is_taken_for_a_gallery(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    some(3, model=MODEL)[0].save(path)
    whole = path.read_bytes()
    for content in (b"", pickle.dumps(Trap()), b"[" * 10**5, *(whole[:end] for end in range(0, len(whole), 97))):
        path.write_bytes(content)
        with pytest.raises(CrossresError, match="no gallery of crossres"):
            Gallery.load(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 400):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        with suppress(CrossresError):
            assert Gallery.load(path).names == ["p0", "p1", "p2"]
    with pytest.raises(CrossresError, match="Is a directory"):
        Gallery.load(tmp_path)
    with pytest.raises(CrossresError, match="No such file"):
        Gallery.load(tmp_path / "none")


def test_many_who_change_a_gallery_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    Gallery(WIDTH).save(path)
    code = (
        "import sys, numpy as np\nfrom crossres.deploy.gallery import Gallery\n"
        "from crossres.deploy.gallery_file import alone\n"
        "for i in range(20):\n    with alone(sys.argv[1]):\n        gallery = Gallery.load(sys.argv[1])\n"
        "        gallery.add(f'{sys.argv[2]}{i}', np.ones(16))\n        gallery.save(sys.argv[1])\n"
        "assert not {'torch', 'faiss'} & set(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [subprocess.Popen([sys.executable, "-c", code, str(path), who], env=env) for who in "abc"]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert sorted(Gallery.load(path).names) == sorted(f"{who}{i}" for who in "abc" for i in range(20))
    assert set(os.listdir(tmp_path)) <= {"people.gallery", ".people.gallery.lock"}


def test_a_lock_of_a_dead_process_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    script = (
        "import os, signal, sys\nfrom crossres.deploy.gallery_file import alone\n"
        "with alone(sys.argv[1]):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", script, path], env=environment, check=False).returncode == -9
    monkeypatch.setattr(gallery_file, "WAIT", 0.1)
    changed = pytest.raises(CrossresError, match="another process has been changing it")
    with gallery_file.alone(path), changed, gallery_file.alone(path):
        pass
