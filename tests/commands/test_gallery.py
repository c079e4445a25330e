"""``crossres enroll``, ``identify`` and ``verify``: what they print; what they do is in tests/deploy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

import crossres
from crossres.commands.main import main
from crossres.deploy.gallery import Gallery
from crossres.evaluation.statistics import PairThreshold
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import from_pretrained, save_pretrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder of faces at 8x8."""
    folder = tmp_path_factory.mktemp("models") / "faces"
    encoder = build_encoder("resnet8", classes=(), input_size=8).eval()
    save_pretrained(encoder, folder, info={"task": "faces", "lr_size": 8, "hr_size": 16})
    return folder


@pytest.fixture
def people(drawn: Path, tmp_path: Path) -> Path:
    """known/ with a folder for each of two shapes, strangers/ with frames, flat/ with a sound and a grey photo."""
    for shape in ("bar", "cross"):
        shutil.copytree(drawn / "test" / shape, tmp_path / "known" / shape)
    shutil.copytree(drawn / "test" / "frame", tmp_path / "strangers")
    (tmp_path / "flat").mkdir()
    shutil.copy(tmp_path / "known" / "bar" / "00.png", tmp_path / "flat" / "Ada L.png")
    Image.new("RGB", (16, 16), (90, 90, 90)).save(tmp_path / "flat" / "grey.png")
    return tmp_path


def run(*words: object) -> None:
    assert not main([str(word) for word in words])


def test_what_is_printed_of_a_gallery(model: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery, probe = people / "gallery", people / "known" / "bar" / "00.png"
    run("enroll", gallery, people / "known", "--model", model)
    assert capsys.readouterr().out == f"{gallery}: 2 identities, 20 embeddings, 20 new\n"
    run("identify", gallery, probe, "--model", model)
    printed = capsys.readouterr()
    assert printed.out == f"{probe}: nearest: bar 1.0000 (no threshold)\n"
    assert printed.err.startswith("no threshold is set, so similarities only; crossres enroll")
    run("enroll", gallery, "--model", model, "--strangers", people / "strangers", "--fpir", 0)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"{gallery}: 2 identities, 20 embeddings, 0 new"
    threshold = printed.out.splitlines()[1].removeprefix("threshold ")
    assert printed.err == "uncertain threshold: a rate of 0 needs infinitely many strangers, got 10\n"
    run("identify", gallery, probe, people / "strangers", "--model", model, "--k", 2)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{probe}: bar 1.0000, cross 0.")
    assert first.endswith(f" (threshold {threshold})")
    assert all(": nobody, nearest " in line for line in others)
    run("enroll", gallery, "--remove", "bar", "--json")
    assert json.loads(capsys.readouterr().out)["removed"] == ["bar"]


def test_photos_left_out_and_flagged(model: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery, folder = people / "gallery", people / "flat"
    (folder / "broken.jpg").write_bytes(b"no image")
    run("enroll", gallery, folder, "--model", model)
    broken, grey = capsys.readouterr().err.splitlines()
    assert broken.startswith(f"{folder / 'broken.jpg'}: left out: not an image")
    assert grey.startswith(f"{folder / 'grey.png'}: left out: flat: contrast")
    run("identify", gallery, folder, "--model", model)
    ada, broken, grey = capsys.readouterr().out.splitlines()
    assert ada == f"{folder / 'Ada L.png'}: nearest: Ada L 1.0000 (no threshold)"
    assert broken.startswith(f"{folder / 'broken.jpg'}: not read: not an image")
    assert "[flat: contrast" in grey


def test_two_photos_are_verified(model: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, grey = people / "flat" / "Ada L.png", people / "flat" / "grey.png"
    run("verify", one, one, "--threshold", 1, "--model", model)
    assert capsys.readouterr().out == "similarity 1.0000: same (threshold 1.0000)\n"
    run("verify", one, grey, "--model", model)
    similarity, flagged = capsys.readouterr().out.splitlines()
    assert ":" not in similarity
    assert flagged.startswith(f"{grey} [flat: contrast")
    run("verify", one, grey, "--model", model, "--json")
    assert set(json.loads(capsys.readouterr().out)) == {"photos", "similarity", "threshold", "same"}


@pytest.fixture
def rated(model: Path, tmp_path: Path) -> Path:
    """The encoder with thresholds of its own at two rates, which no photo reaches, and any."""
    encoder = from_pretrained(model)
    own = PairThreshold(0.99999, 0.001, 0.4, 80, 90_000), PairThreshold(-1.0, 0.1, 0.9, 80, 90_000, 0.1)
    save_pretrained(encoder, tmp_path / "rated", info={**encoder.info, "pairs": [asdict(each) for each in own]})
    return tmp_path / "rated"


def test_a_models_own_threshold_at_a_rate(
    rated: Path, people: Path, capsys: pytest.CaptureFixture[str], refused
) -> None:
    bar, cross = (people / "known" / shape / "00.png" for shape in ("bar", "cross"))
    run("verify", bar, cross, "--model", rated)
    printed = capsys.readouterr()
    assert printed.out.endswith(": not the same (threshold 1.0000)\n")
    does = "takes 0.1 % of the pairs of two people for one person, and misses 60 % of the pairs of one"
    assert printed.err == f"calibrated on 80 people: it {does}; --far 0.1 misses 10 %\n"
    run("verify", bar, cross, "--model", rated, "--far", 0.1)
    printed = capsys.readouterr()
    assert printed.out.endswith(": same (threshold -1.0000)\n")
    assert printed.err.endswith(
        "takes 10 % of the pairs of two people for one person, and misses 10 % of the pairs of one\n"
    )
    words = ("verify", str(bar), str(cross), "--model", str(rated), "--far")
    assert "--far: rated has thresholds for 0.001, 0.1, got 0.01" in refused(*words, "0.01")
    assert "leave one out" in refused(*words, "0.001", "--threshold", "0.5")
    assert "has no threshold of its own with --flip; leave --far out" in refused(*words, "0.1", "--flip")


def test_the_strictest_threshold_that_a_model_has_is_its_default(
    rated: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = from_pretrained(rated)
    save_pretrained(encoder, rated, info={**encoder.info, "pairs": encoder.info["pairs"][1:]})
    run("verify", people / "known" / "bar" / "00.png", people / "known" / "cross" / "00.png", "--model", rated)
    assert capsys.readouterr().out.endswith(": same (threshold -1.0000)\n")


def test_a_ready_model_judges_no_photo_smaller_than_those_of_its_training(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = people / "known" / "bar" / "00.png"
    small = people / "small.png"
    Image.open(one).resize((8, 8)).save(small)
    run("verify", one, small, "--model", "faces-16")
    printed = capsys.readouterr()
    similarity, flagged = printed.out.splitlines()
    assert ":" not in similarity
    assert flagged == f"{small} [too small: 8x8 pixels, trained on 16x16 or larger]"
    holds = "too small for the model's threshold: 8 pixels, it holds from 16 on"
    assert printed.err == f"no verdict, {holds}; --threshold decides anyway\n"
    run("verify", one, small, "--model", "faces-16", "--threshold", -1)
    assert ": same (threshold -1.0000)" in capsys.readouterr().out
    run("verify", one, one, "--model", "faces-16")
    assert ": same (threshold 0." in capsys.readouterr().out


def test_a_ready_model_is_called_by_its_name(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = people / "gallery"
    run("enroll", gallery, people / "known", "--model", "faces-8", "--all")
    run("identify", gallery, people / "known" / "bar" / "00.png", "--model", "faces-8")
    assert f"crossres enroll {gallery} --strangers FOLDER --model faces-8 sets one" in capsys.readouterr().err
    assert Gallery.load(gallery).model.name == "faces-8"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("enroll G", "nothing to do; give PEOPLE, --remove, --strangers, --pairs or --index"),
        ("identify G", "PHOTOS is required"),
        ("verify a b --model M --threshold 1.5", "a similarity lies within -1..1, got 1.5"),
        ("verify a b --model M --gallery G --threshold 1", "both set the threshold; give one of them"),
    ],
)
def test_mistakes_end_in_one_line(words: str, message: str, model: Path, refused) -> None:
    assert message in refused(*(str(model) if word == "M" else word for word in words.split()))


def test_the_commands_need_no_torch_with_an_onnx_file() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from importlib import import_module\n"
        "for name in ('enroll', 'identify', 'verify', 'predict', 'embed'):\n"
        "    import_module(f'crossres.commands.{name}')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
