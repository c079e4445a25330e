"""The commands of README, the how-to pages and the tutorials run as they stand; trainings are cut to an epoch."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import tarfile
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

from crossres.bench.grid import read_grid
from crossres.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = [page for page in sorted((ROOT / "docs" / "tutorials").glob("*.md")) if "```sh" in page.read_text()]
#: What is added to the line of a training.
SHORT = ["--train.epochs", "1", "--train.batch_size", "16"]
#: Of a tutorial; that of faces trains as it says, for the student's answer to be right.
OF_TUTORIAL = {name: ["--train.epochs", "2"] for name in ("own-crops", "tiny-crops", "edge")} | {"faces": []}
#: Of faces: 6,000 pairs of a few people are drawn for seconds.
FEW_PAIRS = ["--val_pairs", "60"]


def commands(page: Path) -> list[list[str]]:
    """The words of each indented line that calls crossres, with the lines that go on after a backslash."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^    crossres (.*)", text, re.M)
    assert lines
    return [shlex.split(line, comments=True) for line in lines]


def shorten(grid: Path, *methods: str, **images: float) -> None:
    """Cut a grid to these methods, one seed, one size, one epoch and what these options read of the images."""
    read_grid(grid)  # as it stands
    tree = yaml.safe_load(grid.read_text())
    tree |= {"seeds": tree["seeds"][:1], "lr_sizes": tree["lr_sizes"][:1], "baseline": methods[0]}
    tree["methods"] = {name: tree["methods"][name] for name in methods}
    tree["base"] |= {"train": {"epochs": 1, "batch_size": 32}, "images": images}
    grid.write_text(yaml.safe_dump(tree))


def call(words: list[str], short: list[str] = SHORT) -> str:
    """Run a command; return what it printed."""
    if words[0] in ("teach", "distill"):
        words = [*words, *short]
    if words[:2] == ["faces", "distill"]:
        words = [*words, *short, *FEW_PAIRS]
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
    shutil.copytree(here / "people" / "test", here / "portraits")
    shutil.copytree(here / "people" / "test" / "person-z", here / "probes")
    draw_people(here / "strangers", "x", "y")
    same = "".join(f"person-{letter} 1 2\n" for letter in ascii_lowercase[20:])
    other = "".join(f"person-{letter} 1 person-{chr(ord(letter) + 1)} 2\n" for letter in ascii_lowercase[20:25])
    (here / "pairs.txt").write_text(f"6\n{same}{other}person-u 3 person-z 3\n")
    strong(here / "arcface.onnx", 28, 512)
    return here


def test_readme(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    for words in commands(ROOT / "README.md"):
        if words[0] == "bench":
            shorten(Path(words[1]), "ce", test_fraction=0.9)
        call(words)
    for made in ("small.onnx", "report.html", "results/digits/comparison.md"):
        assert Path(made).stat().st_size
    assert len(call(["predict", "small.onnx", "photos/"]).splitlines()) == 40


def test_train(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("crops", "other-crops"):
        shutil.copytree(world / name, name)
    for words in commands(ROOT / "docs" / "train.md"):
        call(words)
    for made in ("runs/my-student/evaluation.png", "report.html"):
        assert Path(made).stat().st_size


def test_deploy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("crops", "photos", "strangers", "probes"):
        shutil.copytree(world / name, name)
    shutil.copytree(world / "people" / "test", "people")
    strong(Path("arcface.onnx"), 28, 64)
    how = ["--lr_size", "8", "--model.name", "resnet8"]
    for name in ("student", "another"):
        call(["distill", "crops", *how, "--name", name])
    call(["faces", "distill", str(world / "people"), "--teacher", "arcface.onnx", *how, "--name", "tiny"])
    one, other = sorted(Path("probes").iterdir())[:2]
    shutil.copy(one, "one.png")
    shutil.copy(other, "other.png")
    listed = "".join(f"{a},{b},{same}\n" for a, b, same in pairs(Path("people")))
    Path("pairs.csv").write_text(f"left,right,same\n{listed}")
    Path("shards").mkdir()
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(Path("photos").rglob("*.png"))]
    parquet.write_table(pyarrow.table({"image": images}), "shards/train-00000-of-00001.parquet")
    printed = {}
    for words in commands(ROOT / "docs" / "deploy.md"):
        if "ray" in words:
            if find_spec("ray") is None:
                continue
            # beside the embeddings that the line before it wrote
            words[words.index("embeddings/")] = "embeddings-of-shards/"
        printed[words[0]] = call(words)
    assert len(Path("answers.csv").read_text().splitlines()) == 41
    assert len(printed["identify"].splitlines()) == 4
    assert re.match(r"similarity [\d.]+: (same|not the same) \(threshold ", printed["verify"])
    assert Path("report.html").stat().st_size


def test_scale(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    for split in ("train", "test"):
        with tarfile.open(f"shards/{split}-000000.tar", "w") as tar:
            for number, path in enumerate(sorted((world / "crops" / split).rglob("*.png"))):
                Path("label.cls").write_text(path.parent.name)
                tar.add(path, f"{number:04}.png")
                tar.add("label.cls", f"{number:04}.cls")
    call(["teach", "shards", "--hr_size", "16", "--model.name", "resnet8", "--name", "my-teacher"])
    for words in commands(ROOT / "docs" / "scale.md"):
        printed = call([*words, "--hr_size", "16", "--model.name", "resnet8"])
    assert Path("runs/student/result.json").is_file()
    assert len(list(Path("runs/cache").glob("*/*.safetensors"))) == 2, printed  # both flips


def write_templates(images: Path) -> None:
    """Write lists as IJB's into the working folder: two templates of each person."""
    people = sorted({path.stem.rpartition("_")[0] for path in images.iterdir()})
    rows = [(f"{name}_{i:04}.png", 2 * p + i // 3, i) for p, name in enumerate(people) for i in range(1, 5)]
    Path("ijbc_face_tid_mid.txt").write_text("".join("{} {} {}\n".format(*row) for row in rows))
    same = "".join(f"{2 * p} {2 * p + 1} 1\n" for p in range(len(people)))
    Path("ijbc_template_pair_label.txt").write_text(f"{same}0 3 0\n")
    for name, whom in (("gallery_G1", people[1:]), ("probe_mixed", people)):
        lines = [f"{2 * people.index(one) + (name == 'probe_mixed')},{people.index(one)}" for one in whom]
        Path(f"ijbc_1N_{name}.csv").write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID", *lines]))


def test_faces(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "people", "people")
    shutil.copy(world / "pairs.txt", ".")
    strong(Path("arcface.onnx"), 112, 128)
    Path("loose_crop").mkdir()
    for path in Path("people", "test").rglob("*.png"):
        shutil.copy(path, "loose_crop")
    write_templates(Path("loose_crop"))
    for words in commands(ROOT / "docs" / "faces.md"):
        call(words)
    assert Path("faces.png").stat().st_size


def test_cameras(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(sorted((drawn / "train").glob("*/*.png"))):
        for folder, side in (("crops", 16), ("photos", 16), ("camera-crops", 8)):
            place = Path(folder) / path.parent.name / f"track{number // 4}_{number % 4}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).resize((side, side), Image.Resampling.BOX).save(place)
    call(["teach", "photos", "--model.name", "resnet8"])
    # adapt needs a student that is sure of something
    call(
        ["distill", "crops", "--model.name", "resnet8", "--lr_size", "8"],
        ["--train.epochs=8", "--train.batch_size=16"],
    )
    for words in commands(ROOT / "docs" / "cameras.md"):
        call(words)
    assert yaml.safe_load(Path("camera.yaml").read_text())["lr_size"] == 8
    assert Path("camera.png").stat().st_size
    assert json.loads(Path("runs/natural/result.json").read_text())["images"]["natural"]


def test_compare(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("crops", "other-crops"):
        shutil.copytree(world / name, name)
    page = ROOT / "docs" / "tutorials" / "compare.md"
    (grid,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    Path("crops.yaml").write_text(grid)
    call(["teach", "crops", "--hr_size", "16", "--model.name", "resnet8", "--name", "my-teacher"])
    shorten(Path("crops.yaml"), "crrcd")
    for words in commands(page):
        call(words)
    (result,) = [path for path in Path("results/crops").glob("*.json") if "crrcd" in path.name]
    assert json.loads(result.read_text()).keys() >= {"top1_last", "transfer", "unseen"}


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_line_of_a_tutorial(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and code, in their order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    blocks = re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), re.S)
    assert {kind for kind, _ in blocks} == {"python", "sh"}
    printed = ""
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, page.name, "exec", dont_inherit=True), names)
            continue
        for line in code.splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                exec(words[1], {})
            else:
                assert program == "crossres"
                printed = call(words, OF_TUTORIAL[page.stem])
    if page.stem == "faces":
        assert printed.startswith("camera.png: nearest: person42 ")


def test_the_code_of_training_that_needs_images(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "crops", "crops")
    layers = [torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 4)]
    names: dict[str, Any] = {"my_module": torch.nn.Sequential(*layers)}
    short = {
        "epochs=60": "epochs=1",
        "lr_size=8,": "lr_size=8, train=crossres.Train(epochs=1),",
        '["bus", "car"]': '["bar", "cross", "disc", "frame"]',
    }
    found = re.findall(r"<!-- needs images -->\n```python\n(.*?)```", (ROOT / "docs" / "train.md").read_text(), re.S)
    (code,) = found
    for long, cut in short.items():
        code = code.replace(long, cut)
    exec(compile(code, "train", "exec", dont_inherit=True), names)
    assert names["result"]["curve"]
