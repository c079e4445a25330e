"""``crossres evaluate``: what it prints where, and the same from Python."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import crossres
from crossres import Evaluate, evaluate
from crossres.commands.main import main
from crossres.models.pretrained import save_pretrained

Refused = Callable[..., str]
Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network, saved as one of 8 x 8 images."""
    folder = tmp_path_factory.mktemp("model") / "model"
    encoder = crossres.load(drawn_teacher)
    save_pretrained(encoder, folder, info={**encoder.info, "lr_size": 8, "degradation": {"kernel": "bicubic"}})
    return folder


def test_one_json_document(drawn: Path, drawn_teacher: Path, capsys: Printed) -> None:
    assert main(["evaluate", str(drawn_teacher), str(drawn), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{drawn}: 4 classes: bar, cross, disc, frame; test 40 images\n"
    assert printed.out.endswith("}\n")
    assert printed.out.count("\n") == 1
    document = json.loads(printed.out)
    result = json.loads((drawn_teacher / "result.json").read_text())
    assert (document["model"], document["dataset"], document["images"]) == ("teacher", "shapes", 40)
    assert document["top1"] == pytest.approx(result["top1_best_val"])
    assert document["top5"] == pytest.approx(result["top5_best_val"])
    assert [sum(row) for row in document["confusion"]] == [10] * 4
    right = sum(document["confusion"][i][i] for i in range(4))
    assert document["top1"] == pytest.approx(100 * right / 40)
    assert document["classes"] == ["bar", "cross", "disc", "frame"]
    sizes = [point["size"] for point in document["curve"]]
    assert sizes == sorted(sizes)
    assert {8, 16} <= set(sizes)
    assert next(point for point in document["curve"] if point["size"] == 16)["top1"] == document["top1"]
    # Python does what the command does
    assert evaluate(Evaluate(model=str(drawn_teacher), data=str(drawn))) == document


def test_a_table_and_a_figure(model: Path, drawn: Path, tmp_path: Path, capsys: Printed) -> None:
    png = tmp_path / "new" / "figure.png"
    assert main(["evaluate", str(model), str(drawn), "--sizes", "4,8", "--png", str(png)]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{drawn}: 4 classes: bar, cross, disc, frame; test 40 images\n"
    assert "model on shapes, 40 images" in printed.out
    lines = [line.strip("│ ").split("│") for line in printed.out.splitlines() if line.startswith("│")]
    assert [line[0].strip() for line in lines] == ["4", "8"]
    assert all(0 <= float(cell) <= 100 for line in lines for cell in line[1:])
    assert "top-5" not in printed.out  # of four classes
    assert f"figure: {png}" in printed.out.replace("\n", "")
    with Image.open(io.BytesIO(png.read_bytes()), formats=["PNG"]) as figure:
        figure.load()
        assert figure.size == (1650, 690)
        assert len(figure.convert("L").getcolors() or []) > 50


def test_a_figure_that_cannot_be_written_costs_no_numbers(
    model: Path, drawn: Path, tmp_path: Path, capsys: Printed
) -> None:
    (tmp_path / "file").touch()
    png = tmp_path / "file" / "figure.png"
    assert main(["evaluate", str(model), str(drawn), "--sizes=8", "--json", "--png", str(png)]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] == 40
    assert printed.err.endswith(f"\ncrossres: cannot write {png}: File exists; nothing was changed\n")


def test_in_bfloat16_on_some_classes_of_the_training_split(model: Path, drawn: Path, capsys: Printed) -> None:
    words = ["--split=train", "--precision=bfloat16", "--device=cpu", "--sizes=8", "--images.classes=bar,disc"]
    assert main(["evaluate", str(model), str(drawn), *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["precision"]) == (48, "bfloat16")
    assert [point["size"] for point in document["curve"]] == [8]


def test_another_degradation(model: Path, drawn: Path, capsys: Printed) -> None:
    words = ["evaluate", str(model), str(drawn), "--sizes", "8", "--json"]
    assert main([*words, "--degradation.preset", "realistic", "--degradation.noise", "0.5,1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["degradation"]["preset"] == "realistic"
    assert document["degradation"]["noise"] == [0.5, 1]
    assert main(words) == 0
    assert document["top1"] < json.loads(capsys.readouterr().out)["top1"]


def test_images_that_are_enlarged_are_reported(model: Path, drawn: Path, tmp_path: Path, capsys: Printed) -> None:
    for file in (drawn / "test").rglob("*.png"):
        place = tmp_path / "tiny" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((8, 8), Image.Resampling.BICUBIC).save(place / file.name)
    tiny = [str(model), str(tmp_path / "tiny"), "--split=all", "--json"]
    assert main(["evaluate", *tiny]) == 0
    assert capsys.readouterr().err == (
        f"{tmp_path}/tiny: 4 classes: bar, cross, disc, frame; all 40 images\n"
        "tiny: 40 of 40 images are smaller than 16 pixels: enlarged, then degraded; --native judges low-resolution "
        "images as they are\n"
    )
    assert main(["evaluate", *tiny, "--native"]) == 0
    native = capsys.readouterr()
    assert native.err.endswith("; all 40 images\n")
    assert main(["evaluate", str(model), str(drawn), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    # Pillow's bicubic is the training's degradation to within rounding
    assert json.loads(native.out)["top1"] == pytest.approx(whole["top1"], abs=2.5)


def test_a_folder_without_splits_is_split_as_in_the_training(model: Path, drawn: Path, capsys: Printed) -> None:
    for more, count in ((), 20), (("--images.test_fraction", "0.5"), 48), (("--split", "all"), 96):
        assert main(["evaluate", str(model), str(drawn / "train"), "--sizes=8", "--json", *more]) == 0
        # a fifth of the 24 images of each class, rounded
        assert json.loads(capsys.readouterr().out)["images"] == count


def test_unreadable_images_are_skipped_and_named(
    model: Path, drawn: Path, tmp_path: Path, capsys: Printed, refused: Refused
) -> None:
    for file in sorted((drawn / "test").rglob("*.png"))[::5]:
        place = tmp_path / "set" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / file.name).write_bytes(file.read_bytes())
    damaged = next((tmp_path / "set" / "disc").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:60])
    words = ["evaluate", str(model), str(tmp_path / "set"), "--split=all", "--json"]
    assert refused(*words).startswith(f"cannot read image {damaged}: ")
    assert main([*words, "--images.corrupt=skip"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"set: 1 unreadable images of the all split left out: {damaged}\n")
    assert json.loads(printed.out)["skipped"] == [str(damaged)]


def test_what_is_refused(refused: Refused, drawn: Path, model: Path, tmp_path: Path) -> None:
    assert refused("evaluate", "nowhere", drawn).startswith("there is no folder nowhere")
    assert refused("evaluate", model, "nowhere").startswith("there is no data set 'nowhere'")
    line = refused("evaluate", model, drawn, "--sizes=8,32")
    assert line == "sizes: 32 is outside 1..16 (the model's hr_size)"
    for name in ("disc", "square"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16)).save(tmp_path / "set" / name / f"{i}.png")
    line = refused("evaluate", model, tmp_path / "set")
    assert line.startswith("set: class 'square' is unknown to the model (1 of 2 classes are); it knows bar, cross,")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--sizes", "8,x"], "sizes: expected a list such as [a, b] of a whole number, got '8,x'"),
        (["--sizes", "0"], "--sizes: 0 is below 1"),
        (["--images.memory_mb", "x"], "images.memory_mb: expected a whole number, got 'x'"),
        (["--images.test_fraction", "1"], "--images.test_fraction: 1 is not between 0 and 1"),
        (["--images.test_fraction", ".nan"], "--images.test_fraction: nan is not between 0 and 1"),
        (["--native", "--degradation.kernel", "area"], "--degradation: cannot be combined with native images"),
        (["--degradation.kernal", "area"], "unknown option '--degradation.kernal'; did you mean '"),
        (["--degradation.kernel", "box"], "degradation.kernel: expected area or bilinear or bicubic or lanczos or"),
        (["--degradation.blur", "x"], "degradation.blur: expected "),
    ],
)
def test_options_out_of_range(refused: Refused, more: list[str], line: str) -> None:
    assert refused("evaluate", "m", "d", *more).startswith(line)
