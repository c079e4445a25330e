"""Ready models and exports, judged by the evaluating commands: with the answers that a Recognizer gives."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossres import Evaluate, EvaluateFaces, Export, Recognizer, Transfer, evaluate, evaluate_faces, export, transfer
from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.data.readers import read
from crossres.deploy.export import write_onnx
from crossres.evaluation.exported import exported_encoder
from crossres.evaluation.prepare import CPU, embeddings_of, loader_of
from crossres.models.zoo import FOLDER

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

#: Numbers of one file, run in other batches.
CLOSE = 1e-4


def shrunk(source: Path, target: Path, detail: int = 8) -> Path:
    """Copy images, below folders of their classes, shrunk to 8x8, with the detail of a smaller side."""
    for path in sorted(source.rglob("*.png")):
        out = target / path.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((detail, detail)).resize((8, 8)).save(out)
    return target


@pytest.fixture(scope="module")
def face_file(faces: Path, crowd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an encoder of faces."""
    path = tmp_path_factory.mktemp("exports") / "faces.onnx"
    export(Export(model=str(faces), data=str(crowd), out=str(path)))
    return path


def test_what_is_measured_of_an_export_is_what_it_answers(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    small = shrunk(drawn / "test", tmp_path / "small", 3)
    result = evaluate(Evaluate(model=str(onnx_file), data=str(small), split="all", native=True, device="cpu"))
    answers = Recognizer.load(onnx_file).predict(small)
    right = [answer.label == Path(answer.name).parent.name for answer in answers]
    assert 0 < sum(right) < len(right) == result["images"]
    assert result["top1"] == pytest.approx(100 * sum(right) / len(right))
    assert (result["model"], result["hr_size"], result["lr_size"]) == ("student.onnx", 16, 8)


def test_an_export_is_shown_the_pixels_that_its_network_is(onnx_file: Path, student: Path, drawn: Path) -> None:
    options = Evaluate(model=str(onnx_file), data=str(drawn), device="cpu")
    encoder = exported_encoder(str(onnx_file))
    assert encoder is not None
    loader = loader_of(options, encoder, read(drawn, split="test"), CPU)
    small = torch.cat([batch.lr for batch in loader.ordered(batch_size=16)])
    pixels = (small * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert pixels.shape == (40, 8, 8, 3)
    expected = Recognizer.load(onnx_file).embed(pixels)
    np.testing.assert_allclose(embeddings_of(encoder, loader), expected, atol=CLOSE)
    # and so a float32 file is as good as its run
    of_run = evaluate(replace(options, model=str(student), sizes=[8]))
    of_file = evaluate(replace(options, sizes=[8]))
    assert of_file["confusion"] == of_run["confusion"]
    assert of_file["degradation"] == of_run["degradation"]


def test_a_ready_model_on_own_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = sorted(FOLDER.glob("samples/objects/*.png"))
    for path in samples:
        (tmp_path / "own" / path.stem).mkdir(parents=True)
        Image.open(path).resize((8, 8)).save(tmp_path / "own" / path.stem / "0.png")
    words = ["evaluate", "objects-8", str(tmp_path / "own"), "--split", "all", "--native", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    answers = Recognizer.load("objects-8").predict(tmp_path / "own")
    right = [answer.label == Path(answer.name).parent.name for answer in answers]
    assert sum(right) > 0
    assert result["top1"] == pytest.approx(100 * sum(right) / len(samples))
    assert result["model"] == "objects-8"
    assert len(result["classes"]) == 100


@pytest.mark.parametrize("flip", [False, True])
def test_a_ready_model_on_own_pairs(flip: bool, crowd: Path, tmp_path: Path) -> None:
    people = shrunk(crowd / "test", tmp_path / "people")
    pairs = tmp_path / "pairs.csv"
    rows = [f"p{a}_0000,p{a}_0001,1\np{a}_0000,p{a + 1}_0001,0" for a in range(12, 20)]
    pairs.write_text("left,right,same\n" + "\n".join(rows) + "\n")
    given = {"pairs": str(pairs), "pairs_only": True, "split": "all", "native": True, "flip": flip, "resamples": 0}
    scores = tmp_path / "scores.csv"
    evaluate_faces(EvaluateFaces(model="faces-8", data=str(people), **given, scores=str(scores), device="cpu"))
    recognizer = Recognizer.load("faces-8")

    def unit(name: str) -> np.ndarray:
        pixels = np.asarray(Image.open(people / name[:3] / f"{Path(name).stem}.png"))
        views = recognizer.embed(np.stack([pixels, pixels[:, ::-1]] if flip else [pixels]))
        return views.mean(0) / np.linalg.norm(views.mean(0))

    with scores.open() as lines:
        listed = list(csv.DictReader(lines))
    assert len(listed) == 16
    for row in listed:
        left, right = (unit(Path(row[side]).name) for side in ("left", "right"))
        assert float(row["similarity"]) == pytest.approx(left @ right, abs=CLOSE)


def test_a_networks_own_export_as_the_gallery(
    faces: Path, face_file: Path, crowd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "faces",
        "evaluate",
        str(faces),
        str(crowd),
        "--resamples",
        "0",
        "--device",
        "cpu",
        "--json",
        "--gallery",
    ]
    assert main([*words, str(face_file)]) == 0
    printed = capsys.readouterr()
    assert "is not the model that" not in printed.err
    rows = {row["sides"]: row["verification"]["auc"] for row in json.loads(printed.out)["rows"]}
    assert rows["hr-lr"] == pytest.approx(rows["lr-lr"], abs=0.5)
    assert main([*words, "faces-8"]) == 2
    assert "the gallery's embeddings have 128 numbers" in capsys.readouterr().err


def test_transfer_of_an_export(onnx_file: Path, drawn: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    result = transfer(Transfer(model=str(onnx_file), data=str(drawn), device="cpu"))
    assert result["probe_top1"] > 50


@pytest.mark.parametrize(
    "about", [{"teacher": "x"}, {"degradation": {"blur": 5}}, {"degradation": [1]}, {"test_fraction": "a third"}]
)
def test_broken_facts_are_refused(about: dict[str, object], onnx_file: Path, tmp_path: Path) -> None:
    facts = Recognizer.load(onnx_file).facts
    path = tmp_path / "broken.onnx"
    write_onnx(onnx.load(onnx_file), replace(facts, about={**facts.about, **about}), path)
    with pytest.raises(CrossresError, match="its metadata is damaged"):
        exported_encoder(str(path))


def test_a_damaged_export_is_refused(onnx_file: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    content = bytearray(onnx_file.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    assert "was changed or damaged" in refused("evaluate", path, "digits")


def test_a_face_model_has_no_classes(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "faces-8", str(drawn)]) == 2
    assert "the model names no classes; judge its embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "objects-9", "x"),
        ("verify", "--model", "objects-9", "a", "b"),
        ("evaluate", "objects-9", "digits"),
        ("faces", "evaluate", "objects-9", "digits"),
        ("models", "objects-9"),
    ],
)
def test_a_mistyped_name(words: tuple[str, ...], refused: Callable[..., str]) -> None:
    assert refused(*words).endswith("; did you mean 'objects-8'? crossres models lists them")


def test_other_names(refused: Callable[..., str]) -> None:
    assert refused("predict", "nothing", "x").endswith(
        "there is no folder nothing, and it is not a Hub id (owner/name) either"
    )
    assert "is a ready model" in refused("export", "objects-8")
    assert refused("predict", "no/such/folder", "x").endswith("(owner/name) either")
