"""Small drawn images and a teacher trained on them, shared by the tests that run the real thing."""

from __future__ import annotations

import os

# before torch is imported: runs are compared bit by bit, and several processes on few cores wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import builtins
import io
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SHAPES = ("bar", "cross", "disc", "frame")


def draw_shape(shape: str, rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """Draw one of SHAPES off-centre in a random colour on a noisy ground: uint8 (side, side, 3)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2 + rng.integers(-2, 3, (2, 1, 1))
    mask = {
        "bar": (abs(y) < 2) & (x < 5),
        "cross": (abs(y) < 1.5) | (abs(x) < 1.5),
        "disc": x**2 + y**2 < 20,
        "frame": (np.maximum(abs(x), abs(y)) < 6) & (np.maximum(abs(x), abs(y)) > 3.5),
    }[shape]
    ground = rng.integers(0, 90, (side, side, 3))
    return np.where(mask[..., None], rng.integers(120, 256, 3), ground).astype(np.uint8)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster of this machine, with two cores; one for all tests of a process, as it takes seconds to start."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.shutdown()  # a command of an earlier test may have left one
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders with 16 x 16 PNGs: train/ with 24 images of each of SHAPES, test/ with 10."""
    root = tmp_path_factory.mktemp("drawn") / "shapes"
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 10)):
        for shape in SHAPES:
            folder = root / split / shape
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw_shape(shape, rng)).save(folder / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def drawn_teacher(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `teach` run on `drawn`: resnet8 at 16 x 16, float32."""
    from crossres import Teach, teach
    from crossres.config.options import Augment, Model, Train

    config = Teach(
        data=str(drawn),
        runs=str(tmp_path_factory.mktemp("teacher")),
        name="teacher",
        hr_size=16,
        augment=Augment(shift=1, flip=True),
        model=Model(name="resnet8"),
        train=Train(epochs=4, batch_size=24),
        precision="float32",
        device="cpu",
    )
    teach(config, quiet=True)
    return config.folder


#: people of each split of `crowd`
PEOPLE = 12


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with 12 people of their own: a face is two colours and a noisy pattern; six images each."""
    root = tmp_path_factory.mktemp("crowd") / "crowd"
    rng = np.random.default_rng(0)
    for split, first in (("train", 0), ("test", PEOPLE)):
        for person in range(first, first + PEOPLE):
            own = np.random.default_rng(1000 + person).integers(30, 226, (4, 4, 3))
            for image in range(6):
                pixels = np.kron(own, np.ones((4, 4, 1))) + rng.normal(0, 25, (16, 16, 3))
                path = root / split / f"p{person:02}" / f"p{person:02}_{image:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture
def pairs_csv(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a list of pairs of these rows, left,right,same, and returns its path."""

    def write(rows: str) -> Path:
        path = tmp_path / "wrong.csv"
        path.write_text(f"left,right,same\n{rows}\n")
        return path

    return write


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command which must end in exit code 2 and one line, and returns the line."""
    from crossres.commands.main import main

    def run(*words: object) -> str:
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        *before, line = printed.err.splitlines()
        assert code == 2
        assert printed.out == ""
        assert line.startswith("crossres: ")
        # what a training says before it is refused
        known = re.compile(
            r"epoch |no teacher is given: |validation is small |.*[;:] (train|test|all) [0-9,]+.* images$"
        )
        assert all(known.match(earlier) for earlier in before)
        return line.removeprefix("crossres: ")

    return run


@pytest.fixture
def proc_stat(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that pretends that this process has the cores 1 and 2, whose times are, at each look, a text.

    None is a system without such a file. The number of threads is then no longer chosen.
    """

    def pretend(*looks: str | None) -> None:
        real, left = builtins.open, list(looks)

        def fake(path: Any, *more: Any, **options: Any) -> Any:
            if path != "/proc/stat":
                return real(path, *more, **options)
            text = left.pop(0)
            if text is None:
                raise FileNotFoundError(path)
            return io.StringIO(text)

        monkeypatch.setattr(builtins, "open", fake)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2}, raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return pretend


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, the system's or Playwright's own."""
    api = pytest.importorskip("playwright.sync_api", reason="a page in a browser needs playwright")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as play:
        # a container's root has no sandbox
        try:
            opened = play.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"there is no Chromium that starts: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


def write_yunet(path: Path, points: np.ndarray) -> Path:
    """Write an ONNX file with YuNet's outputs that takes a red cell of 8 pixels for a face.

    Its ``points`` (5,), x + iy in pixels, count from the cell's corner.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, numbers, outputs = [], [], []
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        places = [value / stride for point in points for value in (point.real, point.imag)]
        for name, values in {"cls": [0.0], "obj": [0.0], "bbox": [0.5, 0.5, 2, 2], "kps": places}.items():
            weight = np.zeros((len(values), 3, 1, 1), np.float32)
            if len(values) == 1 and stride == 8:
                weight[0, :, 0, 0] = [-1 / 255, -1 / 255, 1 / 255]  # of blue, green and red
            of = f"{name}_{stride}"
            arrays = weight, np.array(values, np.float32), np.array([1, -1, len(values)])
            numbers += [numpy_helper.from_array(array, f"{of}/{i}") for i, array in enumerate(arrays)]
            nodes += [
                helper.make_node("Conv", [f"p{stride}", f"{of}/0", f"{of}/1"], [f"{of}/conv"]),
                helper.make_node("Transpose", [f"{of}/conv"], [f"{of}/last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{of}/last", f"{of}/2"], [of]),
            ]
            outputs.append(helper.make_tensor_value_info(of, TensorProto.FLOAT, [1, None, len(values)]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "yunet", [image], outputs, numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def yunet(tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """Return a function that writes a stand-in for YuNet with the points of a face, and returns its path."""
    pytest.importorskip("cv2", reason="the extra align is not installed")
    return partial(write_yunet, tmp_path / "yunet.onnx")
