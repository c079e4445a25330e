"""The recognizer: one answer through torch and ONNX, however a photo comes; a hostile one has an error instead."""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from crossres.commands.main import main
from crossres.config.deployment import Export
from crossres.core.errors import CrossresError
from crossres.data.folder import IMAGE_SUFFIXES
from crossres.deploy import recognizer as recognizer_module
from crossres.deploy.export import export
from crossres.deploy.recognizer import Recognizer
from crossres.evaluation.onnx_engine import OnnxEngine
from crossres.models.onnx_input import onnx_sha256

RNG = np.random.default_rng(0)


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
        np.dstack([pixels, np.full((16, 16, 1), 255, np.uint8)]),
        memoryview(path.read_bytes()),
        io.BytesIO(path.read_bytes()),
    ]
    answers = both[1].predict(given)
    assert [answer.name for answer in answers] == [str(path)] * 2 + [f"image {i}" for i in range(2, 8)]
    assert len({answer.embedding.tobytes() for answer in answers}) == 1
    with path.open("rb") as file:
        for source in (file, memoryview(path.read_bytes()), pixels):
            (alone,) = both[1].predict(source)
            assert alone.embedding.tobytes() == answers[0].embedding.tobytes()
    assert [answer.name for answer in both[1].predict(tmp_path)] == [str(path)]


def test_a_pickled_one_answers_alike(
    both: tuple[Recognizer, Recognizer],
    student: Path,
    onnx_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    photo = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for path in (student, onnx_file):
        monkeypatch.chdir(path.parent)
        recognizer = Recognizer.load(path.name)
        pickled = pickle.dumps(recognizer)
        monkeypatch.chdir(tmp_path)
        again = pickle.loads(pickled)
        assert again.predict(photo)[0].embedding.tobytes() == recognizer.predict(photo)[0].embedding.tobytes()
    with pytest.raises(pickle.PicklingError, match="load it in each process"):
        pickle.dumps(Recognizer(both[1]._engine, "here"))


def test_an_answer_that_is_not_finite_is_an_error(onnx_file: Path) -> None:
    class Broken(OnnxEngine):
        def run(self, photos: np.ndarray) -> dict[str, np.ndarray]:
            outputs = super().run(photos)
            outputs["embedding"][0, 0] = np.nan
            return outputs

    with pytest.raises(CrossresError, match="its answers are not finite, as of a damaged file"):
        Broken(onnx_file)
    engine = OnnxEngine(onnx_file)
    engine.__class__ = Broken
    first, second = Recognizer(engine, "here").predict(RNG.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8))
    assert first.error == "image 0: the model's answer is not finite; its file may be damaged"
    assert first.label is first.embedding is None
    assert second.error is None


def test_it_sees_what_training_showed(student: Path, drawn: Path) -> None:
    """Top-1 on the test images as stored is that of result.json, whose LR images came from the training's loader."""
    result = json.loads((student / "result.json").read_text())
    recognizer = Recognizer.load(student)
    answers = recognizer.predict(drawn / "test")
    right = [answer.label == Path(answer.name).parent.name for answer in answers]
    assert 100 * np.mean(right) == pytest.approx(result["top1_best_val"])


def test_the_gate_marks_answers(both: tuple[Recognizer, Recognizer]) -> None:
    assert both[0].facts.seen == both[1].facts.seen
    assert both[0].facts.seen["contrast"] > 0.02
    white, small = np.full((16, 16, 3), 255, np.uint8), RNG.integers(0, 256, (7, 30, 3), dtype=np.uint8)
    flat, tiny = both[1].predict([white, small])
    assert flat.reason == "; ".join(flat.flags)
    assert flat.photo_flags[0].startswith("flat: ")
    assert tiny.photo_flags == ("too small: 30x7 pixels, trained on 8x8 or larger",)


def test_answers_below_the_calibrated_probability_are_unsure(
    calibrated: Callable[[float | None], Path], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the folder, of its export, in words and on the command line."""
    photos = sorted((drawn / "test").rglob("*.png"))
    shares = [answer.probability for answer in Recognizer.load(calibrated(None)).predict(photos)]
    low, high = sorted(shares)[19:21]
    assert low < high
    middle = (low + high) / 2
    folder, file = calibrated(middle), tmp_path / "sure.onnx"
    export(Export(model=str(folder), out=str(file), data=str(drawn)))
    assert Recognizer.load(file).facts.confidence == Recognizer.load(folder).facts.confidence
    percent = f"{math.floor(1000 * middle) / 10:g} %"
    why = f"unsure: 400 validation images show 95 % right answers only above a probability of {percent}"
    for model in (folder, file):
        answers = Recognizer.load(model).predict(photos)
        assert [answer.probability < middle for answer in answers] == [bool(answer.flags) for answer in answers]
        for answer in answers:
            assert answer.flags == ((why,) if answer.probability < middle else ())
            assert answer.photo_flags == ()
            assert answer.sentence.endswith(" %: unsure" if answer.flags else " %")
    assert main(["predict", str(file), str(drawn / "test")]) == 0
    printed = capsys.readouterr()
    assert printed.out.count(f" [{why}]") == 20
    assert printed.err == "40 photos: 20 flagged, 0 unreadable\n"


def test_a_sentence_is_never_wholly_certain(student: Path) -> None:
    (answer,) = Recognizer.load(student).predict(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert replace(answer, label="1", probability=0.374).sentence == "1, 37 %"
    assert replace(answer, label="7", probability=0.9999).sentence == "7, over 99 %"
    assert replace(answer, label="7", probability=0.994, photo_flags=("flat",)).sentence == "7, 99 %: unsure"


def test_hostile_photos_have_an_error_in_their_place(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    photo = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    sources = [photo, b"MZ not an image", tmp_path / "missing.png", np.zeros((4, 4, 3), np.float32), 3.5, photo]
    first, *broken, last = both[1].predict(sources)
    assert first.label == last.label
    assert first.error is last.error is None
    reasons = ["not an image", "missing.png: No such file", "float32", "image 4 is"]
    for answer, why in zip(broken, reasons, strict=True):
        assert why in answer.error
        assert answer.label is answer.embedding is None
        assert not answer.reason.startswith(answer.name + ":")


def test_a_folder_without_images_is_refused(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match="no image in it"):
        both[1].predict(tmp_path)
    with pytest.raises(CrossresError, match="batch_size is 0"):
        both[1].predict([], batch_size=0)


def test_a_folder_without_images_stops_no_other(both: tuple[Recognizer, Recognizer], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")
    for recognizer in both:
        first, second = recognizer.predict([tmp_path / "empty", tmp_path / "black.png"])
        assert first.error == f"{tmp_path / 'empty'}: no image in it ({', '.join(IMAGE_SUFFIXES)})"
        assert second.label is not None


class Counting:
    """An engine that keeps how many photos each of its runs had."""

    def __init__(self, engine: OnnxEngine) -> None:
        self.engine, self.runs = engine, []
        self.facts, self.digest = engine.facts, engine.digest

    def run(self, photos: np.ndarray) -> dict[str, np.ndarray]:
        self.runs.append(len(photos))
        return self.engine.run(photos)


def test_a_batch_of_large_photos_is_cut(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [RNG.integers(0, 256, (100, 60 + i % 2, 3), dtype=np.uint8) for i in range(7)]
    engine = Counting(OnnxEngine(onnx_file, threads=1))
    recognizer = Recognizer(engine, str(onnx_file))
    expected = recognizer.embed(photos)
    engine.runs.clear()
    monkeypatch.setattr(recognizer_module, "MAX_WAITING", 60_000)
    np.testing.assert_allclose(recognizer.embed(photos), expected, atol=1e-6)
    assert engine.runs == [2, 2, 2, 1]


def test_prediction_imports_no_torch(onnx_file: Path, drawn: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import crossres\n"
        f"photos = crossres.predict(crossres.Predict(model={str(onnx_file)!r}, photos=[{str(drawn / 'test')!r}]))\n"
        "print(len(list(photos)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "40\n"), done.stderr


def test_neighbours_change_no_digest_but_weights_do(onnx_file: Path, tmp_path: Path) -> None:
    shutil.copy(onnx_file, tmp_path / "alone.onnx")
    (tmp_path / "bar").write_text("a class has this name")
    assert onnx_sha256(tmp_path / "alone.onnx") == onnx_sha256(onnx_file)
    for long in ("weights", "w" * 200):
        model = onnx.load(onnx_file)
        onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location=long, size_threshold=0)
        before = onnx_sha256(tmp_path / "split.onnx")
        (tmp_path / long).write_bytes((tmp_path / long).read_bytes()[:-1] + b"x")
        assert onnx_sha256(tmp_path / "split.onnx") != before


def test_files_that_are_not_exports_are_refused(tmp_path: Path, onnx_file: Path) -> None:
    with pytest.raises(CrossresError, match=r"missing.onnx: No such file"):
        Recognizer.load(tmp_path / "missing.onnx")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\x80\x04junk")
    with pytest.raises(CrossresError, match="onnxruntime cannot read it"):
        Recognizer.load(junk)
    model = onnx.load(onnx_file)
    facts = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "crossres"))
    for name, changed in (("wider", facts | {"embedding_dim": 7}), ("none", facts | {"classes": []})):
        onnx.helper.set_model_props(model, {"crossres": json.dumps(changed)})
        onnx.save(model, tmp_path / f"{name}.onnx")
        with pytest.raises(CrossresError, match="export the model"):
            Recognizer.load(tmp_path / f"{name}.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(CrossresError, match=r"has the outputs embedding .*; name the embedding's with"):
        Recognizer.load(tmp_path / "bare.onnx")
    with pytest.raises(CrossresError, match="not written by crossres export"):
        OnnxEngine(tmp_path / "bare.onnx")


def test_a_damaged_export_is_refused_before_it_runs(onnx_file: Path, tmp_path: Path) -> None:
    content, path = onnx_file.read_bytes(), tmp_path / "damaged.onnx"
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=100):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(CrossresError, match=r"damaged.onnx was changed or damaged after its export"):
            Recognizer.load(path)
    model = onnx.load(onnx_file)
    kept = [entry for entry in model.metadata_props if entry.key == "crossres"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "earlier.onnx")  # as earlier versions wrote it
    photo = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    answers = [Recognizer.load(file).predict(photo)[0].label for file in (onnx_file, tmp_path / "earlier.onnx")]
    assert answers[0] == answers[1]


def test_metadata_that_is_no_text_is_one_line(onnx_file: Path, tmp_path: Path) -> None:
    content = onnx_file.read_bytes().replace(b"crossres_sha256", b"crossres_other!")
    (tmp_path / "m.onnx").write_bytes(content.replace(b'"task"', b'"t\xff\xfek"'))
    with pytest.raises(CrossresError, match=r"^[^\n]*m.onnx: its metadata is damaged; export the model again[^\n]*$"):
        Recognizer.load(tmp_path / "m.onnx")
