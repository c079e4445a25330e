"""The ready models: small, as their cards say, and there without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossres.commands.main import main
from crossres.config.yaml_file import load_yaml
from crossres.core.errors import CrossresError
from crossres.deploy.recognizer import Recognizer
from crossres.models.zoo import FOLDER, card, examples, model_file, names

DRAWN = sorted(FOLDER.glob("samples/*/*.png"))


def test_they_are_small() -> None:
    files = sorted(FOLDER.glob("*.onnx"))
    assert sorted(path.stem for path in files) == names()
    assert {path.stem for path in FOLDER.glob("*.json")} == {*names()}
    assert max(path.stat().st_size for path in files) <= 1_300_000
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 5_000_000
    package = [path for path in FOLDER.parents[1].rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in package) <= 8_000_000  # before a wheel is compressed


def test_the_page_alone_brings_what_the_models_need() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "crossres[predict]" in project["optional-dependencies"]["page"]


@pytest.mark.parametrize("name", names())
def test_a_model_answers_as_its_card_says(name: str) -> None:
    known = card(name)
    recognizer = Recognizer.load(name, threads=1)
    facts = recognizer.facts
    assert known["samples"].keys() == {str(path.relative_to(FOLDER / "samples")) for path in DRAWN}
    assert len(DRAWN) == 20
    assert (known["task"], tuple(known["lr_size"]), tuple(known["classes"])) == (
        facts.task,
        facts.lr_size,
        facts.classes,
    )
    assert known["bytes"] == (FOLDER / f"{name}.onnx").stat().st_size
    answers = recognizer.predict(DRAWN)
    embeddings = np.stack([np.asarray(answer.embedding) for answer in answers])
    cosines = embeddings @ embeddings[0] / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(embeddings[0])
    for answer, cosine, (path, row) in zip(answers, cosines, sorted(known["samples"].items()), strict=True):
        assert answer.name == str(FOLDER / "samples" / path)
        assert answer.label == row.get("label")  # int8 rounds as the processor does, hence the tolerance
        measured = cosine if "cosine" in row else answer.probability
        assert measured == pytest.approx(row.get("cosine", row.get("probability")), abs=0.02)


@pytest.mark.parametrize("name", names())
def test_a_card_has_numbers_with_intervals_and_its_recipe(name: str) -> None:
    known = card(name)
    for row in known["measured"]:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 100
        assert row["count"] >= 100
    assert all(known[fact] for fact in ("about", "data", "licence", "expects", "teacher", "not_for"))


@pytest.mark.parametrize("name", names())
def test_a_card_is_that_of_its_run(name: str) -> None:
    known, root = card(name), Path(__file__).parents[2]
    run = json.loads((root / "results" / "models" / f"{name}.json").read_text())
    recipe = load_yaml(root / known["recipe"])
    given = {key: value for key, value in recipe.items() if key not in ("teacher", "method", "train", "model")}
    assert {key: run["config"][key] for key in given if not isinstance(given[key], dict)} == {
        key: value for key, value in given.items() if not isinstance(value, dict)
    }
    for part in (key for key in ("train", "model", "augment", "degradation", "images") if key in recipe):
        assert recipe[part].items() <= run["config"][part].items()
    assert (known["parameters"], known["images"]) == (run["student"]["parameters"], run["images"])
    assert known["teacher"] == run["teacher"].get("file", run["teacher"]["name"])
    # int8 costs little
    measured = run["accuracy_last"] if known["task"] == "faces" else run["top1_last"]
    assert known["measured"][0]["value"] == pytest.approx(measured, abs=1)


def test_examples_are_named_rightly() -> None:
    for name in (name for name in names() if card(name)["classes"]):
        chosen = examples(name)
        assert len(chosen) == 3
        labels = [answer.label.replace(" ", "_") for answer in Recognizer.load(name).predict(chosen)]
        assert labels == [path.stem for path in chosen]


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_file("objects-8") == FOLDER / "objects-8.onnx"
    Path("objects-8").mkdir()
    assert model_file("objects-8") == "objects-8"


def test_an_answer_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from crossres.commands.main import main\n"
        f"assert main(['predict', 'objects-8', {str(DRAWN[0])!r}]) == 0\n"
        "assert main(['models']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_list_and_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names())
    assert main(["models", "objects-8"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "licence: none stated" in printed
    assert "not for: decisions about people" in printed
    assert main(["models", "objects-8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == card("objects-8")


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CrossresError, match="no ready model 'objects-9'; did you mean 'objects-8'"):
        card("objects-9")
    assert main(["models", "nothing-like-it"]) == 2
    assert capsys.readouterr().err.startswith("crossres: no ready model 'nothing-like-it'")
