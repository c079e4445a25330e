"""Finished runs of both tasks, each trained for an epoch or two, and pages on them as a browser reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres import Augment, Distill, Faces, Model, Train, build_encoder, distill, distill_faces
from crossres.config.judging import Report
from crossres.models.pretrained import save_pretrained
from crossres.report.report import write_report


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

    def texts(self, tag: str) -> str:
        return " | ".join(self.text.get(tag, []))

    def tables(self) -> list[list[str]]:
        """Return the rows of each table as they are read, a text each."""
        bodies = re.findall(r"<tbody>(.*?)</tbody>", self.source, re.DOTALL)
        rows = [re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL) for body in bodies]
        return [[" ".join(re.sub(r"<.*?>", " ", row).split()) for row in each] for each in rows]

    def tile(self, name: str) -> str | None:
        """Return the number of a tile; None without it."""
        tile = re.search(rf'<div class="tile"><span>{re.escape(name)}</span><b>(.*?)</b>', self.source)
        return tile and tile[1]

    def loads_nothing(self) -> bool:
        own = all(address.startswith(("data:image/", "#")) for address in self.addresses)
        styles = self.texts("style")
        fetching = {"script", "link", "iframe", "object", "embed"} & {*self.names}
        return own and not fetching and "url(" not in styles and "@import" not in styles


@pytest.fixture
def read_page() -> type[Page]:
    """Return what reads a page's file."""
    return Page


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[..., Page]:
    """Return a function that writes a report on runs' folders, and reads it."""

    def write(*runs: Path, **options: Any) -> Page:
        out = tmp_path / "page.html"
        chosen = {name: value if isinstance(value, (int, list)) else str(value) for name, value in options.items()}
        size = write_report(Report(runs=[str(run) for run in runs], out=str(out), **chosen))
        assert size == out.stat().st_size
        return Page(out)

    return write


@pytest.fixture(scope="session")
def train() -> Callable[..., Path]:
    """Return a function that trains a student on images at 8 x 8, and returns its folder."""

    def run(folder: Path, name: str, data: Path, losses: Any, **options: Any) -> Path:
        small: dict[str, Any] = {"lr_size": 8, "model": Model(name="resnet8"), "augment": Augment(shift=1)}
        where = {"data": str(data), "runs": str(folder), "name": name}
        terms = {loss: {"weight": weight} for loss, weight in losses.items()}
        epochs = Train(epochs=options.pop("epochs", 1), batch_size=24)
        exact: dict[str, Any] = {"precision": "float32", "device": "cpu"}
        distill(Distill(losses=terms, train=epochs, **where, **{**small, **exact, **options}), quiet=True)
        return folder / name

    return run


@pytest.fixture(scope="session")
def runs(
    drawn: Path, drawn_teacher: Path, train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of two students of `drawn` at 8 x 8: taught by the teacher, and alone."""
    folder = tmp_path_factory.mktemp("report")
    train(folder, "taught", drawn, {"ce": 1.0, "kd": 0.5}, teacher=str(drawn_teacher), epochs=2)
    train(folder, "alone", drawn, {"ce": 1.0}, epochs=2)
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a face run, its people (12 in each split, six images each) and its teacher."""
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
    config = Faces(
        name="tiny",
        data=str(root / "faces"),
        runs=str(root),
        teacher=str(root / "teacher"),
        lr_size=8,
        hr_size=16,
        val_pairs=60,
        losses={"cosine": {"weight": 1.0}},
        model=Model(name="resnet8"),
        augment=Augment(shift=1),
        train=Train(epochs=2, batch_size=24, val_fraction=0.25),
        precision="float32",
        device="cpu",
    )
    distill_faces(config, quiet=True)
    return root
