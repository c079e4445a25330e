"""Damaged and mutated input of every kind: no traceback, no hang, and no answer that silently changed."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossres.config.reading import kind_of, read
from crossres.config.yaml_file import load_yaml
from crossres.core.errors import CrossresError
from crossres.core.files import load_state
from crossres.data.images import ImageSet
from crossres.data.items import EncodedItems
from crossres.deploy.gallery import Gallery
from crossres.deploy.recognizer import Recognizer
from crossres.models.teachers import stored_encoder

ROOT = Path(__file__).resolve().parents[2]
#: Seconds that reading one of them may take; far above what it takes.
SOON = 5.0


def mutants(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield copies with a few bits flipped, a part cut out, repeated or zeroed, or the end cut off."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        data, (start, length) = bytearray(content), (int(rng.integers(len(content))), int(rng.integers(1, 40)))
        if number % 5 == 0:
            for place in rng.integers(len(data), size=rng.integers(1, 4)):
                data[place] ^= 1 << rng.integers(8)
        elif number % 5 == 1:
            del data[start : start + length]
        elif number % 5 == 2:
            data[start:start] = data[start : start + length]
        elif number % 5 == 3:
            data[start : start + length] = bytes(len(data[start : start + length]))
        else:
            del data[start:]
        if data != content:
            yield bytes(data)


def refused_or(act: Callable[[], Any]) -> Any:
    """Return what a call returns, or None where it is refused in one line, soon."""
    started, refusal, answer = time.perf_counter(), "", None
    try:
        answer = act()
    except CrossresError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert time.perf_counter() - started < SOON
    return answer


def test_options(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    for number, recipe in enumerate(recipes):
        for mutant in mutants(recipe.read_bytes(), 1500 // len(recipes), number):
            path.write_bytes(mutant)
            tree = refused_or(lambda: load_yaml(path))
            if tree is not None:
                refused_or(lambda tree=tree: read(kind_of(tree), tree, file=path))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"])
def test_images(kind: str, onnx_file: Path) -> None:
    sound = io.BytesIO()
    pixels = np.random.default_rng(1).integers(256, size=(12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sound, kind)
    recognizer, some = Recognizer.load(onnx_file, threads=1), list(mutants(sound.getvalue(), 800))
    for answer in recognizer.stream(some):
        assert (answer.error is None) == (answer.label is not None)
    images = ImageSet(EncodedItems(some, kind), np.zeros(len(some)), ["a"], kind)
    for i in range(len(images)):
        refused_or(lambda i=i: images.image(i))


def test_models(student: Path, onnx_file: Path, tmp_path: Path) -> None:
    photo = np.random.default_rng(1).integers(256, size=(8, 8, 3), dtype=np.uint8)
    folder = tmp_path / "model"
    shutil.copytree(student / "model", folder)
    shutil.copy(onnx_file, tmp_path / "student.onnx")
    for path, model in ((folder / "model.safetensors", folder), (tmp_path / "student.onnx",) * 2):
        content, before = path.read_bytes(), Recognizer.load(model, threads=1).embed(photo)
        for mutant in mutants(content, 300):
            path.write_bytes(mutant)
            after = refused_or(lambda model=model: Recognizer.load(model, threads=1).embed(photo))
            assert after is None or np.array_equal(before, after)
        path.write_bytes(content)
    config = folder / "config.json"
    for mutant in mutants(config.read_bytes(), 500):
        config.write_bytes(mutant)
        refused_or(lambda: Recognizer.load(folder).embed(photo))


def test_stored_files(student: Path, tmp_path: Path) -> None:
    names, rows = [f"{i}.png" for i in range(20)], np.eye(20, 8, dtype=np.float32) + 1
    gallery = Gallery(8)
    for name, row in zip(names, rows, strict=True):
        gallery.add(name, row[None])
    gallery.save(tmp_path / "gallery.npz")
    np.savez(tmp_path / "stored.npz", path=np.array(names), embedding=rows)
    table = pa.table({"path": names, "embedding": rows.tolist()})
    pq.write_table(table, tmp_path / "stored.parquet", write_page_checksum=True)
    shutil.copy(student / "state.pt", tmp_path / "state.pt")
    readers: dict[str, Callable[[Path], Any]] = {
        "gallery.npz": lambda path: Gallery.load(path).search(rows[:1], k=1),
        "stored.npz": lambda path: stored_encoder(path).backbone.values.tolist(),
        "stored.parquet": lambda path: stored_encoder(path).backbone.values.tolist(),
        "state.pt": lambda path: sorted(load_state(path)),
    }
    for name, reader in readers.items():
        path = tmp_path / name
        before = reader(path)
        for mutant in mutants(path.read_bytes(), 500):
            path.write_bytes(mutant)
            after = refused_or(lambda reader=reader, path=path: reader(path))
            assert after is None or after == before, name
