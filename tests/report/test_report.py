"""``crossres report``: pages of real tiny runs of both tasks, and what becomes of bad input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossres import Distill, Faces, build_encoder, distill, load
from crossres.commands.main import main
from crossres.config.options import Augment, Model, Train
from crossres.models.pretrained import save_pretrained

Refused = Callable[..., str]
#: a name that would be an element, an entity, an end of an attribute and a formula
HOSTILE = '<b>&amp;"$x_y$'
SMALL: dict[str, Any] = {"lr_size": 8, "model": Model(name="resnet8"), "augment": Augment(shift=1)}


def train(**how: Any) -> Train:
    return Train(batch_size=24, precision="float32", device="cpu", **how)


class Page(HTMLParser):
    """What a browser finds in a file: text by element, the elements, and every address."""

    VOID = ("meta", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.names: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(" ".join(data.split()))

    def said(self, tag: str) -> str:
        return " | ".join(self.text.get(tag, []))

    def asks_for_nothing(self) -> bool:
        own = all(address.startswith(("data:image/", "#")) for address in self.addresses)
        styles = self.said("style")
        fetching = {"script", "link", "iframe", "object", "embed"} & {*self.names}
        return own and not fetching and "url(" not in styles and "@import" not in styles


def report(out: Path, *words: object) -> Page:
    assert main(["report", *(str(word) for word in words), "--out", str(out)]) == 0
    return Page(out)


@pytest.fixture(scope="module")
def runs(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two students of `drawn` at 8 x 8: taught by the teacher, and alone."""
    folder = tmp_path_factory.mktemp("report")
    both: dict[str, Any] = {"data": str(drawn), "runs": str(folder), "train": train(epochs=2), **SMALL}
    kd = {"ce": {"weight": 1.0}, "kd": {"weight": 0.5}}
    distill(Distill(name="taught", teacher=str(drawn_teacher), losses=kd, **both), quiet=True)
    distill(Distill(name="alone", losses={"ce": {"weight": 1.0}}, **both), quiet=True)
    return folder


def test_a_page_of_one_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(tmp_path / "page.html", runs / "taught", "--images", 3)
    told = capsys.readouterr()
    assert re.fullmatch(rf"{tmp_path}/page.html \(0\.\d MB\)\n", told.out)
    assert told.err.startswith("run 1 of 1: taught\n  top-1 ")
    assert page.asks_for_nothing()
    assert page.text["h3"] == [
        "What was trained",
        "Results",
        "Learning curves",
        "Confusion",
        "The worst errors",
        "Does the student keep the relations?",
        "Speed and size",
    ]
    document = json.loads((runs / "taught" / "result.json").read_text())
    assert f"{document['top1_best_val']:.2f} %" in page.text["b"]
    facts = page.said("dd")
    assert "shapes: 88 train, 8 val, 40 test" in facts
    assert "1 ce + 0.5 kd" in facts
    assert "the network reads 8x8, the images are 16x16" in facts
    assert "Teacher on 8x8, enlarged" in page.text["th"]
    assert "fingerprint" not in page.source
    wrong = round(40 * (1 - document["top1_best_val"] / 100))
    assert f"The student is wrong on {wrong} of 40 images; here are those it is surest of." in page.text["p"]
    assert page.names.count("article") == 3
    # of each error the image and what the student saw of it; and three matrices
    assert page.text["figcaption"].count("HR 16x16") == page.text["figcaption"].count("LR 8x8") == 3
    assert page.source.count("data:image/png;base64,") == 3 * 2 + 3
    # text is text, and its colours are the page's
    assert "side of the image, pixels" in page.text["text"]
    assert "#0101" not in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_runs_side_by_side(runs: Path, drawn_teacher: Path, tmp_path: Path) -> None:
    twin = tmp_path / "taught"
    shutil.copytree(runs / "alone", twin)
    words = runs / "taught", twin, drawn_teacher, "--teacher", drawn_teacher, "--images", 1
    page = report(tmp_path / "page.html", *words)
    # runs of one name are told apart
    names = [str(runs / "taught"), str(twin), "teacher"]
    assert page.text["a"] == names
    assert page.text["h2"] == ["Side by side", *names]
    assert page.text["h3"][:4] == ["Runs by top-1", "Methods", "Curves", "What was trained"]
    assert "gain over ce" in page.text["th"]
    assert page.text["h3"].count("Does the student keep the relations?") == 3
    assert page.said("p").count("resnet8 is shown beside the run, which did not learn from it.") == 2
    # a teacher's run has a page, too
    assert "resnet8 reads images of 16x16, a teacher." in page.text["p"]
    assert page.names.count("article") == 3


def test_names_are_no_html_and_what_is_not_as_it_was_is_said(
    drawn: Path, drawn_teacher: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    for split in ("train", "test"):
        (data / split / "bar").rename(data / split / HOSTILE)
        for file in (data / split).rglob("*.png"):
            file.rename(file.with_name(f"{HOSTILE}{file.name}"))
    made = {"data": str(data), "runs": str(tmp_path), "name": HOSTILE, "train": train(epochs=1), **SMALL}
    distill(Distill(teacher=None, losses={"ce": {"weight": 1.0}}, **made), quiet=True)
    run = tmp_path / HOSTILE
    page = report(tmp_path / "page.html", run, "--images", 40)
    assert page.asks_for_nothing()
    assert page.text["h2"] == [HOSTILE]
    assert "<b>&amp;" not in page.source  # as it would be unescaped
    assert HOSTILE in page.text["text"]  # of a drawing: an axis of the confusion matrix
    assert HOSTILE in page.said("td")
    assert any(HOSTILE in where and where.endswith(".png") for where in page.text["p"])
    assert "taught by labels alone" in page.said("p")
    assert "Embeddings" in page.text["h3"]

    (run / "metrics.jsonl").unlink()
    config = run / "config.yaml"
    config.write_text(re.sub(r"(?m)^teacher: .*$", "teacher: runs/lost", config.read_text()))
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "test" / "disc" / f"{HOSTILE}00.png").unlink()
    page = report(tmp_path / "page.html", run, "--data", other, "--images", 0)
    said = page.said("p")
    assert "These may be other images: other does not carry the fingerprint of the run's test images" in said
    assert "The run's teacher is not at runs/lost: the page shows the student alone. --teacher names one." in said
    assert "no readable metrics.jsonl" in said
    assert "Learning curves" not in page.text["h3"]
    # a teacher that is named has to fit
    assert main(["report", str(run), "--teacher", str(drawn_teacher), "--out", str(tmp_path / "none.html")]) == 2
    assert not (tmp_path / "none.html").exists()


def test_a_teacher_that_is_a_plain_checkpoint(drawn: Path, drawn_teacher: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "teacher.pth"
    torch.save(load(drawn_teacher).state_dict(), checkpoint)
    distill(
        Distill(
            name="student",
            data=str(drawn),
            runs=str(tmp_path),
            teacher=str(checkpoint),
            teacher_name="resnet8",
            losses={"ce": {"weight": 1.0}, "kd": {"weight": 1.0}},
            train=train(epochs=1),
            **SMALL,
        ),
        quiet=True,
    )
    page = report(tmp_path / "page.html", tmp_path / "student", "--images", 0)
    assert {"Teacher at 16x16", "Teacher on 8x8, enlarged"} <= {*page.text["th"]}
    assert "Does the student keep the relations?" in page.text["h3"]
    # the same network as the saved teacher, so the same numbers
    saved = report(tmp_path / "saved.html", tmp_path / "student", "--images", 0, "--teacher", drawn_teacher)
    assert [cell for cell in page.text["b"] if "%" in cell] == [cell for cell in saved.text["b"] if "%" in cell]

    # other training images normalise it otherwise: it is not the one that taught
    other = tmp_path / "other"
    shutil.copytree(drawn, other)
    shutil.rmtree(other / "train" / "disc")
    shutil.copytree(other / "train" / "bar", other / "train" / "disc")
    page = report(tmp_path / "page.html", tmp_path / "student", "--images", 0, "--data", other)
    said = page.said("p")
    assert "is a plain checkpoint, and it or the training images that it is normalised by have changed" in said
    assert "Teacher at 16x16" not in page.text["th"]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a face run, its people (12 in each split, six images each) and its teacher."""
    from crossres.training.run import run

    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for number in range(24):
        own = rng.integers(30, 226, (4, 4, 3))
        for image in range(6):
            pixels = np.kron(own, np.ones((4, 4, 1))) + rng.normal(0, 45, (16, 16, 3))
            path = root / "faces" / ("train" if number < 12 else "test") / f"p{number}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), root / "teacher", info={"hr_size": 16})
    how: dict[str, Any] = {**SMALL, "train": train(epochs=2, val_fraction=0.25), "hr_size": 16, "val_pairs": 60}
    losses = {"cosine": {"weight": 1.0}}
    where = {"data": str(root / "faces"), "runs": str(root), "teacher": str(root / "teacher")}
    run(Faces(name="tiny", losses=losses, **where, **how), quiet=True)
    return root


def test_a_page_of_faces_and_objects(people: Path, runs: Path, tmp_path: Path) -> None:
    words = people / "tiny", runs / "alone", "--images", 2, "--gallery", people / "teacher"
    page = report(tmp_path / "page.html", *words)
    assert page.asks_for_nothing()
    assert page.text["h3"][:4] == ["Runs by pair accuracy", "Curves", "Runs by top-1", "Curves"]
    assert page.text["h3"][4:11] == [
        "What was trained",
        "Results",
        "Learning curves",
        "Genuine and impostor pairs",
        "The worst errors",
        "Does the student keep the relations?",
        "Speed and size",
    ]
    heads = page.text["th"]
    at = heads.index("accuracy")
    assert heads[at : at + 7] == ["accuracy", "AUC", "EER", "TAR at FAR 1e-2", "1e-3", "rank-1", "mAP"]
    rows = ["Student, LR-LR 8x8", "Recorded, last epoch", "Teacher, HR-HR 16x16"]
    assert heads[at + 7 : at + 11] == [*rows, "Student, HR-LR 8x8, HR by teacher"]
    document = json.loads((people / "tiny" / "result.json").read_text())
    # what training measured is what the page measures
    for key in ("accuracy", "auc", "rank1"):
        assert f"{document[f'{key}_best_val']:.2f} %" in page.text["b"]
    assert page.names.count("article") == 4
    captions = [caption for caption in page.text["figcaption"] if caption[:2] in ("HR", "LR")]
    assert captions == 4 * ["HR 16x16", "LR 8x8"] + 2 * ["HR 16x16", "LR 8x8"]
    assert {"ROC", "Similarities, student at 8x8", "Similarities, teacher at 16x16"} <= {*page.text["div"]}
    assert page.said("span").count("genuine") == 2
    assert "These may be other images" not in page.said("p")


def test_bad_input(runs: Path, tmp_path: Path, refused: Refused) -> None:
    run = runs / "alone"
    assert refused("report", tmp_path) == f"{tmp_path} holds no run (no config.yaml); give the folder RUNS/NAME"
    assert refused("report", run, run / "..", "--images", -1) == "--images: 0 or more"
    assert refused("report", run, runs / "taught" / ".." / "alone").endswith("is given twice; name each run once")
    assert refused("report", run, "--out", tmp_path).startswith(
        f"--out {tmp_path} is a folder; name a file, such as "
    )
    assert refused("report", run, "--gallery", run).startswith("--gallery is for face encoders")
    assert refused("report", run, "--pictures", 3).startswith("unknown option --pictures")
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    (begun / "result.json").unlink()
    assert refused("report", begun) == f"{begun} has no readable result.json: end the run with --resume {begun}"
