"""``crossres report``: pages of one run and of several, and what becomes of bad input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossres.commands.main import main
from crossres.report.parts import share

Refused = Callable[..., str]


def test_a_page_of_one_run(
    runs: Path, read_page: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(runs / "taught"), "--images", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(rf"{out} \(0\.\d MB\)\n", printed.out)
    assert printed.err.startswith("run 1 of 1: taught\n  top-1 ")
    page = read_page(out)
    assert page.loads_nothing()
    assert page.text["h3"] == [
        "Results",
        "Confusion",
        "The worst errors",
        "Does the student keep the relations?",
        "Speed and size",
        "Learning curves",
        "What was trained",
    ]
    document = json.loads((runs / "taught" / "result.json").read_text())
    assert f"{share(document['top1_best_val'])} %" in page.text["b"]
    facts = page.texts("dd")
    assert "shapes: 88 training, 8 validation, 40 test" in facts
    assert "1 ce + 0.5 kd" in facts
    assert "the network reads 8x8, the images are 16x16" in facts
    assert "Teacher on 8x8, enlarged" in page.text["th"]
    assert "fingerprint" not in page.source
    wrong = round(40 * (1 - document["top1_best_val"] / 100))
    assert f"The student is wrong on {wrong} of 40 images; here are those it is surest of." in page.text["p"]
    assert page.names.count("article") == 3
    # of each error the image and what the student saw of it; and three matrices, two of them with a colour bar
    assert page.text["figcaption"].count("HR 16x16") == page.text["figcaption"].count("LR 8x8") == 3
    assert page.source.count("data:image/png;base64,") == 3 * 2 + 5
    # text is text, and its colours are the page's
    assert "side of the image, pixels" in page.text["text"]
    assert "#0101" not in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_tiles_and_what_they_are(
    runs: Path,
    drawn: Path,
    drawn_teacher: Path,
    page_of: Callable[..., Any],
    train: Callable[..., Path],
    tmp_path: Path,
) -> None:
    page = page_of(runs / "taught", images=0)
    enlarged = next(row for rows in page.tables() for row in rows if row.startswith("Teacher on 8x8, enlarged"))
    assert page.tile("teacher, enlarged") == enlarged.removeprefix("Teacher on 8x8, enlarged ")[:6]
    explained = next(text for text in page.text["p"] if "Neighbours kept: " in text)
    assert "of a test image's 10 nearest others in the teacher's space that are among its nearest in the" in explained
    for text in page.text["b"]:
        assert len(re.sub(r"\D", "", text)) <= 3 or text.startswith("99.9")
    assert page.tile("an image").split()[1] in ("µs", "ms")
    assert "thread(s)" not in page.source
    # a student of a range of sizes is compared with the teacher on such images
    config = {"teacher": str(drawn_teacher), "lr_size": (6, 10)}
    page = page_of(train(tmp_path, "range", drawn, {"ce": 1.0, "kd": 1.0}, **config), images=0)
    assert page.tile("teacher, enlarged")
    assert "Teacher on 6 to 10 pixels, enlarged" in page.text["th"]
    alone = page_of(runs / "alone", images=0)
    assert alone.tile("teacher, enlarged") is None
    assert "Neighbours kept" not in alone.source


def test_drawings_have_titles_and_scales(runs: Path, people: Path, page_of: Callable[..., Any]) -> None:
    page = page_of(runs / "taught", people / "tiny", images=0)
    drawings = re.findall(r"<svg.*?>\s*(<title>(.*?)</title>)?", page.source)
    assert len(drawings) == page.names.count("svg") == page.source.count('<svg role="img"')
    titles = [title for _, title in drawings]
    assert all(titles)
    assert {"Top-1 with 95 % intervals", "Pair accuracy with 95 % intervals"} <= {*titles}
    # one scale for all rows of a table, in percent
    texts = page.text["text"]
    assert {"Student at 8x8", "Teacher at 16x16", "top-1, %", "pair accuracy, %"} <= {*texts}
    assert texts.count("cosine: -1 opposed, 1 alike") == titles.count("Relations, teacher") * 2 == 4


def test_no_row_stands_twice(runs: Path, people: Path, page_of: Callable[..., Any], tmp_path: Path) -> None:
    page = page_of(runs / "taught", people / "tiny", images=0)
    for rows in page.tables():
        assert len({*rows}) == len(rows)
    assert "Recorded, " not in page.texts("th")  # what was recorded is what was measured
    run = shutil.copytree(runs / "taught", tmp_path / "taught")
    document = json.loads((run / "result.json").read_text())
    document |= {"top1_last": 12.5, "top1_best_val": 12.5}
    (run / "result.json").write_text(json.dumps(document))
    assert page_of(run, images=0).texts("th").count("Recorded, ") == 1


def test_all_but_the_worst_errors_are_folded(runs: Path, page_of: Callable[..., Any]) -> None:
    page = page_of(runs / "taught", images=9)
    assert page.names.count("article") == 9
    assert page.text["summary"][0] == "3 more"


def test_images_of_another_camera(
    runs: Path, people: Path, drawn: Path, page_of: Callable[..., Any], refused: Refused, tmp_path: Path
) -> None:
    far = shutil.copytree(drawn / "test", tmp_path / "far")
    line = "natural is for classifiers, and some of the runs are of faces; leave it out"
    assert refused("report", people / "tiny", "--natural", far) == line
    page = page_of(runs / "taught", natural=[str(far)], images=0)
    assert "Other cameras" in page.text["h3"]
    rows = page.texts("th")
    assert all(name in rows for name in ("as trained", "far", "blur, noise, JPEG", "nearest"))
    # of each of the four classes the test image, as trained, and the other camera's
    assert page.names.count("article") == 4
    assert page.text["figcaption"].count("far") == page.text["figcaption"].count("as trained 8x8") == 4
    assert "Other cameras" not in page_of(runs / "taught").text["h3"]


def test_runs_side_by_side(runs: Path, drawn_teacher: Path, page_of: Callable[..., Any], tmp_path: Path) -> None:
    twin = tmp_path / "taught"
    shutil.copytree(runs / "alone", twin)
    page = page_of(runs / "taught", twin, drawn_teacher, teacher=drawn_teacher, images=1)
    # runs of one name are told apart
    names = [str(runs / "taught"), str(twin), "teacher"]
    assert page.text["a"] == names
    assert page.text["h2"] == ["Side by side", *names]
    assert page.text["h3"][:4] == ["Runs by top-1", "Methods", "Curves", "Results"]
    assert "gain over ce" in page.text["th"]
    assert page.text["h3"].count("Does the student keep the relations?") == 3
    assert page.texts("p").count("resnet8 is shown beside the run, which did not learn from it.") == 2
    # a teacher's run has a page, too
    assert "resnet8 reads images of 16x16, a teacher." in page.text["p"]
    assert page.names.count("article") == 3


def test_bad_input(runs: Path, tmp_path: Path, refused: Refused) -> None:
    run = runs / "alone"
    assert refused("report", tmp_path) == f"{tmp_path} is not a run (no config.yaml); give the folder RUNS/NAME"
    assert refused("report", run, run / "..", "--images", -1) == "images: expected 0 or more, got -1"
    assert refused("report", run, runs / "taught" / ".." / "alone").endswith("is given twice; name each run once")
    assert refused("report", run, "--out", tmp_path).startswith(f"out: {tmp_path} is a folder; name a file, such as ")
    assert refused("report", run, "--gallery", run).startswith("gallery is for face encoders")
    assert refused("report", run, "--pictures", 3).startswith("unknown option '--pictures'")
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    (begun / "result.json").unlink()
    remedy = f"finish it first: crossres distill --resume {begun}"
    assert refused("report", begun) == f"{begun} has no readable result.json; {remedy}"
