"""``crossres teach`` and ``distill`` as a user types them; bad input ends in one line and costs nothing."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import crossres
from crossres.commands.main import main
from crossres.config.reading import of_run
from crossres.core.files import load_state
from crossres.data.images import ImageSet

Refused = Callable[..., str]
Printed = pytest.CaptureFixture[str]

SMALL = ["--model.name=resnet8", "--train.epochs=2", "--train.batch_size=24", "--precision=float32", "--device=cpu"]
BRIEF = [*SMALL, "--train.epochs=1"]
#: what may differ between two equal runs: the clock, the memory, and a checkout that is worked on meanwhile
TIMES = ("seconds", "images_per_second", "peak_memory_mb", "commit")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def student(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `crossres distill`, started from the command line."""
    runs = tmp_path_factory.mktemp("cli")
    words = [str(drawn), "--teacher", str(drawn_teacher), "--runs", str(runs), "--lr-size", "8"]
    assert main(["distill", *words, *SMALL]) == 0
    return runs / "student"


def fill(folder: str, **counts: int) -> str:
    """Write 16 x 16 noise into a folder for each class (``__`` stands for ``/``)."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        place = Path(folder, name.replace("__", "/"))
        place.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def edited(folder: Path, **changes: object) -> None:
    """Change entries of a saved model's config.json by hand."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# what a run prints and leaves


def test_a_distillation_in_one_line(drawn: Path, drawn_teacher: Path, capsys: Printed) -> None:
    """``crossres distill crops --teacher runs/t --lr-size 8``, with the options that make it small."""
    shutil.copytree(drawn_teacher, "runs/t")
    Path("crops").symlink_to(drawn)
    assert main(["distill", "crops", "--teacher", "runs/t", "--lr-size", "8", *BRIEF]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    judged, following = printed.err.splitlines()[-2:]
    assert judged.startswith("runs/student: test top-1 ")
    assert following == "next: crossres export runs/student --out student.onnx"
    result = json.loads(Path("runs/student/result.json").read_text())
    assert (result["lr_size"], result["hr_size"], result["method"]) == (8, 16, "ce+crrcd_images+crrcd_maps")


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in result["config"].items() if key not in ("name", "runs")}
    return {key: value for key, value in result.items() if key not in (*TIMES, "name", "config")} | {"config": config}


def test_python_and_the_command_line_do_the_same(student: Path, drawn_teacher: Path, tmp_path: Path) -> None:
    config = replace(of_run(crossres.Distill, student), runs=str(tmp_path), name="python")
    result = crossres.distill(config, quiet=True)
    assert result == json.loads((tmp_path / "python" / "result.json").read_text())
    assert without_times(result) == without_times(json.loads((student / "result.json").read_text()))
    theirs = load_file(student / "model" / "model.safetensors")
    ours = load_file(tmp_path / "python" / "model" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    words = ["--config", str(drawn_teacher / "config.yaml"), "--runs", str(tmp_path), "--name", "teacher"]
    assert main(["teach", *words]) == 0
    again = json.loads((tmp_path / "teacher" / "result.json").read_text())
    assert without_times(again) == without_times(json.loads((drawn_teacher / "result.json").read_text()))


def test_a_run_prints_nothing_but_its_own_lines(drawn: Path, tmp_path: Path) -> None:
    """In a process of its own, where no test framework swallows warnings and libraries' notes."""
    words = ["teach", str(drawn), *SMALL, "--precision=bfloat16", "--train.ema=0.5", "--train.val_fraction=0"]
    words += ["--images.memory_mb=0", f"--images.workers={(os.cpu_count() or 1) + 1}"]  # torch warns of that many
    command = [sys.executable, "-m", "crossres.commands.main", *words]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "")
    images, beyond, first, second, last, following = run.stderr.splitlines()
    assert beyond.endswith("beyond images.memory_mb: flat images and copies of test images are not looked for")
    assert images == f"{drawn}: 4 classes: bar, cross, disc, frame; train 96, test 40 images"
    assert first.startswith("epoch 1/2  ce ")
    assert " images/s  " in first
    assert second.startswith("epoch 2/2  ce ")
    assert second.endswith("0:00 left")
    assert last.startswith("runs/teacher: test top-1 ")
    kept = " ".join(word for word in words if word.startswith("--images."))
    assert following == f"next: crossres distill {drawn} --teacher runs/teacher {kept}"


def test_a_terminal_shows_one_live_line(
    drawn: Path, drawn_teacher: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["distill", str(drawn), "--teacher", str(drawn_teacher), *SMALL]) == 0
    screen = capsys.readouterr().err
    assert "teacher: 88 of 88 images" in screen
    assert re.search(r"epoch \d/2  ce \d.*  train .* %  [\d,]+ images/s  \d:\d\d left", screen)
    assert "\x1b[2K" in screen  # a line is written over
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is back
    stays = [line for line in re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen).splitlines() if "  val " in line]
    assert len(stays) == 1
    assert stays[0].startswith("epoch 2/2  ce ")


def test_a_finished_run_is_not_trained_again(student: Path, capsys: Printed) -> None:
    before = (student / "result.json").read_bytes()
    assert main(["distill", "--resume", str(student)]) == 0
    finished, _ = capsys.readouterr().err.splitlines()
    assert finished == f"{student} is finished; its numbers are in {student}/result.json"
    assert (student / "result.json").read_bytes() == before


def test_overwrite_starts_anew(drawn: Path) -> None:
    words = ["teach", str(drawn), *SMALL]
    assert main(words) == 0
    assert main([*words, "--overwrite", "--train.epochs=1", "--train.seed=4"]) == 0
    result = json.loads(Path("runs/teacher/result.json").read_text())
    assert (result["epochs"], result["seed"]) == (1, 4)
    assert len(Path("runs/teacher/metrics.jsonl").read_text().splitlines()) == 1
    assert crossres.load("runs/teacher").info["results"]["seed"] == 4


@pytest.mark.parametrize("inside", ["", "model", "model/model.safetensors"])
def test_a_training_starts_from_given_weights(drawn: Path, drawn_teacher: Path, inside: str) -> None:
    """A run's folder, a model's folder or the file: with no step that moves them, they come out as they went in."""
    words = ["teach", str(drawn), *BRIEF, "--train.learning_rate=1e-12", "--hr-size=16"]
    assert main([*words, "--model.weights", str(drawn_teacher / inside)]) == 0
    given = load_file(drawn_teacher / "model" / "model.safetensors")
    trained = load_file("runs/teacher/model/model.safetensors")
    for key, value in given.items():
        if "running_" not in key and "num_batches" not in key:
            torch.testing.assert_close(trained[key], value, rtol=0, atol=1e-7)


def test_three_commands_from_own_images_to_an_evaluation(capsys: Printed) -> None:
    """Two classes, mixed sizes, shapes and formats, without splits."""
    for kind, colour in (("red apples", 230), ("plums", 60)):
        Path("fruit", kind).mkdir(parents=True)
        for i in range(12):
            size = (20 + i, 30 - i)
            image = Image.new(
                ("RGB", "L", "P", "RGBA")[i % 4], size, colour if i % 4 in (1, 2) else (colour, 9 * i, 3)
            )
            image.save(f"fruit/{kind}/{i}.{('png', 'jpg', 'gif', 'webp')[i % 4]}")
    Path("fruit", "plums", "shot.heic").write_bytes(b"?")
    assert main(["teach", "fruit", "--hr-size=16", *BRIEF]) == 0
    assert "fruit/plums/shot.heic" in capsys.readouterr().err
    assert main(["distill", "fruit", "--teacher=runs/teacher", "--lr-size=8", *BRIEF]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/student", "fruit", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"] == ["plums", "red apples"]
    assert document["images"] == 4
    # a folder that was not trained on counts whole
    assert main(["evaluate", "runs/student", "fruit", "--split=all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 24


# the images


def test_a_missing_folder(refused: Refused, drawn: Path) -> None:
    assert refused("teach", "nowhere", *SMALL).startswith("there is no data set 'nowhere'; give a folder")
    assert "did you mean 'shapes'?" in refused("teach", drawn.parent / "shape", *SMALL)
    assert "did you mean 'digits'?" in refused("teach", "digit", *SMALL)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({}, "set holds no class folders and no images"),
        ({"a": 0, "b": 0}, "set holds no images"),
        ({"a": 3, "b": 0}, "class folder set/b holds no images (1 such): fill it or remove it"),
        ({"train__a": 3, "train__b": 0, "test__a": 1}, "class folder set/train/b holds no images"),
        ({"a": 1}, "set holds one image in all; give images of at least two classes"),
        ({"a": 5}, "set has only one class, 'a'; a classifier needs at least two"),
        ({"train__a": 1, "test__a": 1}, "set holds one image in all; give images of at least two classes"),
        ({"a": 1, "b": 1}, "set leaves nothing for a test split: no class has more than one image"),
        ({"train__a": 2, "train__b": 2, "test__c": 1}, "set/test has the class 'c', which set/train does not have"),
    ],
)
def test_too_few_images(refused: Refused, counts: dict[str, int], line: str) -> None:
    Path("set").mkdir()
    fill("set", **counts)
    assert refused("teach", "set", *SMALL).startswith(line)
    assert not Path("runs").exists()


def test_one_image_of_each_of_two_classes_is_enough_where_a_test_split_is_given() -> None:
    fill("set", train__a=1, train__b=1, test__a=1, test__b=1)
    assert main(["teach", "set", *SMALL]) == 0
    assert main(["distill", "set", "--teacher=runs/teacher", "--lr_size=4", *SMALL]) == 0
    result = json.loads(Path("runs/student/result.json").read_text())
    assert result["images"] == {"train": 2, "val": 0, "test": 2}
    assert result["epochs"] == result["best_epoch"] == 2


def test_batches_of_one_image(refused: Refused) -> None:
    fill("set", a=5, b=5)
    line = refused("distill", "set", "--lr_size=4", *SMALL, "--train.batch_size=1")
    assert line.startswith("train.batch_size 1")


def test_a_damaged_image_is_refused_by_name_or_skipped(refused: Refused, capsys: Printed) -> None:
    fill("set", train__a=6, train__b=6, test__a=2, test__b=2)
    truncate(Path("set/train/b/3.png"))
    line = refused("teach", "set", *BRIEF)
    assert line.startswith("cannot read image set/train/b/3.png: ")
    assert "(1 of the " in line
    assert main(["teach", "set", "--images.corrupt=skip", *BRIEF]) == 0
    assert "set: 1 unreadable images of the train split left out: set/train/b/3.png\n" in capsys.readouterr().err
    assert json.loads(Path("runs/teacher/result.json").read_text())["skipped"]["train"] == ["set/train/b/3.png"]


@pytest.mark.parametrize("label", [-1, 2, 70])
def test_a_label_out_of_range(refused: Refused, label: int) -> None:
    def table(labels: list[int]) -> pa.Table:
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save("one.png")
        images = [{"bytes": Path("one.png").read_bytes(), "path": None}] * len(labels)
        features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
        described = {"huggingface": json.dumps({"info": {"features": features}})}
        return pa.table({"image": images, "label": labels}).replace_schema_metadata(described)

    Path("set").mkdir()
    pq.write_table(table([0, 1, 0, 1, label]), "set/train-00000-of-00001.parquet")
    pq.write_table(table([0, 1]), "set/test-00000-of-00001.parquet")
    line = refused("teach", "set", *SMALL)
    assert "train-00000-of-00001.parquet row 4" in line
    assert f"label {label} (1 such rows)" in line
    assert "should be 0" in line


# the sizes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--hr_size=8", "--lr_size=12"], "lr_size 12 is larger than hr_size 8; choose lr_size <= 8"),
        (["--hr_size=8", "--lr_size=[4,12]"], "lr_size 12 is larger than hr_size 8; choose lr_size <= 8"),
        (["--lr_size=0"], "lr_size 0: an image has at least 1 pixel"),
        (["--lr_size=17"], "lr_size 17 is larger than hr_size 16; choose lr_size <= 16"),
    ],
)
def test_impossible_sizes(refused: Refused, drawn: Path, words: list[str], line: str) -> None:
    assert refused("distill", drawn, *words, *SMALL) == line
    assert not Path("runs").exists()


def test_images_smaller_than_hr_are_enlarged_and_counted(drawn: Path, capsys: Printed) -> None:
    assert main(["teach", str(drawn), "--hr_size=20", "--train.val_fraction=0", *BRIEF]) == 0
    assert (
        "96 of 96 images are smaller than 20 pixels: enlarged, which adds nothing to see; --hr_size reads"
        in capsys.readouterr().err
    )


def test_a_teacher_that_sees_no_more_than_its_student_is_named(drawn: Path, capsys: Printed) -> None:
    assert main(["teach", str(drawn), "--train.val_fraction=0", "--name=same", *BRIEF]) == 0
    side = Image.open(next((drawn / "train").rglob("*.png"))).size[0]
    words = ["distill", str(drawn), "--teacher=runs/same", f"--lr_size={side}", "--train.val_fraction=0", *BRIEF]
    capsys.readouterr()
    assert main(words) == 0
    printed = capsys.readouterr().err
    assert f"96 of 96 images have no more than the {side} pixels that the student reads, so its teacher" in printed
    assert main([*words, "--lr_size=8", "--name=smaller"]) == 0
    assert "so its teacher" not in capsys.readouterr().err


def test_a_student_of_one_pixel(drawn: Path) -> None:
    assert main(["distill", str(drawn), "--lr_size=1", *BRIEF]) == 0


# models and teachers


def test_unknown_models(refused: Refused, drawn: Path) -> None:
    words = ["teach", drawn, *SMALL]
    assert refused(*words, "--model.name=resnet8x") == "unknown model 'resnet8x'; did you mean 'resnet8x4'?"
    assert "timm" in refused(*words, "--model.name=timm:resnet8x")
    assert "nothing" in refused(*words, "--model.name=nothing.there:make")
    assert not Path("runs").exists()


def test_a_missing_teacher(refused: Refused, drawn: Path) -> None:
    words = ["distill", drawn, *SMALL]
    assert refused(*words, "--teacher=runs/nobody").startswith("there is no folder runs/nobody")
    Path("empty").mkdir()
    assert refused(*words, "--teacher=empty") == "there is no config.json in empty: not a folder that crossres saved"
    line = refused(*words, "--method=kd")
    assert line == "losses.kd needs a teacher; give --teacher, or losses.kd.weight 0 to learn from labels alone"


@pytest.mark.parametrize("teacher", ["runs/mine", "runs/mine/model"])
def test_a_run_does_not_overwrite_its_own_teacher(
    refused: Refused, drawn: Path, drawn_teacher: Path, teacher: str
) -> None:
    shutil.copytree(drawn_teacher, "runs/mine")
    before = sorted(Path("runs/mine").rglob("*"))
    line = refused("distill", drawn, "--teacher", teacher, "--lr_size=8", "--name=mine", "--overwrite")
    assert line == f"--overwrite would delete the teacher {teacher}, which the run needs; choose another --name"
    line = refused(
        "distill", drawn, "--natural", drawn, "--natural_labels", teacher, "--lr_size=8", "--name=mine", "--overwrite"
    )
    assert line.startswith(f"--overwrite would delete the natural_labels {teacher}, which the run needs")
    assert sorted(Path("runs/mine").rglob("*")) == before


def test_a_teacher_of_other_classes(refused: Refused, drawn_teacher: Path) -> None:
    fill("set", disc=4, square=4)
    line = refused("distill", "set", "--teacher", drawn_teacher, *SMALL)
    assert (
        line == f"the teacher {drawn_teacher} knows 4 classes, the data has 2: the data's 'square' is unknown to it; "
        "use a model of the same classes, or choose the data's with images.classes"
    )


def test_a_checkpoint_of_another_architecture(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    weights = drawn_teacher / "model" / "model.safetensors"
    words = ["teach", drawn, *SMALL, "--model.name=resnet14", "--model.weights"]
    line = refused(*words, weights)
    assert line.startswith(f"the checkpoint {weights} does not fit the architecture 'resnet14': ")
    save_file({"a": torch.ones(3)}, "other.safetensors")
    assert "does not fit the architecture" in refused(*words, "other.safetensors")
    torch.save([1, 2], "other.pt")
    assert refused(*words, "other.pt") == "the checkpoint other.pt holds list, not weights by name"
    assert refused(*words, "nowhere.pt") == "there is no checkpoint nowhere.pt"
    assert refused(*words, drawn).startswith(f"there is no config.json in {drawn}")
    assert not Path("runs").exists()


def test_a_teacher_whose_config_was_changed(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    shutil.copytree(drawn_teacher / "model", "teacher")
    words = ["distill", drawn, "--teacher=teacher", *SMALL]
    architecture = json.loads(Path("teacher/config.json").read_text())["architecture"]
    edited(Path("teacher"), architecture=architecture | {"name": "resnet20"})
    line = "teacher/model.safetensors does not fit the architecture 'resnet20': "
    assert refused(*words).startswith(line)
    assert refused("evaluate", "teacher", drawn).startswith(line)
    edited(Path("teacher"), architecture=architecture | {"name": "resnet8x"})
    assert refused(*words) == "unknown model 'resnet8x'; did you mean 'resnet8x4'?"
    edited(Path("teacher"), architecture=architecture, classes=["bar", "cross"])
    assert "has a classifier of 4 classes, the encoder one of 2" in refused(*words)
    Path("teacher/config.json").write_text("{")
    assert refused(*words).startswith("teacher/config.json is broken: ")


def test_a_truncated_model(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    shutil.copytree(drawn_teacher / "model", "teacher")
    truncate(Path("teacher/model.safetensors"))
    line = "teacher/model.safetensors is truncated or not a safetensors file ("
    assert refused("distill", drawn, "--teacher=teacher", *SMALL).startswith(line)
    assert refused("evaluate", "teacher", drawn).startswith(line)
    assert refused("teach", drawn, *SMALL, "--model.weights=teacher/model.safetensors").startswith(line)
    Path("teacher/model.safetensors").unlink()
    assert refused("evaluate", "teacher", drawn).startswith("there is no model.safetensors in teacher; ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    line = "device cuda: torch finds no GPU here; choose cpu or auto"
    assert refused("teach", drawn, *SMALL, "--device=cuda") == line
    assert refused("evaluate", drawn_teacher, drawn, "--device=cuda") == line


def test_options_of_a_loss_out_of_range(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    words = ["distill", drawn, "--teacher", drawn_teacher, *SMALL]
    line = "losses.crrcd_maps: CRRCDMaps: tau is 0.0, expected tau > 0"
    assert refused(*words, "--losses.crrcd_maps.tau=0") == line
    line = refused(*words, "--losses.ce.label_smoothing=1")
    assert line == "losses.ce: CE: label_smoothing is 1.0, expected 0 <= label_smoothing < 1"


# a training that breaks off


@dataclass
class Interrupted:
    """A run that was stopped by Ctrl-C after its first epochs, and the lines it printed."""

    folder: Path
    code: int
    lines: list[str]

    def copy(self, name: str) -> Path:
        """The same run in a folder of its own; it can be resumed there."""
        return shutil.copytree(self.folder, Path("runs") / name)


EPOCHS = 40


@pytest.fixture(scope="module")
def interrupted(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A real process that is trained for a while and gets a real SIGINT."""
    folder = tmp_path_factory.mktemp("interrupted")
    words = ["distill", str(drawn), "--teacher", str(drawn_teacher), "--lr_size=8", "--method=kd", *SMALL]
    # a shell that started the tests in the background had Ctrl-C ignored: not so here
    command = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command += "from crossres.commands.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, *words, f"--train.epochs={EPOCHS}"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in ("images", "validation", "first epoch")]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    return Interrupted(folder / "runs" / "student", process.returncode, [*lines, *rest.splitlines(keepends=True)])


def test_ctrl_c_says_how_to_resume(interrupted: Interrupted) -> None:
    assert interrupted.code == 130
    images, small, *epochs, last = interrupted.lines
    assert images.endswith(" images\n")
    assert small.startswith("validation is small (")
    assert all(line.startswith("epoch ") for line in epochs)
    assert last == "stopped; go on with: crossres distill --resume runs/student\n"
    assert sorted(os.listdir(interrupted.folder)) == [".lock", "config.yaml", "metrics.jsonl", "state.pt"]
    state = load_state(interrupted.folder / "state.pt")
    assert 1 <= state["epoch"] < EPOCHS
    assert state["epoch"] == len(state["rows"])
    assert len((interrupted.folder / "metrics.jsonl").read_text().splitlines()) in (
        state["epoch"],
        state["epoch"] - 1,
    )


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let the kernel refuse every file above ``room`` bytes, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_state_and_resume_finishes_it(
    refused: Refused, interrupted: Interrupted
) -> None:
    run = interrupted.copy("student")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with full_disk(2**18):
        line = refused("distill", "--resume", run)
    assert line == f"cannot write {run}/state.pt: File too large; nothing was changed; free some space"
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert main(["distill", "--resume", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert json.loads((run / "result.json").read_text())["epochs"] == EPOCHS
    assert crossres.load(run).info["lr_size"] == 8


def test_ctrl_c_while_the_network_is_judged(
    drawn: Path, capsys: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of the user's own that meets Ctrl-C when it is first run after its training."""
    Path("mine.py").write_text(
        "import os, signal\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        if self.training:\n"
        "            self.stepped = True\n"
        "        elif hasattr(self, 'stepped') and os.path.exists('interrupt'):\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "        return super().forward(images)\n"
        "def make(num_classes):\n"
        "    pooled = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return Net(*pooled, nn.Linear(8, num_classes))\n"
    )
    Path("interrupt").touch()
    monkeypatch.syspath_prepend(tmp_path)
    # a shell that starts the tests in the background has it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    words = ["teach", str(drawn), *SMALL, "--train.val_fraction=0", "--model.name=mine:make"]
    assert main(words) == 130
    signal.signal(signal.SIGINT, before)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped; go on with: crossres teach --resume runs/teacher --trust_code"
    assert load_state("runs/teacher/state.pt")["epoch"] == 2
    assert not Path("runs/teacher/result.json").exists()
    Path("interrupt").unlink()
    assert main(["teach", "--resume", "runs/teacher", "--trust_code"]) == 0
    assert len(Path("runs/teacher/metrics.jsonl").read_text().splitlines()) == 2
    assert Path("runs/teacher/result.json").exists()


def test_an_existing_run_is_not_overwritten_unasked(refused: Refused, interrupted: Interrupted, drawn: Path) -> None:
    run = interrupted.copy("student")
    before = (run / "state.pt").read_bytes()
    line = refused("distill", "--config", run / "config.yaml", "--runs=runs", "--name=student")
    assert line == "runs/student holds a run already; use --resume, --overwrite or another --name"
    # a name that is not there is said first
    words = ["distill", str(drawn), "--name=student", *SMALL]
    assert refused(*words, "--teacher=nobody").startswith("there is no folder nobody")
    assert refused("distill", f"{drawn}z", "--name=student", *SMALL).startswith(
        f"there is no data set '{drawn}z'; did"
    )
    assert (run / "state.pt").read_bytes() == before


def test_resume_refuses(refused: Refused, interrupted: Interrupted) -> None:
    run = interrupted.copy("student")
    line = refused("distill", "--resume", run, "--train.epochs=3")
    assert line == "--resume takes every option from the run; leave --train.epochs=3 out"
    assert refused("distill", "--resume", run, "--overwrite").endswith("leave --overwrite out")
    assert refused("distill", "--resume", "runs") == "runs is not a run (no config.yaml); give the folder RUNS/NAME"
    assert refused("distill", "--resume", "nowhere").startswith("nowhere is not a run")
    remedy = f"resume it with crossres distill --resume {run}"
    assert refused("teach", "--resume", run) == f"{run} is a run of crossres distill; {remedy}"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("learning_rate: 0.1", "learning_rate: 0.2"))
    line = refused("distill", "--resume", run)
    assert line == "the state belongs to another experiment than the config; use --overwrite or another --name"
    (run / "config.yaml").write_text(config.replace("epochs:", "epoch:"))
    line = refused("distill", "--resume", run)
    assert line == f"{run / 'config.yaml'}: unknown option 'train.epoch'; did you mean 'train.epochs'?"


def test_a_truncated_state(refused: Refused, interrupted: Interrupted) -> None:
    run = interrupted.copy("student")
    truncate(run / "state.pt")
    line = refused("distill", "--resume", run)
    assert line.startswith(f"{run}/state.pt is truncated or not the state of a run (")
    assert line.endswith("use --overwrite")
    (run / "state.pt").unlink()
    line = refused("distill", "--resume", run)
    assert line == f"{run}/state.pt: nothing to resume there; start the run without --resume"


def test_a_full_disk_at_the_very_end_keeps_the_finished_training(refused: Refused, drawn: Path) -> None:
    # the device is full only for model/
    Path("runs/teacher").mkdir(parents=True)
    Path("runs/teacher/model").write_text("in the way")
    line = refused("teach", drawn, *SMALL)
    assert line == "cannot save to runs/teacher/model: it is a file; name a folder"
    assert load_state("runs/teacher/state.pt")["epoch"] == 2
    Path("runs/teacher/model").unlink()
    assert main(["teach", "--resume", "runs/teacher"]) == 0
    assert len(load_file("runs/teacher/model/model.safetensors")) > 10


def test_a_full_disk_from_the_start(refused: Refused, drawn: Path) -> None:
    with full_disk(100):
        line = refused("teach", drawn, *SMALL)
    assert line == "cannot write runs/teacher/config.yaml: File too large; nothing was changed; free some space"
    assert os.listdir("runs/teacher") == [".lock"]
    Path("file").write_text("")
    line = refused("teach", drawn, *SMALL, "--runs=file")
    assert line == "cannot write file/teacher/config.yaml: Not a directory; nothing was changed"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_decoding_process_that_is_killed(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ImageSet.sample

    def killed(self: ImageSet, i: int, *how: Any) -> torch.Tensor:
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(self, i, *how)

    monkeypatch.setattr(ImageSet, "sample", killed)
    assert main(["teach", str(drawn), *SMALL, "--images.memory_mb=0", "--images.workers=1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("crossres: a process that decodes images was killed (out of memory, or /dev/shm is full)")
    assert line.endswith("give fewer images.workers; a training goes on with --resume")


@pytest.mark.parametrize("schedule", ["step", "one_cycle"])
def test_nan_stops_the_run_and_keeps_the_last_good_state(refused: Refused, drawn: Path, schedule: str) -> None:
    words = ["--train.learning_rate=1e6", f"--train.schedule={schedule}", "--train.epochs=60"]
    line = refused("teach", drawn, "--augment.shift=1", *SMALL, *words)
    assert line.startswith("losses.ce ")
    state = load_state("runs/teacher/state.pt")
    epoch = state["epoch"]
    assert f" in epoch {epoch + 1}; the state of epoch {epoch} is kept: lower train.learning_rate or " in line
    assert line.endswith("start anew with --overwrite")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["distiller"].values())
    assert not Path("runs/teacher/result.json").exists()
    assert not Path("runs/teacher/model").exists()
    assert refused("teach", "--resume", "runs/teacher") == line  # it is as exact as any resume


def test_a_last_step_that_breaks_the_weights_is_not_saved(refused: Refused, drawn: Path) -> None:
    words = [
        "--train.batch_size=96",
        "--losses.ce.weight=1e38",
        "--train.learning_rate=1e6",
        "--train.val_fraction=0",
    ]
    line = refused("teach", drawn, *SMALL, *words)
    assert line.startswith("losses.ce was ")
    assert ", then the weights became NaN or infinite in epoch 1; the state of epoch 0 is kept: " in line
    state = load_state("runs/teacher/state.pt")
    assert state["epoch"] == 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["distiller"].values())


def test_nan_names_the_loss_that_became_it(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    words = ["--method=crrcd-paper", "--lr_size=8", "--losses.crrcd_paper.weight=1e30", *SMALL]
    line = refused("distill", drawn, "--teacher", drawn_teacher, *words)
    assert line.startswith("losses.crrcd_paper ")
    assert "in epoch 1; the state of epoch 0 is kept: lower train.learning_rate or losses.crrcd_paper.weight" in line
    assert load_state("runs/student/state.pt")["epoch"] == 0


def test_a_teacher_whose_weights_are_nan(refused: Refused, drawn: Path, drawn_teacher: Path) -> None:
    shutil.copytree(drawn_teacher / "model", "teacher")
    weights = load_file("teacher/model.safetensors")
    weights["classifier.weight"][0, 0] = torch.nan
    save_file(weights, "teacher/model.safetensors")
    edited(Path("teacher"), model_sha256=None)
    words = ["--teacher=teacher", "--lr_size=8", "--method=kd", *SMALL]
    assert refused("distill", drawn, *words) == "the teacher's logits are NaN: check its weights"
    line = refused("distill", drawn, *words, "--teacher_cache=false", "--overwrite")
    assert line.startswith("losses.kd failed (KD: teacher logits holds NaN or infinity")
