"""A gallery's file: crafted or damaged ones cannot harm, and processes that change one wait for each other."""

from __future__ import annotations

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
from crossres.deploy.gallery import Gallery, ModelIdentity

WIDTH = 16


def saved(path: Path, count: int = 2, **options) -> Path:
    """A sound gallery of identities p0, p1...; p0 has one embedding, p1 two, and so on."""
    rng = np.random.default_rng(0)
    gallery = Gallery(WIDTH, **options)
    for i in range(count):
        gallery.add(f"p{i}", rng.normal(size=(1 + i, WIDTH)))
    gallery.save(path)
    return path


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
    saved(path)
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


NAN = np.full((3, WIDTH), WIDTH**-0.5, np.float32)
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
        ({"counts": npy(np.array([1, 1]))}, "do not have 3 embeddings together"),
        ({"counts": npy(np.array([-(2**62), 2**62 + 3]))}, "do not have 3 embeddings together"),
        ({"counts": npy(np.array([3]))}, "names for 1 identities"),
        ({"names": ["a", "a"]}, "1 names for 2 identities"),
        ({"names": ["a", "b\n"]}, "its facts or its names are invalid"),
        ({"names": ["a" * 100_000, "b"]}, "names.json is larger than"),
        ({"gallery": {**FACTS, "more": "a" * 2**17}}, "gallery.json is larger than"),
        ({"gallery": {**FACTS, "format": "crossres gallery 2"}}, "of another version than"),
        ({"gallery": {**FACTS, "index": "lsh"}}, "its metadata is damaged"),
        ({"gallery": {**FACTS, "threshold": {"similarity": 1}}}, "its metadata is damaged"),
        ({"gallery": {**FACTS, "model": {"name": "a", "spaces": []}}}, "no digest"),
        ({"gallery": [FACTS]}, "its facts or its names are invalid"),
        ({"packed": zipfile.ZIP_DEFLATED, "embeddings": bytes(10**7)}, "a member is compressed"),
        ({"more": 1}, "its members are not those of a gallery"),
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
    saved(path, 3, model=ModelIdentity("teacher", ("a" * 64,)))
    whole = path.read_bytes()
    for content in (b"", pickle.dumps(Trap()), b"[" * 10**5, *(whole[:end] for end in range(0, len(whole), 97))):
        path.write_bytes(content)
        with pytest.raises(CrossresError, match="not a gallery of crossres"):
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


def started(script: str, *words: object) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", script, *map(str, words)], env=env)


def test_many_who_change_a_gallery_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    Gallery(WIDTH).save(path)
    script = (
        "import sys, numpy as np\nfrom crossres.deploy.gallery import Gallery\n"
        "from crossres.deploy.gallery_file import locked\n"
        "for i in range(20):\n    with locked(sys.argv[1]):\n        gallery = Gallery.load(sys.argv[1])\n"
        "        gallery.add(f'{sys.argv[2]}{i}', np.ones(16))\n        gallery.save(sys.argv[1])\n"
        "assert not {'torch', 'faiss'} & set(sys.modules)\n"
    )
    processes = [started(script, path, who) for who in "abc"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert sorted(Gallery.load(path).names) == sorted(f"{who}{i}" for who in "abc" for i in range(20))
    assert set(os.listdir(tmp_path)) <= {"people.gallery", ".people.gallery.lock"}


def test_a_lock_of_a_dead_process_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    script = (
        "import os, signal, sys\nfrom crossres.deploy.gallery_file import locked\n"
        "with locked(sys.argv[1]):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert started(script, path).wait(60) == -9
    monkeypatch.setattr(gallery_file, "WAIT", 0.1)
    refused = pytest.raises(CrossresError, match="another process has been changing it")
    with gallery_file.locked(path), refused, gallery_file.locked(path):
        pass
