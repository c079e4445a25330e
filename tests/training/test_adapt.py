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

from crossres import Adapt, CrossresError, Distill, adapt, distill, load
from crossres.commands.main import main
from crossres.config.options import Augment, Model, Train
from crossres.config.reading import read_run
from crossres.core.progress import Progress
from crossres.training.classification import Classification


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


def loose(camera: Path, folder: Path, every: int = 2) -> Path:
    """The same crops in one folder, but for every second, or other: nothing says their classes."""
    folder.mkdir()
    for number, file in enumerate(sorted(camera.glob("*/*.png"))):
        if not every or number % every:
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
    assert int(of) == 48
    assert f"dark: 48 crops left out: they, or their groups, are in {crops}, too" in said
    assert result["crops"] == int(sure) > 10
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
    with pytest.raises(CrossresError, match=r"on is there already; remove it, or choose another --name$"):
        adapt(options)  # perhaps with other crops
    assert not (student.parent / "on.part").exists()
    assert (adapted.folder / "model").exists()
    assert not all(
        torch.equal(a, b)
        for a, b in zip(load(student).state_dict().values(), load(adapted.folder).state_dict().values(), strict=True)
    )


def test_its_labels_are_the_students_own(
    student: Path, drawn: Path, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the folders are called changes nothing: the labels of the crops are not read."""
    for name, folder in (("a", camera), ("b", loose(camera, tmp_path / "crops", 0))):
        assert main(["adapt", str(student), str(folder), "--name", name, "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["crops"] == second["crops"]
    # another student is sure of other crops: two adapted ones are compared all the same
    result = json.loads((student.parent / "a" / "result.json").read_text())
    assert "natural" not in result["data_sha256"]
    assert main(["evaluate", str(student.parent / "a"), str(drawn), "--natural", str(camera)]) == 0
    assert f"{camera}: the model was adapted on images of this name, without their labels" in capsys.readouterr().err


def test_the_groups_of_crops_tell_nothing_of_their_classes(student: Path, camera: Path) -> None:
    """The teacher sees an image of the class that the student answered, not of the crop's own track."""
    config = read_run(student)
    config.images.group, config.natural, config.natural_labels = r"(\w+/\d)\d\.png$", str(camera), str(student)
    sets = Classification(config).images(Progress(quiet=True))
    assert sets.train.groups is not None
    assert sets.natural is not None
    assert sets.natural.groups is None


def test_a_worse_one_is_not_kept(student: Path, camera: Path, tmp_path: Path) -> None:
    # noise, labelled as the student answers: it is right on all of it
    encoder = load(student)
    noise = torch.randint(256, (400, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    answers = encoder.eval()(noise.float() / 255).logits.argmax(1)
    for i, answer in enumerate(answers.tolist()):
        place = tmp_path / "labelled" / encoder.classes[answer] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise[i].permute(1, 2, 0).numpy()).save(place)
    crops = loose(camera, tmp_path / "crops")
    options = Adapt(run=str(student), crops=str(crops), labelled=str(tmp_path / "labelled"), name="bad")
    with pytest.raises(CrossresError, match=r"labelled: the adapted student has \d\d?\.\d\d % right, .* 100\.00 %"):
        adapt(options)
    assert not (student.parent / "bad").exists()
    assert not (student.parent / "bad.part").exists()
    assert (student / "model").exists()


def test_a_stopped_one_goes_on_with_the_same_crops_alone(student: Path, camera: Path, tmp_path: Path) -> None:
    crops = loose(camera, tmp_path / "crops")
    options = Adapt(run=str(student), crops=str(crops), name="stopped")
    whole = adapt(options, quiet=True)
    part, weights = student.parent / "stopped.part", Path(whole["adapted"]) / "model" / "model.safetensors"
    before = weights.read_bytes()
    part.mkdir()
    (student.parent / "stopped").rename(part / "stopped")  # as it was before it was judged
    for name in ("result.json", "model"):
        path = part / "stopped" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = shutil.copytree(crops, tmp_path / "kept")
    for file in sorted(crops.iterdir())[::2]:
        file.unlink()
    with pytest.raises(
        CrossresError, match=rf"^the adapted images changed .*; remove {part}, or choose another --name$"
    ):
        adapt(options, quiet=True)
    shutil.rmtree(crops)
    kept.rename(crops)
    assert adapt(options, quiet=True) == whole
    assert weights.read_bytes() == before


def test_its_remedies_are_its_own(student: Path, camera: Path, tmp_path: Path) -> None:
    fast = replace(read_run(student), name="fast", teacher=None, losses={}, method="labels")
    distill(fast, quiet=True)
    config = (fast.folder / "config.yaml").read_text()
    (fast.folder / "config.yaml").write_text(re.sub(r"learning_rate: .*", "learning_rate: 1.0e+6", config))
    part = student.parent / "fast-adapted.part"
    line = rf": remove {part}, train the student at a lower train\.learning_rate and adapt that one$"
    with pytest.raises(CrossresError, match=line):
        adapt(Adapt(run=str(fast.folder), crops=str(loose(camera, tmp_path / "crops", 0))), quiet=True)


def test_what_cannot_be_adapted(student: Path, drawn_teacher: Path, camera: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=r"is a run of crossres teach; adapt takes one of crossres distill$"):
        adapt(Adapt(run=str(drawn_teacher), crops=str(camera)))
    with pytest.raises(CrossresError, match=r"is not a run"):
        adapt(Adapt(run=str(tmp_path), crops=str(camera)))
    with pytest.raises(CrossresError, match=r"^there is no data set"):
        adapt(Adapt(run=str(student), crops=str(tmp_path / "none")))
    with pytest.raises(CrossresError, match=r"^dark: all of its crops are in .*, too; keep some out of there$"):
        adapt(Adapt(run=str(student), crops=str(camera), labelled=str(camera)))
    config = replace(read_run(student), teacher=None, name="passed")
    distill(config, teacher=load(drawn_teacher), quiet=True)
    with pytest.raises(CrossresError, match=r"passed: its teacher was passed in Python; adapt takes one whose"):
        adapt(Adapt(run=str(config.folder), crops=str(camera)))
    by_class = shutil.copytree(student, student.parent / "by_class")
    saved = by_class / "config.yaml"
    saved.write_text(saved.read_text().replace("images_per_class: 0", "images_per_class: 2"))
    with pytest.raises(CrossresError, match=r"batches are drawn by class \(train\.images_per_class\); adapt another"):
        adapt(Adapt(run=str(by_class), crops=str(camera)))
    for i in range(30):
        Image.open(next(camera.glob("bar/*.png"))).save(tmp_path / f"{i}.png")
    with pytest.raises(CrossresError, match=r"all of one class or none; label some of them$"):
        adapt(Adapt(run=str(student), crops=str(tmp_path)))
    for name, value in (("natural_labels", str(student)), ("natural_share", 0.2)):
        with pytest.raises(
            CrossresError, match=rf"^{name} is of natural images; give --natural, too, or leave it out$"
        ):
            distill(replace(read_run(student), name="x", **{name: value}))
