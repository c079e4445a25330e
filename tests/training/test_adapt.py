"""A student is trained again with crops that it labelled itself."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crossres import Adapt, CrossresError, Distill, adapt, distill, load, read
from crossres.commands.main import main
from crossres.config.options import Augment, Model, Train
from crossres.config.reading import read_run


@pytest.fixture(scope="module")
def student(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Distill(
        data=str(drawn),
        teacher=str(drawn_teacher),
        runs=str(tmp_path_factory.mktemp("runs")),
        lr_size=8,
        hr_size=16,
        model=Model(name="resnet8"),
        augment=Augment(shift=1, flip=True),
        train=Train(epochs=8, batch_size=16, val_fraction=0.0),
        precision="float32",
        device="cpu",
    )
    distill(config, quiet=True)
    return config.folder


@pytest.fixture(scope="module")
def camera(drawn: Path, photographed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images as a camera gives them: dark, 8 x 8; in a folder for each class."""
    return photographed(drawn, tmp_path_factory.mktemp("camera") / "dark", lambda value: round(0.8 * value))


def loose(camera: Path, folder: Path) -> Path:
    """The same crops in one folder: nothing says their classes."""
    folder.mkdir()
    for file in sorted(camera.glob("*/*.png")):
        shutil.copy(file, folder / f"{file.parent.name[::2]}{file.name}")
    return folder


def test_it_goes_on_and_keeps_the_original(
    student: Path, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops, before = loose(camera, tmp_path / "crops"), (student / "model" / "model.safetensors").read_bytes()
    options = Adapt(run=str(student), crops=str(crops), name="on", labelled=str(camera))
    result = adapt(options)
    said = capsys.readouterr().err
    sure, of, classes = re.search(r"crops: \S+ is sure of (\d+) of (\d+) crops, of (\d) of its 4", said).groups()
    assert int(of) == 96
    assert result["crops"] == int(sure) > 20
    assert int(classes) > 1
    assert (student / "model" / "model.safetensors").read_bytes() == before
    assert result["labelled"][1] >= result["labelled"][0] > 50
    assert result["test"][0] == json.loads((student / "result.json").read_text())["top1_best_val"]
    adapted = read_run(student.parent / "on")
    assert (adapted.natural, adapted.natural_labels, adapted.losses.keys()) == (
        str(crops),
        str(student),
        read_run(student).losses.keys(),
    )
    with pytest.raises(CrossresError, match=r"on holds a run already; remove it, or choose another --name$"):
        adapt(options)  # perhaps with other crops
    assert (adapted.folder / "model").exists()
    assert not all(
        torch.equal(a, b)
        for a, b in zip(load(student).state_dict().values(), load(adapted.folder).state_dict().values(), strict=True)
    )


def test_its_labels_are_the_students_own(
    student: Path, drawn: Path, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the folders are called changes nothing: the labels of the crops are not read."""
    for name, folder in (("a", camera), ("b", loose(camera, tmp_path / "crops"))):
        assert main(["adapt", str(student), str(folder), "--name", name, "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["crops"] == second["crops"]
    # another student is sure of other crops: two adapted ones are compared all the same
    result = json.loads((student.parent / "a" / "result.json").read_text())
    assert result["data_sha256"].keys() == {"train", "test"}
    assert main(["evaluate", str(student.parent / "a"), str(drawn), "--natural", str(camera)]) == 0
    assert f"{camera}: the model was adapted on images of this name, without their labels" in capsys.readouterr().err


def test_a_worse_one_is_not_kept(student: Path, camera: Path, tmp_path: Path) -> None:
    # labelled as the student answers: it is right on all of them
    encoder, images = load(student), read(camera, split="train", test_fraction=0.01)
    answers = encoder.eval()(images.pixels(8).float() / 255).logits.argmax(1)
    for i, answer in enumerate(answers.tolist()):
        place = tmp_path / "labelled" / encoder.classes[answer] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.image(i)).save(place)
    crops = loose(camera, tmp_path / "crops")
    options = Adapt(run=str(student), crops=str(crops), labelled=str(tmp_path / "labelled"), name="bad")
    with pytest.raises(CrossresError, match=r"labelled: the adapted student has \d\d?\.\d\d % right, .* 100\.00 %"):
        adapt(options)
    assert not (student.parent / "bad").exists()
    assert (student / "model").exists()


def test_what_cannot_be_adapted(student: Path, drawn_teacher: Path, camera: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=r"is a run of crossres teach; adapt takes one of crossres distill$"):
        adapt(Adapt(run=str(drawn_teacher), crops=str(camera)))
    with pytest.raises(CrossresError, match=r"is not a run"):
        adapt(Adapt(run=str(tmp_path), crops=str(camera)))
    with pytest.raises(CrossresError, match=r"^there is no data set"):
        adapt(Adapt(run=str(student), crops=str(tmp_path / "none")))
    for i in range(30):
        Image.open(next(camera.glob("bar/*.png"))).save(tmp_path / f"{i}.png")
    with pytest.raises(CrossresError, match=r"all of one class or none; label some of them$"):
        adapt(Adapt(run=str(student), crops=str(tmp_path)))
    with pytest.raises(CrossresError, match=r"^natural_labels names a student .* give --natural, too$"):
        distill(replace(read_run(student), name="x", natural_labels=str(student)))
