"""``crossres faces evaluate`` on drawn people."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossres import EvaluateFaces, Faces, Model, Train, build_encoder, distill_faces, evaluate_faces
from crossres.commands.main import main
from crossres.data.readers import read
from crossres.evaluation import face_protocols
from crossres.evaluation.verification import k_fold_accuracy
from crossres.models.pretrained import from_pretrained, save_pretrained

Refused = Callable[..., str]
Printed = pytest.CaptureFixture[str]
PLAIN = ("--resamples", 0)
VAL_PAIRS = 60


def run(*words: object) -> None:
    assert main(["faces", "evaluate", *map(str, words)]) == 0


@pytest.fixture(autouse=True)
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no list is given as many pairs are drawn as the trainings here draw: 6,000 of so few people take long."""
    monkeypatch.setattr(face_protocols, "DRAWN", VAL_PAIRS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="module")
def pairs(root: Path) -> Path:
    """12 genuine and 11 impostor pairs of the test's people, in four folds."""
    rows = ["left,right,same,fold"]
    rows += [f"p{a}_0000,p{a}_0001,1,{a % 4}" for a in range(12, 24)]
    rows += [f"p{a}_0000,p{a - 1}_0001,0,{a % 4}" for a in range(13, 24)]
    (root / "pairs.csv").write_text("\n".join(rows) + "\n")
    return root / "pairs.csv"


@pytest.fixture(scope="module")
def student(root: Path, crowd: Path, pairs: Path) -> Path:
    """A finished run of `crossres faces distill` that learnt from names, at 16 and 8 pixels."""
    config = Faces(
        data=str(crowd),
        runs=str(root),
        name="student",
        hr_size=16,
        lr_size=8,
        pairs=str(pairs),
        val_pairs=VAL_PAIRS,
        model=Model(name="resnet8", embedding_dim=24),
        train=Train(epochs=1, batch_size=16, val_fraction=0.25),
        device="cpu",
        precision="float32",
    )
    distill_faces(config, quiet=True)
    return config.folder


@pytest.fixture(scope="module")
def untrained(root: Path) -> Path:
    """A saved face encoder that knows nothing of its training."""
    torch.manual_seed(0)
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), root / "untrained")
    return root / "untrained"


def result_of(student: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((student / "result.json").read_text())
    return result


def test_what_training_measured_is_measured_again(student: Path, crowd: Path, pairs: Path, capsys: Printed) -> None:
    result = result_of(student)
    assert result["verification_last"]["pairs"] == {"genuine": 12, "impostor": 11}
    assert result["config"]["pairs"] == "pairs.csv"
    run(student, crowd, "--pairs", pairs, *PLAIN, "--json")
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert printed.out.count("\n") == 1
    assert [(row["sides"], row["size"]) for row in document["rows"]] == [("hr-hr", None), ("hr-lr", 8), ("lr-lr", 8)]
    assert document["rows"][2]["verification"]["auc"] == pytest.approx(result["auc_best_val"])
    assert document["rows"][2]["identification"]["rank1"] == pytest.approx(result["rank1_best_val"])
    assert document["rows"][2]["verification"]["pairs"] == {"genuine": 12, "impostor": 11}
    # Python does what the command does
    options = EvaluateFaces(model=str(student), data=str(crowd), pairs=str(pairs), resamples=0)
    assert json.loads(json.dumps(evaluate_faces(options))) == document


def test_a_table_and_a_figure(student: Path, crowd: Path, pairs: Path, tmp_path: Path, capsys: Printed) -> None:
    chooser = tmp_path / "chooser.csv"
    chooser.write_text("left,right,same\np01_0000,p01_0001,1\np01_0000,p02_0001,0\n")
    words = [student, crowd, "--pairs", pairs, "--threshold-pairs", chooser, "--resamples", 20, "--sizes", "4,8"]
    run(*words, "--flip", "--png", tmp_path / "faces.png")
    page = capsys.readouterr().out
    assert "each embedding is the mean over the image and its mirror image" in page
    assert "accuracy %" in page
    assert "accuracy at the threshold that is best on the threshold pairs" in page
    assert "±: half the 95 % interval" in page
    assert "over folds, as insightface" in page
    with Image.open(tmp_path / "faces.png") as figure:
        assert figure.width > 500


def test_what_is_written_gives_the_same_numbers_again(
    student: Path, crowd: Path, pairs: Path, tmp_path: Path, capsys: Printed, refused: Refused
) -> None:
    judged = [student, crowd, "--pairs", pairs, *PLAIN]
    rates = ["--far", "1e-1,1e-3,0.1", "--fpir", "0.05"]
    run(*judged, *rates, "--scores", tmp_path / "scores.csv", "--json")
    row = json.loads(capsys.readouterr().out)["rows"][2]
    assert [point["far"] for point in row["verification"]["tar_at_far"]] == [0.1, 0.001]
    assert row["identification"]["open_set"] is None
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 23
    of_row = [line for line in lines if (line["sides"], line["size"]) == ("lr-lr", "8")]
    assert (of_row[0]["left"], of_row[0]["right"]) == ("test/p12/p12_0000.png", "test/p12/p12_0001.png")
    again = k_fold_accuracy(
        [float(line["similarity"]) for line in of_row],
        [line["same"] == "1" for line in of_row],
        [int(line["fold"]) for line in of_row],
    )
    assert row["verification"]["folds"] == again
    run(*judged, *rates)
    assert "TAR@FAR 1e-1" in capsys.readouterr().out
    assert refused("faces", "evaluate", *judged, "--scores", pairs) == (
        f"--scores: {pairs} is an input; name another file"
    )


def test_the_people_whom_the_training_held_out_choose_the_same_threshold(
    student: Path, untrained: Path, crowd: Path, pairs: Path, capsys: Printed, refused: Refused
) -> None:
    result = result_of(student)
    run(student, crowd, "--pairs", pairs, *PLAIN, "--threshold_pairs", "held-out", "--json")
    chosen = json.loads(capsys.readouterr().out)["rows"][2]["verification"]
    assert chosen["accuracy_chosen"] == pytest.approx(result["accuracy_best_val"])
    assert chosen["threshold_chosen"] == pytest.approx(result["verification_best_val"]["threshold_chosen"])
    assert chosen["right"] == result["right_best_val"]
    line = refused("faces", "evaluate", student, crowd / "test", "--threshold_pairs", "held-out", "--split", "test")
    assert "these are not the images it was trained with, or their files have other times; give a list of" in line
    line = refused("faces", "evaluate", untrained, crowd, "--threshold_pairs", "held-out")
    assert "does not record which people were held out; give a list of pairs" in line


def test_a_folder_without_splits_is_split_by_people(crowd: Path, tmp_path: Path, capsys: Printed) -> None:
    config = Faces(
        data=str(crowd / "train"),
        runs=str(tmp_path),
        hr_size=16,
        lr_size=8,
        val_pairs=VAL_PAIRS,
        model=Model(name="resnet8"),
        train=Train(epochs=1, batch_size=16, val_fraction=0.25),
        device="cpu",
        precision="float32",
    )
    config.images.test_fraction = 0.25
    result = distill_faces(config, quiet=True)
    words = [config.folder, crowd / "train", "--json", *PLAIN]
    run(*words, "--pairs-only")
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["images"] == 72
    assert "identification" not in document["rows"][0]
    assert "the model may have been trained on most of them; --split test takes those that it was not" in printed.err
    # the people who were held out, and no others
    run(*words, "--split", "test")
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["images"], document["people"]) == (18, 3)
    assert printed.err == f"{crowd / 'train'}: test 18 images\n"
    assert document["rows"][-1]["verification"]["auc"] == pytest.approx(result["auc_best_val"])
    run(*words, "--split", "test", "--images.test_fraction", "0.5")
    line = "the model was trained with images.test_fraction 0.25, not 0.5: it may have seen these test images"
    assert line in capsys.readouterr().err
    run(*words, "--split", "train")
    printed = capsys.readouterr()
    assert json.loads(printed.out)["people"] == 9
    assert printed.err.startswith("--split train: the model was trained on most of these people, so the figures")


def test_people_that_choose_the_threshold_and_are_judged_by_it_are_reported(
    crowd: Path, untrained: Path, capsys: Printed, pairs_csv: Any
) -> None:
    both = pairs_csv("p12_0000,p12_0001,1\np12_0000,p13_0001,0")
    run(untrained, crowd / "test", "--pairs", both, "--threshold_pairs", both, *PLAIN, "--json")
    assert "wrong.csv: 2 of its people are in the judged pairs, first p12: " in capsys.readouterr().err


def test_own_folders_of_gallery_and_probes_are_judged_at_each_size(
    crowd: Path, untrained: Path, tmp_path: Path, capsys: Printed, refused: Refused
) -> None:
    for part, people, number in (("gallery", (12, 13), 0), ("probes", (12, 13, 14), 1)):
        for person in people:
            (tmp_path / "set" / part / f"p{person}").mkdir(parents=True)
            name = f"p{person}_{number:04}.png"
            shutil.copy(crowd / "test" / f"p{person}" / name, tmp_path / "set" / part / f"p{person}" / name)
    words = [untrained, tmp_path / "set", "--layout", "folders", *PLAIN]
    for more, sides in (
        ((), [("native", 16)]),
        (("--sizes", "4,8"), [("hr-hr", None), ("hr-lr", 4), ("lr-lr", 4), ("hr-lr", 8), ("lr-lr", 8)]),
    ):
        run(*words, "--json", *more)
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(row["sides"], row["size"]) for row in rows] == sides
        assert all(row["identification"]["strangers"] == 1 for row in rows)
        assert all(len(row["identification"]["open_set"]) == 3 for row in rows)
    run(*words, "--fpir", "0.2,1e-3", "--png", tmp_path / "set.png")
    page = capsys.readouterr().out
    assert "TPIR at FPIR 0.2" in page
    assert "0.001" in page
    line = refused("faces", "evaluate", *words, "--scores", "s.csv")
    assert line.endswith("has its own gallery and probes, no pairs; leave it out")


def test_templates_are_compared_with_templates(
    untrained: Path, crowd: Path, tmp_path: Path, capsys: Printed, refused: Refused
) -> None:
    people = range(12, 18)
    listed = [f"p{p}_{i:04} {2 * p + i // 3} {i}" for p in people for i in range(6)]
    (tmp_path / "templates.txt").write_text("\n".join(listed))
    pairs = [f"{2 * p} {2 * p + 1} 1" for p in people] + [f"{2 * p} {2 * p + 3} 0" for p in people[:-1]]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs))
    for name, number, whom in (("gallery", 0, people[:4]), ("probes", 1, people)):
        rows = "".join(f"{2 * p + number},{p}\n" for p in whom)
        (tmp_path / f"{name}.csv").write_text(f"template_id,subject_id\n{rows}")
    words = [untrained, crowd, "--templates", tmp_path / "templates.txt", *PLAIN, "--sizes", 8]
    both = ["--pairs", tmp_path / "pairs.txt", "--search", f"{tmp_path}/gallery.csv,{tmp_path}/probes.csv"]
    run(*words, *both, "--scores", tmp_path / "scores.csv", "--json")
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["templates"], document["people"]) == (36, 12, 0)
    high = document["rows"][0]
    searched = {name: high["identification"][name] for name in ("gallery", "mated_probes", "strangers")}
    assert searched == {"gallery": 4, "mated_probes": 4, "strangers": 2}
    # by hand, with images in place of templates of one
    encoder, images = from_pretrained(untrained), read(crowd, split="test", open_set=True)
    place = {Path(images.path(i)).stem: i for i in range(len(images))}
    with torch.no_grad():
        rows = encoder(images.pixels(16).float() / 255).embedding.numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    means = {t: rows[[place[f"p{t // 2}_{3 * (t % 2) + i:04}"] for i in range(3)]].mean(0) for t in range(24, 36)}
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["sides"] == "hr-hr"]
    for line in lines:
        left, right = means[int(line["left"])], means[int(line["right"])]
        cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        assert float(line["similarity"]) == pytest.approx(cosine, abs=1e-5)
    run(*words, *both, "--by_quality")
    page = capsys.readouterr().out
    assert "36 images in 12 templates" in page
    assert "† at the threshold that is best on these very pairs\n" in page
    assert "4 gallery templates, 4 probes of them, 2 of strangers" in page
    refuse = partial(refused, "faces", "evaluate")
    assert refuse(*words) == "--templates: give --pairs or --search, lists of templates"
    assert refuse(*words, *both, "--split", "test") == "--split: cannot be combined with --templates"
    line = refuse(untrained, crowd, "--by_quality")
    assert line == "--by_quality is about templates; give --templates, or leave it out"
    line = refuse(*words, *both[2:], "--scores", tmp_path / "s.csv")
    assert line == "--scores writes the similarities of pairs; give --pairs, or leave it out"


def test_a_gallery_of_another_model(
    student: Path, untrained: Path, crowd: Path, pairs: Path, tmp_path: Path, capsys: Printed, refused: Refused
) -> None:
    judged = [student, crowd, "--pairs", pairs, *PLAIN]
    torch.manual_seed(1)
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16, embedding_dim=24), tmp_path / "other")
    kept = [*judged, "--gallery", tmp_path / "other", "--cache_dir", tmp_path / "kept", "--json"]
    pages = []
    for _ in range(2):
        run(*kept)
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1
    # that model's outputs for the images, stored, are the same gallery
    images, other = read(crowd, split="test", open_set=True), from_pretrained(tmp_path / "other")
    with torch.no_grad():
        values = other(images.pixels(16).float() / 255).embedding.numpy()
    np.savez(tmp_path / "tested.npz", path=[images.path(i) for i in range(len(images))], embedding=values)
    run(*judged, "--gallery", tmp_path / "tested.npz", "--flip")
    mean = (
        "each embedding is the mean over the image and its mirror image; those of the gallery are as they were stored"
    )
    assert mean in " ".join(capsys.readouterr().out.split())
    run(*judged, "--gallery", tmp_path / "other", "--flip")
    assert "as they were stored" not in capsys.readouterr().out
    run(*judged, "--gallery", tmp_path / "tested.npz", "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    for ours, theirs in zip(rows, json.loads(pages[0])["rows"], strict=True):
        assert ours["verification"]["auc"] == pytest.approx(theirs["verification"]["auc"])
        assert ours["verification"]["threshold_best"] == pytest.approx(
            theirs["verification"]["threshold_best"], abs=1e-4
        )
    assert refused("faces", "evaluate", *judged, "--gallery", untrained).startswith(
        "the gallery's embeddings have 64 numbers, the probes' 24: they cannot be compared"
    )


def test_the_pairs_of_a_bin(tmp_path: Path, capsys: Printed, refused: Refused) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(16):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((pictures, [True, False] * 4)))
    save_pretrained(build_encoder("resnet8", classes=(), input_size=8), tmp_path / "model", info={"hr_size": 16})
    words = [tmp_path / "model", path, *PLAIN]
    run(*words)
    # the file does not say who is on them
    assert capsys.readouterr().out.startswith("model on lfw, 16 images\n")
    run(*words, "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["people"] == 0
    assert [row["verification"]["pairs"] for row in document["rows"]] == [{"genuine": 4, "impostor": 4}] * 3
    assert "identification" not in document["rows"][0]
    assert refused("faces", "evaluate", *words, "--pairs", "p.csv").endswith(
        "lfw.bin has its own pairs; leave --pairs out"
    )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--native", "--sizes", 8], "--sizes: cannot be combined with native images (--native, --layout)"),
        (["--native", "--degradation.blur", "1,1"], "--degradation: cannot be combined with native images"),
        (["--hr_size", 0], "--hr_size: 0 is below 1"),
        (["--far", "x"], "far: expected a list such as [a, b] of a number or null, got 'x'"),
        (["--far", "0.1,nan"], "far: expected a list such as [a, b] of a number or null, got '0.1,nan'"),
        (["--far", "0.1,.nan"], "--far: nan is not between 0 and 1"),
        (["--fpir", "1"], "--fpir: 1 is not between 0 and 1"),
        (["--images.classes", "p12"], "--images.classes does not apply to people; leave it out"),
        (["--layout", "tinyface", "--templates", "t.txt"], "has its own gallery and probes; leave --templates out"),
        (["--layout", "tinyface", "--pairs", "p.csv"], "has its own gallery and probes; leave --pairs out"),
    ],
)
def test_what_is_refused(student: Path, crowd: Path, refused: Refused, more: list[Any], line: str) -> None:
    assert line in refused("faces", "evaluate", student, crowd, *PLAIN, *more)


def test_wrong_files_are_refused(
    student: Path, crowd: Path, tmp_path: Path, refused: Refused, pairs_csv: Any
) -> None:
    np.savez(tmp_path / "stored.npz", path=np.array(["a"]), embedding=np.zeros((1, 5), np.float32))
    line = refused("faces", "evaluate", tmp_path / "stored.npz", crowd)
    assert line.endswith("stored embeddings know no other images; give the model they come from")
    assert "'p99_0000'" in refused("faces", "evaluate", student, crowd, "--pairs", pairs_csv("p99_0000,p12_0000,0"))
