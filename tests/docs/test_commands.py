"""The commands of README and docs run as they stand, one page after another; trainings are cut to an epoch."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from PIL import Image

from crossres.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
LABELS_ALONE = ["--losses.kd.weight", "0", "--losses.crrcd.weight", "0"]
SHORT = ["--train.epochs", "1", "--train.batch_size", "16"]


def commands(page: Path) -> list[list[str]]:
    """The words of each indented line that calls crossres, with the lines that go on after a backslash."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^    crossres (.*)", text, re.M)
    assert lines
    return [shlex.split(line, comments=True) for line in lines]


def shortened(grid: Path) -> None:
    """Cut a grid to one seed, one size and one epoch."""
    tree = yaml.safe_load(grid.read_text())
    tree |= {"seeds": tree["seeds"][:1], "lr_sizes": tree["lr_sizes"][:1]}
    tree["base"]["train"] = {"epochs": 1, "batch_size": 32}
    grid.write_text(yaml.safe_dump(tree))


def call(words: list[str]) -> str:
    """Run a command; return what it printed."""
    if words[0] in ("teach", "distill") or words[:2] == ["faces", "distill"]:
        words = [*words, *SHORT]
    if words[0] == "page" and find_spec("gradio"):
        return ""  # it serves until it is stopped; tests/deploy/test_page.py does that
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    if words[0] == "page":
        assert (code, err.getvalue()) == (2, "crossres: the page needs gradio: pip install 'crossres[page]'\n")
    else:
        assert code == 0, f"crossres {' '.join(words)}\n{err.getvalue()}"
    return out.getvalue()


def strong(path: Path, side: int, width: int) -> None:
    """Write an ONNX file that stands in for a face model."""
    torch.manual_seed(0)
    head = [torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, width)]
    torch.onnx.export(torch.nn.Sequential(*head).eval(), (torch.zeros(1, 3, side, side),), path, verbose=False)


def draw_people(folder: Path, *names: str) -> None:
    rng = np.random.default_rng(len(names))
    for name in names:
        face = rng.integers(40, 215, (2, 2, 3))
        (folder / name).mkdir(parents=True)
        for number in range(1, 5):
            pixels = np.kron(face, np.ones((14, 14, 1))) + rng.normal(0, 15, (28, 28, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{name}_{number:04}.png")


def pairs(images: Path) -> list[tuple[str, str, int]]:
    """Some pairs of the images of people, with 1 for the same person."""
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    return [(a, b, int(a.split("/")[-2] == b.split("/")[-2])) for a in names[::3] for b in names if a < b]


@pytest.fixture(scope="module")
def world(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that README's commands name."""
    here = tmp_path_factory.mktemp("world")
    shutil.copytree(drawn, here / "crops")
    shutil.copytree(drawn / "test", here / "other-crops")
    shutil.copytree(drawn / "test", here / "photos")
    shutil.copytree(ROOT / "recipes", here / "recipes")
    for split, letters in (("train", ascii_lowercase[:20]), ("test", ascii_lowercase[20:])):
        draw_people(here / "people" / split, *(f"person-{letter}" for letter in letters))
    shutil.copytree(here / "people" / "test" / "person-z", here / "probes")
    draw_people(here / "strangers", "x", "y")
    same = "".join(f"person-{letter} 1 2\n" for letter in ascii_lowercase[20:])
    other = "".join(f"person-{letter} 1 person-{chr(ord(letter) + 1)} 2\n" for letter in ascii_lowercase[20:25])
    (here / "pairs.txt").write_text(f"6\n{same}{other}person-u 3 person-z 3\n")
    strong(here / "arcface.onnx", 28, 512)
    return here


def test_readme(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    teach = "--data digits --name digits-teacher --model.name resnet8 --augment.flip false"
    said = {}
    for words in commands(ROOT / "README.md"):
        if words[0] == "bench":
            call(["teach", *teach.split()])
            shortened(Path(words[1]))
        said[tuple(words[:2])] = call(words)
    for made in ("runs/my-student/evaluation.png", "small.onnx", "report.html", "results/digits/comparison.md"):
        assert Path(made).stat().st_size
    assert len(said["predict", "small.onnx"].splitlines()) == 40
    assert len(said["identify", "gallery.npz"].splitlines()) == 4


def test_deploy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("crops", "photos", "strangers", "probes"):
        shutil.copytree(world / name, name)
    shutil.copytree(world / "people" / "test", "people")
    strong(Path("arcface.onnx"), 28, 64)
    how = ["--lr_size", "8", "--model.name", "resnet8"]
    for name in ("student", "another"):
        call(
            [
                "distill",
                "--data",
                "crops",
                *how,
                "--name",
                name,
                "--losses.kd.weight",
                "0",
                "--losses.crrcd.weight",
                "0",
            ]
        )
    call(["faces", "distill", "--data", str(world / "people"), "--teacher", "arcface.onnx", *how, "--name", "tiny"])
    one, other = sorted(Path("probes").iterdir())[:2]
    shutil.copy(one, "one.png")
    shutil.copy(other, "other.png")
    listed = "".join(f"{a},{b},{same}\n" for a, b, same in pairs(Path("people")))
    Path("pairs.csv").write_text(f"left,right,same\n{listed}")
    Path("shards").mkdir()
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(Path("photos").rglob("*.png"))]
    parquet.write_table(pyarrow.table({"image": images}), "shards/train-00000-of-00001.parquet")
    said = {}
    for words in commands(ROOT / "docs" / "deploy.md"):
        if "ray" in words:
            if find_spec("ray") is None:
                continue
            # beside the embeddings that the line before it wrote
            words[words.index("embeddings/")] = "embeddings-of-shards/"
        said[words[0]] = call(words)
    assert len(Path("answers.csv").read_text().splitlines()) == 41
    assert len(said["identify"].splitlines()) == 4
    assert re.match(r"similarity [\d.]+: (same|not the same) \(threshold ", said["verify"])
    assert Path("report.html").stat().st_size


def test_faces(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "people", "people")
    shutil.copy(world / "pairs.txt", ".")
    strong(Path("arcface.onnx"), 112, 128)
    for words in commands(ROOT / "docs" / "faces.md"):
        call(words)
    assert Path("faces.png").stat().st_size


def test_benchmark(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("crops", "other-crops"):
        shutil.copytree(world / name, name)
    page = ROOT / "docs" / "benchmark.md"
    (grid,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    Path("crops.yaml").write_text(grid)
    shortened(Path("crops.yaml"))
    call(["teach", "--data", "crops", "--hr_size", "16", "--model.name", "resnet8", "--name", "my-teacher"])
    for words in commands(page):
        call(words)
    assert len(list(Path("results/crops").glob("*.json"))) >= 3


def test_the_code_of_readme_that_needs_images(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "crops", "crops")
    layers = [torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 4)]
    names: dict[str, Any] = {"my_module": torch.nn.Sequential(*layers)}
    short = {
        "epochs=60": "epochs=1",
        "lr_size=8,": "lr_size=8, train=crossres.Train(epochs=1),",
        '["bus", "car"]': '["bar", "cross", "disc", "frame"]',
    }
    found = re.findall(r"<!-- needs images -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(found) == 2
    for code in found:
        for long, cut in short.items():
            code = code.replace(long, cut)
        exec(compile(code, "README", "exec"), names)
    assert names["answer"].label in ("bar", "cross", "disc", "frame")
