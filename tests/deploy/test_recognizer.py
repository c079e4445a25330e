"""The recogniser: one answer through torch and ONNX, however a photo comes; hostile ones are refused in a line."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.data.decode import fit_image
from crossres.deploy import recognizer as recognizer_module
from crossres.deploy.deployed import Deployed
from crossres.deploy.facts import Facts, facts_of, from_json
from crossres.deploy.photos import ENDINGS, MOST_PIXELS, flags, read_photo
from crossres.deploy.recognizer import Recognizer
from crossres.deploy.torch_engine import deploy
from crossres.models.onnx_session import onnx_sha256
from crossres.models.pretrained import from_pretrained

RNG = np.random.default_rng(0)
FACTS = Facts("classification", ("a", "b"), (8, 8), 32, "crop", "bicubic", 16)


def encoded(pixels: np.ndarray, kind: str = "PNG", **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


@pytest.fixture(scope="module")
def both(student: Path, onnx_file: Path) -> tuple[Recognizer, Recognizer]:
    return Recognizer.load(student), Recognizer.load(onnx_file, threads=1)


def test_torch_and_onnx_answer_alike_for_every_shape(both: tuple[Recognizer, Recognizer]) -> None:
    shapes = [(16, 16), (8, 8), (1, 1), (5, 9), (40, 31), (300, 450), (16, 16)]
    photos = [RNG.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    for ours, theirs in zip(*(each.predict(photos) for each in both), strict=True):
        assert ours.label == theirs.label
        assert ours.flags == theirs.flags
        np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=1e-4)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
        assert ours.quality == pytest.approx(ours.probabilities.max())


def test_a_photo_in_a_batch_answers_as_alone(both: tuple[Recognizer, Recognizer]) -> None:
    photos = RNG.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for recognizer in both:
        together = recognizer.predict(photos, batch_size=4)
        for photo, answer in zip(photos, together, strict=True):
            (alone,) = recognizer.predict(photo)
            np.testing.assert_allclose(alone.embedding, answer.embedding, atol=1e-5)


def test_the_same_photo_as_path_bytes_pillow_and_pixels(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    given = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        pixels,
        np.dstack([pixels, np.full((16, 16), 255)]),
    ]
    given[-1] = given[-1].astype(np.uint8)
    answers = both[1].predict(given)
    assert [answer.name for answer in answers] == [str(path)] * 2 + [f"image {i}" for i in range(2, 6)]
    assert len({answer.embedding.tobytes() for answer in answers}) == 1
    assert [answer.name for answer in both[1].predict(tmp_path)] == [str(path)]


def test_it_sees_what_training_showed(student: Path, drawn: Path) -> None:
    """Top-1 on the test images as stored is that of result.json, whose LR images came from the training's loader."""
    result = json.loads((student / "result.json").read_text())
    recognizer = Recognizer.load(student)
    answers = recognizer.predict(drawn / "test")
    right = [answer.label == Path(answer.name).parent.name for answer in answers]
    assert 100 * np.mean(right) == pytest.approx(result["top1_best_val"])


@pytest.mark.parametrize("kernel", ["area", "bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_reading_is_pillows(student: Path, fit: str, kernel: str) -> None:
    encoder = from_pretrained(student)
    network = Deployed(encoder, replace(deploy(encoder).facts, fit=fit, kernel=kernel))
    pillow = {"area": 4, "bilinear": 2, "bicubic": 3, "lanczos": 1, "nearest": 0}[kernel]
    for height, width in ((32, 32), (40, 31), (33, 57)):
        image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if fit == "crop":
            side = min(height, width)
            left, top = (width - side) / 2, (height - side) / 2
            wanted = image.resize((8, 8), pillow, box=(left, top, left + side, top + side))
        elif fit == "squash":
            wanted = image.resize((8, 8), pillow)
        else:
            scale = 8 / max(height, width)
            inner = round(width * scale), round(height * scale)
            wanted = Image.new("RGB", (8, 8))
            wanted.paste(image.resize(inner, pillow), ((8 - inner[0]) // 2, (8 - inner[1]) // 2))
        found = network.read(torch.from_numpy(np.array(image))[None])[0].permute(1, 2, 0) * 255
        # Pillow rounds between its two passes, too
        assert np.abs(found.numpy() - np.asarray(wanted)).max() <= 2
    same = fit_image(image, 57, "crop")
    assert same.size == (57, 57)


def test_the_gate_says_why(both: tuple[Recognizer, Recognizer]) -> None:
    noise = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    white = np.full((16, 16, 3), 255, np.uint8)
    small = RNG.integers(0, 256, (7, 30, 3), dtype=np.uint8)
    sound, flat, tiny = (answer.flags for answer in both[1].predict([noise, white, small]))
    assert sound == ()
    assert [reason.split(":")[0] for reason in flat] == ["flat", "blown out"]
    assert tiny == ("too small: 30x7 pixels, trained from 8x8",)


def test_the_gate_knows_the_training_images(student: Path, drawn: Path) -> None:
    facts = Recognizer.load(student).facts
    assert facts.seen["contrast"] > 0.02
    faint = (np.asarray(Image.open(next(drawn.glob("train/disc/*.png")))).astype(float) * 0.04 + 120).astype(np.uint8)
    assert flags(faint, replace(facts, seen={"contrast": 0.002, "clipped": 0.1})) == ()
    assert flags(faint, facts)[0].startswith("flat")
    ink = np.where(RNG.random((16, 16, 1)) < 0.5, 0, 255).astype(np.uint8).repeat(3, 2)
    assert flags(ink, replace(FACTS, lr_size=(16, 16), seen={"contrast": 0.1, "clipped": 0.999})) == (
        "blown out: 100 % of it is black or white",
    )
    assert flags(ink, replace(FACTS, lr_size=(16, 16), seen={"contrast": 0.1, "clipped": 1.0})) == ()


def _bomb(width: int, height: int) -> bytes:
    """A PNG whose header says more pixels than anybody has memory for."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    content = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def _animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def test_hostile_photos_have_an_error_in_their_place(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    fine = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    jpeg = encoded(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    said = both[1].predict(
        [
            fine,
            _bomb(40_000, 40_000),
            _animated(),
            jpeg[: len(jpeg) // 2],
            b"MZ not an image",
            b"",
            tmp_path / "missing.png",
            np.zeros((4, 4, 7), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((0, 4, 3), np.uint8),
            3.5,
            fine,
        ]
    )
    assert said[0].label == said[-1].label
    assert said[0].error is said[-1].error is None
    for answer, why in zip(
        said[1:-1],
        [
            "more than",
            "holds 2 frames",
            "image 3: ",
            "not an image",
            "not an image",
            "missing.png: No such file",
            "uint8",
            "float32",
            "none or too many",
            "image 10 is float",
        ],
        strict=True,
    ):
        assert why in answer.error
        assert "\n" not in answer.error
        assert answer.label is answer.embedding is None
    assert MOST_PIXELS < 40_000 * 40_000


def test_a_folder_without_images_is_refused(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match="there is no image in it"):
        both[1].predict(tmp_path)
    with pytest.raises(CrossresError, match="batch_size 0"):
        both[1].predict([], batch_size=0)


def test_a_folder_without_images_stops_no_other(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")
    for recognizer in both:
        first, second = recognizer.predict([tmp_path / "empty", tmp_path / "black.png"])
        assert first.error == f"{tmp_path / 'empty'}: there is no image in it ({', '.join(ENDINGS)})"
        assert second.label is not None


def test_exif_orientation_and_greyscale() -> None:
    pixels = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_photo(encoded(pixels, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))
    grey = pixels[..., 0]
    np.testing.assert_array_equal(read_photo(encoded(grey)), grey[..., None].repeat(3, -1))


@pytest.mark.parametrize(
    "change",
    [
        {"task": "surgery"},
        {"lr_size": [8]},
        {"lr_size": [9, 8]},
        {"lr_size": [8, 10**9]},
        {"fit": "stretch"},
        {"kernel": "__import__"},
        {"classes": [1, 2]},
        {"classes": ["\x1b[31m", "a\ud800"]},
        {"classes": ["a", "a"]},
        {"embedding_dim": -1},
        {"seen": {"contrast": "low"}},
        {"seen": {"contrast": math.nan}},
        {"seen": {"contrast": 10**4000}},
        {"surplus": 1},
    ],
)
def test_broken_facts_are_refused(change: dict[str, object]) -> None:
    tree = json.loads(FACTS.to_json())
    assert from_json(json.dumps(tree), "it") == FACTS
    with pytest.raises(CrossresError, match="facts are broken"):
        from_json(json.dumps(tree | change), "it")


def test_a_batch_of_large_photos_is_cut(both: tuple[Recognizer, Recognizer], monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [RNG.integers(0, 256, (100, 60 + i % 2, 3), dtype=np.uint8) for i in range(7)]
    wanted = both[1].embed(photos)
    ran = []
    run = both[1]._engine.run
    monkeypatch.setattr(both[1]._engine, "run", lambda given: ran.append(len(given)) or run(given))
    monkeypatch.setattr(recognizer_module, "MOST_WAITING", 60_000)
    np.testing.assert_allclose(both[1].embed(photos), wanted, atol=1e-6)
    assert ran == [2, 2, 2, 1]


def test_names_that_are_no_utf8(onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", os.fsencode(tmp_path / "odd") + b"/\xff.png")
    assert main(["predict", str(onnx_file), str(tmp_path / "odd"), "--csv", str(tmp_path / "table.csv")]) == 0
    assert "\\udcff.png: " in capsys.readouterr().out
    assert "\\udcff.png," in (tmp_path / "table.csv").read_text()


def test_neighbours_change_no_digest_but_weights_do(onnx_file: Path, tmp_path: Path) -> None:
    import onnx

    shutil.copy(onnx_file, tmp_path / "alone.onnx")
    (tmp_path / "bar").write_text("a class has this name")
    assert onnx_sha256(tmp_path / "alone.onnx") == onnx_sha256(onnx_file)
    for long in ("weights", "w" * 200):
        model = onnx.load(onnx_file)
        onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location=long, size_threshold=0)
        before = onnx_sha256(tmp_path / "split.onnx")
        (tmp_path / long).write_bytes((tmp_path / long).read_bytes()[:-1] + b"x")
        assert onnx_sha256(tmp_path / "split.onnx") != before


@pytest.mark.parametrize(
    "change",
    [{"lr_size": "x"}, {"lr_size": 1.5}, {"lr_size": [8, 8, 8]}, {"degradation": 1}, {"seen": {"clipped": math.inf}}],
)
def test_broken_facts_of_a_folder_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CrossresError, match=r"config.json says lr_size, degradation"):
        facts_of({"lr_size": 8, "seen": {"clipped": 0.1}} | change, ("a", "b"), 16, 8)


def test_files_that_are_no_exports_are_refused(tmp_path: Path, onnx_file: Path) -> None:
    import onnx

    with pytest.raises(CrossresError, match=r"missing.onnx: No such file"):
        Recognizer.load(tmp_path / "missing.onnx")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\x80\x04junk")
    with pytest.raises(CrossresError, match="onnxruntime cannot read it"):
        Recognizer.load(junk)
    model = onnx.load(onnx_file)
    facts = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "crossres"))
    for name, said in (("wider", facts | {"embedding_dim": 7}), ("none", facts | {"classes": []})):
        onnx.helper.set_model_props(model, {"crossres": json.dumps(said)})
        onnx.save(model, tmp_path / f"{name}.onnx")
        with pytest.raises(CrossresError, match="export the model"):
            Recognizer.load(tmp_path / f"{name}.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(CrossresError, match="which is not nchw with 3 channels"):
        Recognizer.load(tmp_path / "bare.onnx")


def test_an_onnx_face_model_of_others_answers_with_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    strong = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.Flatten(), torch.nn.Linear(100, 6))
    torch.onnx.export(strong.eval(), (torch.zeros(1, 3, 12, 12),), tmp_path / "strong.onnx", verbose=False)
    recognizer = Recognizer.load(tmp_path / "strong.onnx", onnx_input="colours=bgr")
    photo = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    (answer,) = recognizer.predict(photo)
    with torch.no_grad():
        wanted = strong(torch.from_numpy(photo[..., ::-1].copy()).permute(2, 0, 1)[None].float())[0]
    np.testing.assert_allclose(answer.embedding, wanted.numpy(), rtol=1e-3, atol=1e-3)
    assert (recognizer.facts.task, answer.label) == ("faces", None)
    assert recognizer.embed(RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)).shape == (1, 6)


def test_prediction_imports_no_torch(onnx_file: Path, drawn: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from crossres.commands.main import main\n"
        f"sys.exit(main(['predict', {str(onnx_file)!r}, {str(drawn / 'test' / 'disc')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10


def test_predict_says_the_same_as_the_recogniser(
    onnx_file: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = drawn / "test" / "cross"
    table = tmp_path / "answers.csv"
    assert main(["predict", str(onnx_file), str(folder), "--json", "--top", "2", "--csv", str(table)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = Recognizer.load(onnx_file).predict(folder)
    assert [row["label"] for row in rows] == [answer.label for answer in wanted]
    assert [row["probability"] for row in rows] == pytest.approx([answer.probability for answer in wanted])
    assert all(len(row["top"]) == 2 for row in rows)
    assert len(table.read_text().splitlines()) == 11
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    assert main(["predict", str(onnx_file), str(broken)]) == 2
    said = capsys.readouterr()
    assert "not read: not an image" in said.out
    assert said.err.splitlines()[-1] == "crossres: none of the photos could be read"
