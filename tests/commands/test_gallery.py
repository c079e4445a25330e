"""``crossres enroll``, ``identify`` and ``verify`` on drawn shapes: real models, real photos."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossres.commands.main import main
from crossres.deploy.gallery import Gallery
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.models.weights import weights_sha256

KNOWN = ("bar", "cross", "disc")


@pytest.fixture(scope="module")
def people(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """known/ with a folder of 12 photos for each of three shapes, probes/ with 10 each, strangers/ with 24 frames."""
    root = tmp_path_factory.mktemp("people")
    for shape in KNOWN:
        shutil.copytree(drawn / "test" / shape, root / "probes" / shape)
        (root / "known" / shape).mkdir(parents=True)
        for photo in sorted((drawn / "train" / shape).iterdir())[:12]:
            shutil.copy(photo, root / "known" / shape)
    shutil.copytree(drawn / "train" / "frame", root / "strangers")
    return root


@pytest.fixture(scope="module")
def spaces(student: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher that reads 16x16, students at 8x8 that were taught its embeddings or not, one of another width."""
    root = tmp_path_factory.mktemp("spaces")
    encoder = from_pretrained(student)
    encoder.input_size = 16
    save_pretrained(encoder, root / "teacher", info={"lr_size": 16, "hr_size": 16})
    digest = weights_sha256(from_pretrained(root / "teacher"))
    encoder.input_size = 8
    for name, method in (("taught", "ce+cosine"), ("kd", "ce+kd")):
        info = {"lr_size": 8, "hr_size": 16, "method": method, "teacher": {"name": "resnet8", "sha256": digest}}
        save_pretrained(encoder, root / name, info=info)
    narrow = build_encoder("resnet8", classes=(), input_size=8, embedding_dim=12)
    save_pretrained(narrow, root / "narrow", info={"lr_size": 8, "hr_size": 16})
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def gallery(people: Path, student: Path, tmp_path: Path) -> Path:
    run("enroll", tmp_path / "shapes", "--model", student, people / "known", "--json")
    return tmp_path / "shapes"


def run(*words: object) -> None:
    assert not main([str(word) for word in words])


def test_people_are_enrolled_and_identified_and_strangers_are_not(
    gallery: Path, people: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", student)
    run("identify", gallery, *model, people / "probes" / "bar" / "00.png")
    said = capsys.readouterr()
    assert "threshold" not in said.out.splitlines()[-1]
    assert said.err.startswith("no threshold is set, so similarities only; crossres enroll")
    assert f"--model {student} sets one" in said.err
    run("enroll", gallery, *model, "--strangers", people / "strangers", "--fpir", 0.25)
    said = capsys.readouterr()
    assert said.out.startswith(f"{gallery}: 3 identities, 36 embeddings, 0 new\nthreshold 0.")
    assert said.err == "24 strangers are too few to know a rate of 0.25: fewer than ten false matches are expected\n"
    run("identify", gallery, *model, people / "probes", people / "strangers", "-k", 2, "--json")
    document = json.loads(capsys.readouterr().out)
    threshold = document["threshold"]["similarity"]
    for photo in document["photos"]:
        first, second = photo["nearest"]
        assert first["similarity"] >= second["similarity"]
        assert photo["name"] == (first["name"] if first["similarity"] >= threshold else None)
    named = [photo["name"] for photo in document["photos"]]
    assert sum(name is not None for name in named[30:]) == 6  # a quarter of 24
    nearest = [photo["nearest"][0]["name"] for photo in document["photos"][:30]]
    assert np.mean([a == b for a, b in zip(nearest, np.repeat(KNOWN, 10), strict=True)]) > 0.6
    run("identify", gallery, *model, people / "known" / "bar" / "00.png", people / "strangers")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"00.png: bar 1.0000 (threshold {threshold:.4f})")
    assert sum(": nobody, nearest " in line for line in lines) == 18


def test_what_is_enrolled_again_is_not_new_and_what_is_removed_is_gone(
    gallery: Path, people: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run("enroll", gallery, "--model", student, "--strangers", people / "strangers", "--fpir", 0.5)
    run("enroll", gallery, people / "known", "--model", student, "--remove", "bar", "--index", "hnsw", "--json")
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["added"] == {"bar": 12, "cross": 0, "disc": 0}
    assert not document["outgrown"]
    run("enroll", gallery, "--remove", "disc", "--remove", "bar")
    assert "the threshold was set with 3 identities and there are 1 now" in capsys.readouterr().err
    assert Gallery.load(gallery).names == ["cross"]
    assert Gallery.load(gallery).index == "hnsw"
    run("identify", gallery, people / "strangers" / "00.png", "--model", student)
    assert "there are 1 now; set it again with enroll --strangers" in capsys.readouterr().err


def test_photos_by_their_own_names_and_those_left_out(
    people: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    shutil.copy(people / "known" / "bar" / "00.png", folder / "Ada L.png")
    Image.new("RGB", (16, 16), (90, 90, 90)).save(folder / "grey.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    run("enroll", tmp_path / "g", folder, "--model", student)
    said = capsys.readouterr()
    assert "1 identities, 1 embeddings, 1 new" in said.out
    assert f"{folder / 'broken.jpg'}: left out: " in said.err
    assert f"{folder / 'grey.png'}: left out: flat: contrast" in said.err
    run("enroll", tmp_path / "g", folder, "--model", student, "--all")
    assert Gallery.load(tmp_path / "g").names == ["Ada L", "grey"]
    capsys.readouterr()
    run("identify", tmp_path / "g", folder, "--model", student)
    ada, broken, grey = capsys.readouterr().out.splitlines()
    assert ada == f"{folder / 'Ada L.png'}: Ada L 1.0000"
    assert ": not read: " in broken
    assert "grey 1.0000 [flat: contrast" in grey


def test_two_photos_are_verified_at_a_threshold_of_pairs(
    gallery: Path, people: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [f"{shape}/{i:02}.png" for shape in KNOWN for i in range(10)]
    rows = [f"{a},{b},{int(a[:3] == b[:3])}" for i, a in enumerate(photos) for b in photos[:i]]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right,same", *rows]))
    one, other = people / "probes" / photos[0], people / "probes" / photos[15]
    capsys.readouterr()
    run("verify", one, other, "--model", student)
    said = capsys.readouterr()
    assert said.out.startswith("similarity ")
    assert "same" not in said.out
    assert said.err.startswith("no threshold is given; crossres enroll GALLERY --pairs FILE")
    options = ("--pairs", tmp_path / "pairs.csv", "--images", people / "probes", "--far", 0.1)
    run("enroll", gallery, "--model", student, *options, "--json")
    found = json.loads(capsys.readouterr().out)["pair_threshold"]
    assert (found["count"], found["rate"], found["too_few"]) == (300, 0.1, False)
    accepted = []
    for right in photos[1:11]:
        run("verify", one, people / "probes" / right, "--model", student, "--gallery", gallery, "--json")
        document = json.loads(capsys.readouterr().out)
        assert document["same"] == (document["similarity"] >= found["similarity"])
        assert document["threshold"] == found["similarity"]
        accepted.append(document["same"])
    assert sum(accepted[:9]) > 3
    run("verify", one, one, "--threshold", 0.5, "--model", student)
    assert capsys.readouterr().out == "similarity 1.0000: same (threshold 0.5000)\n"


def test_a_gallery_by_the_teacher_is_searched_by_its_student(
    people: Path, spaces: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused
) -> None:
    gallery, probe = tmp_path / "hr", people / "known" / "bar" / "00.png"
    calibrated = ("--strangers", people / "strangers", "--fpir", 0.5)
    run("enroll", gallery, people / "known", "--model", spaces["teacher"], *calibrated)
    capsys.readouterr()
    run("identify", gallery, probe, "--model", spaces["taught"], "--json")
    said = capsys.readouterr()
    assert "the threshold is of photos read by another model, so similarities only" in said.err
    assert json.loads(said.out)["threshold"] is None
    run("enroll", gallery, "--model", spaces["taught"], *calibrated)
    run("identify", gallery, probe, "--model", spaces["taught"])
    said = capsys.readouterr()
    assert "similarities only" not in said.err
    assert "(threshold 0." in said.out.splitlines()[-1]
    line = refused("identify", gallery, probe, "--model", spaces["kd"])
    assert "the gallery was made by teacher, and kd was not taught its embeddings" in line
    run("identify", gallery, probe, "--model", spaces["kd"], "--same_space")
    capsys.readouterr()
    line = refused("enroll", gallery, people / "known", "--model", spaces["narrow"], "--same_space")
    assert line == "narrow makes embeddings of 12 numbers, the gallery holds 64"


def test_none_of_it_needs_torch_with_an_onnx_file(people: Path, onnx_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from crossres.commands.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def said(*words: object) -> str:
        command = [sys.executable, "-c", code, *map(str, words), "--model", str(onnx_file)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    gallery, probe = tmp_path / "g", people / "known" / "disc" / "03.png"
    assert "3 identities" in said("enroll", gallery, people / "known", "--strangers", people / "strangers")
    assert "03.png: disc 1.0000 (threshold" in said("identify", gallery, probe)
    assert said("verify", probe, probe, "--threshold", 0.9) == "similarity 1.0000: same (threshold 0.9000)\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("enroll G", "nothing to do; give PEOPLE, --remove, --strangers, --pairs or --index"),
        ("enroll G P", "--model: say which model reads the photos"),
        ("enroll G P --model M --fpir 2", "--fpir: a share within 0..1, got 2"),
        ("enroll G --model M --pairs x", "--pairs and --images belong together"),
        ("enroll none --remove bar", "No such file"),
        ("enroll G --remove barr", "there is no 'barr' among 3 identities; did you mean 'bar'"),
        ("enroll G P/none --model M", "not a folder"),
        ("enroll G P/mixed --model M", "1 images lie beside its folders; --flat takes those alone"),
        ("enroll G P/bad --model M", "none of 1 photos can be taken, the first: "),
        ("enroll G --model M --strangers P/bad", "there is no photo of a stranger in it"),
        ("enroll empty --model M --strangers P/strangers", "the gallery is empty; add identities first"),
        ("identify G P --model M -k 0", "-k: at least 1 identity"),
        ("identify P/bad/a.png P --model M", "no gallery of crossres, or a broken one"),
        ("identify G P/bad --model M", "none of 1 photos could be read, the first: "),
        ("verify P/bad/a.png P/bad/a.png --model M", "bad/a.png: "),
        ("verify a b --model M --threshold nan", "a similarity lies within -1..1, got nan"),
        ("verify a b --model M --gallery G --threshold 1", "not allowed with argument"),
    ],
)
def test_mistakes_end_in_one_line(
    words: str, message: str, gallery: Path, people: Path, student: Path, refused, tmp_path: Path, capsys
) -> None:
    root = tmp_path / "people"
    shutil.copytree(people, root)
    (root / "bad").mkdir()
    (root / "bad" / "a.png").write_bytes(b"no image")
    (root / "mixed" / "bar").mkdir(parents=True)
    for place in ("mixed/a.png", "mixed/bar/b.png"):
        shutil.copy(root / "strangers" / "00.png", root / place)
    places = {"G": gallery, "M": student, "none": tmp_path / "none", "empty": tmp_path / "empty"}
    before = gallery.read_bytes()
    capsys.readouterr()
    said = refused(
        *(places.get(word, word.replace("P", str(root), 1) if word[0] == "P" else word) for word in words.split())
    )
    assert message in said
    assert gallery.read_bytes() == before
    assert not (tmp_path / "empty").exists()
