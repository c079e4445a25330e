"""What the page can be asked: the answers of predict, verify and identify, at every resolution."""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossres.config.deployment import Page, Verify
from crossres.core.errors import CrossresError
from crossres.deploy.deployed import deploy
from crossres.deploy.enrolment import verify
from crossres.deploy.gallery import Gallery, identity_of
from crossres.deploy.photos import fitted
from crossres.deploy.recognizer import Recognizer
from crossres.deploy.service import MIN_SIDE, load_service, read_upload, samples, shown, telling
from crossres.evaluation.statistics import PairThreshold
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.models.zoo import names

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def enrolled(faces: Path, people: dict[str, np.ndarray], path: Path) -> str:
    """A gallery of one photo each, at 1 % false positives for pairs and strangers."""
    recognizer = Recognizer.load(faces)
    gallery = Gallery(recognizer.facts.embedding_dim, model=identity_of(recognizer))
    for name, photo in people.items():
        gallery.add(name, recognizer.embed(photo))
    gallery.calibrate(recognizer.embed([noise(16, 16) for _ in range(8)]), 0, identity_of(recognizer))
    gallery.calibrate_pairs([0.2, 0.9, 1.0, 1.0], np.array([False, False, True, True]), 0, identity_of(recognizer))
    gallery.save(path)
    return str(path)


def test_the_largest_side_takes_the_photo_as_it_is(student: Path, onnx_file: Path) -> None:
    """So the page says what predict says; below it the shrunken photo is asked about."""
    for model in (student, onnx_file):
        service = load_service(Page(model=str(model)))
        for shape in ((16, 16), (8, 8), (200, 150), (13, 9)):
            photo = noise(*shape)
            largest = service.largest(photo)
            assert largest == min(*shape, 16)
            examined = service.examine(photo, largest)
            expected = Recognizer.load(model).predict(photo)[0]
            np.testing.assert_array_equal(examined.student.probabilities, expected.probabilities)
            assert examined.small.shape == (largest, largest, 3)
        small = service.examine(photo, MIN_SIDE)
        assert small.student.flags[0] == "too small: 4x4 pixels, trained on 8x8 or larger"
        expected = Recognizer.load(model).predict(fitted(photo, MIN_SIDE, service.facts))[0]
        np.testing.assert_array_equal(small.student.probabilities, expected.probabilities)
        for side in (MIN_SIDE - 1, largest + 1):
            with pytest.raises(CrossresError, match="give 4 to"):
                service.examine(photo, side)


def test_what_the_student_reads_is_shown(student: Path) -> None:
    service, network = load_service(Page(model=str(student))), deploy(from_pretrained(student))
    photo = noise(40, 31)
    for side in (16, 8, 5):
        examined = service.examine(photo, side)
        shown_photo = photo if side == 16 else examined.small
        read = network.read(torch.from_numpy(shown_photo.copy())[None])[0].permute(1, 2, 0).numpy() * 255
        assert examined.read.shape == (8, 8, 3)
        # Pillow rounds between its two passes, too
        assert np.abs(read - examined.read).max() <= 2


def test_a_photo_is_first_shown_at_the_students_own_size(student: Path) -> None:
    service = load_service(Page(model=str(student)))
    sides = {shape: service.opening(noise(*shape)) for shape in ((16, 16), (200, 150), (8, 8), (6, 30), (4, 4))}
    assert list(sides.values()) == [8, 8, 8, 6, 4]


def test_the_most_telling_photo(student: Path, drawn_teacher: Path, drawn: Path, tmp_path: Path) -> None:
    """By brute force: the student is with the teacher's answer to all pixels, not with that to the enlarged."""
    service = load_service(Page(model=str(student), teacher=str(drawn_teacher)))
    paths = sorted((drawn / "test").rglob("*.png"))
    shares = {}
    for path in paths:
        photo = np.asarray(Image.open(path).convert("RGB"))
        small = fitted(photo, 8, service.facts)
        (answer,) = Recognizer.load(student).predict(small)
        enlarged, whole = (one.label for one in Recognizer.load(drawn_teacher).predict([small, photo]))
        if answer.label == whole and answer.label != enlarged:
            shares[path] = answer.probability
    assert shares
    (tmp_path / "junk.png").write_bytes(b"MZ no image")
    assert telling(service, [tmp_path / "junk.png", *paths]) == max(shares, key=shares.__getitem__)
    assert telling(service, set(paths) - shares.keys()) is None
    assert telling(load_service(Page(model=str(student))), paths) is None


def test_the_teacher_answers_beside_the_student(student: Path, drawn_teacher: Path) -> None:
    service = load_service(Page(model=str(student), teacher=str(drawn_teacher)))
    teacher = Recognizer.load(drawn_teacher)
    photo = noise(16, 16)
    examined = service.examine(photo, 5)
    for answer, image in zip(examined.teacher, (examined.small, photo), strict=True):
        np.testing.assert_array_equal(answer.probabilities, teacher.predict(image)[0].probabilities)
    assert len(service.examine(photo, 16).teacher) == 1
    assert load_service(Page(model=str(student))).teacher is None


def test_a_runs_own_teacher_and_test_images_are_found(
    student: Path, drawn: Path, drawn_teacher: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(student, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    own, gone = (config.replace("\nteacher: null", f"\nteacher: {path}") for path in (drawn_teacher, "gone"))
    (run / "config.yaml").write_text(own)
    assert load_service(Page(model=str(run))).teacher.source == str(drawn_teacher)
    into = tmp_path / "samples"
    into.mkdir()
    notes: list[str] = []
    photos = samples(str(run), None, into, notes.append)
    assert [path.name for path in photos[0]] == ["bar-1.png", "bar-2.png"]
    assert [len(paths) for paths in photos] == [2, 2, 2, 2]
    stored = np.asarray(Image.open(drawn / "test" / "disc" / "00.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(into / "disc-1.png")), stored)
    # neither is there any more
    (run / "config.yaml").write_text(gone.replace(str(drawn), "/gone"))
    assert load_service(Page(model=str(run))).teacher is None
    assert samples(str(run), None, into, notes.append) == []
    assert notes[0].startswith("no samples: ")
    assert [len(paths) for paths in samples("model.onnx", str(drawn / "test"), into, notes.append)] == [2, 2, 2, 2]
    assert len(samples("model.onnx", str(drawn / "test" / "disc"), into, notes.append)[0]) == 10
    with pytest.raises(CrossresError, match="no image in it"):
        samples("model.onnx", str(into / "none"), into, notes.append)


def test_two_photos_and_a_search(faces: Path, tmp_path: Path) -> None:
    ann, bob, other = noise(16, 16), noise(30, 20), noise(16, 16)
    gallery = enrolled(faces, {"Ann": ann, "Bob": bob}, tmp_path / "people.gallery")
    service = load_service(Page(model=str(faces), gallery=gallery))
    assert service.compares
    recognizer = Recognizer.load(faces)
    one, two = recognizer.embed([ann, other]).astype(np.float64)
    similarity, (first, _) = service.similarity(ann, other)
    assert similarity == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert first.flags == ()
    assert service.pairs.passed(service.similarity(ann, ann)[0]) is True
    assert service.pairs.passed(0.5) is False
    matches, _ = service.search(ann, 5)
    assert [match.name for match in matches] == ["Ann", "Bob"]
    assert service.strangers(ann).passed(matches[0].similarity) is True
    assert load_service(Page(model=str(faces), threshold=0.3, gallery=gallery)).pairs.similarity == 0.3
    bare = load_service(Page(model=str(faces)))
    assert bare.pairs.passed(1.0) is None
    assert bare.pairs.note.startswith("no threshold is set")
    with pytest.raises(CrossresError, match="leave --teacher out"):
        load_service(Page(model=str(faces), teacher=str(faces)))


def test_a_model_brings_its_threshold_of_pairs(faces: Path, tmp_path: Path) -> None:
    own = PairThreshold(0.75, 0.001, 0.6, 80, 90_000)
    network = from_pretrained(faces)
    save_pretrained(network, tmp_path / "own", info={**network.info, "pairs": [asdict(own)]})
    model = str(tmp_path / "own")
    assert load_service(Page(model=model)).pairs == (0.75, own.note, 8, 0)
    assert own.note == (
        "calibrated on 80 people: it takes 0.1 % of the pairs of two people for one person, and misses 40 % of the "
        "pairs of one"
    )
    assert load_service(Page(model=model, threshold=0.3)).pairs.similarity == 0.3
    photo = tmp_path / "one.png"
    Image.fromarray(noise(16, 16)).save(photo)
    notes: list[str] = []
    document = verify(Verify(photos=[str(photo), str(photo)], model=model), notes.append)
    assert (document["threshold"], document["same"], notes) == (0.75, True, [own.note])
    assert verify(Verify(photos=[str(photo), str(photo)], model=model, threshold=0.5))["threshold"] == 0.5
    # a gallery without one does not take it away
    gallery = Gallery(network.embedding_dim, model=identity_of(Recognizer.load(model)))
    gallery.add("Ann", Recognizer.load(model).embed(photo))
    gallery.save(path := tmp_path / "people.gallery")
    assert load_service(Page(model=model, gallery=str(path))).pairs == (0.75, own.note, 8, 0)
    notes.clear()
    document = verify(Verify(photos=[str(photo), str(photo)], model=model, gallery=str(path)), notes.append)
    assert (document["threshold"], document["same"], notes) == (0.75, True, [own.note])


def test_without_a_model_the_page_has_the_ready_ones(tmp_path: Path) -> None:
    models = shown(Page(), tmp_path)
    assert sorted(model.title for model in models) == names()
    assert [bool(model.first) for model in models] == sorted((bool(model.first) for model in models), reverse=True)
    for model in (model for model in models if not model.service.compares):
        assert [path.stem for (path,) in model.first] == [
            model.service.student.predict(path)[0].label.replace(" ", "_") for (path,) in model.first
        ]
        assert len(model.first) == 3
    with pytest.raises(CrossresError, match="--samples belongs to one model; name it: crossres page MODEL --samples"):
        shown(Page(samples="photos"), tmp_path)


def test_a_threshold_of_another_model_does_not_count(faces: Path, student: Path, tmp_path: Path) -> None:
    gallery = enrolled(faces, {"Ann": noise(16, 16)}, tmp_path / "people.gallery")
    with pytest.raises(CrossresError, match="gallery was made by"):
        load_service(Page(model=str(student), gallery=gallery))
    service = load_service(Page(model=str(student), gallery=gallery, same_space=True))
    strangers = service.strangers(noise(16, 16))
    assert service.pairs.similarity is strangers.similarity is None
    assert "the threshold was set with photos read by another model" in strangers.note


def test_a_photo_below_the_smallest_size_has_no_verdict(faces: Path, tmp_path: Path) -> None:
    path = enrolled(faces, {"Ann": noise(16, 16)}, tmp_path / "people.gallery")
    gallery, recognizer = Gallery.load(path), Recognizer.load(faces)
    strangers = recognizer.embed([noise(16, 16) for _ in range(8)])
    for size in (10, 12):
        gallery.calibrate(strangers, 0, identity_of(recognizer), size)
    gallery.save(path)
    service = load_service(Page(model=str(faces), gallery=path))
    assert service.strangers(noise(9, 30))[:2] == (None, "too small: 9 pixels, thresholds begin at 10")
    assert service.strangers(noise(11, 30)).similarity == gallery.thresholds[0].similarity


def test_uploads_are_refused_by_their_name_alone(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(encoded(noise(1, 1)))
    (tmp_path / "cut.jpg").write_bytes(encoded(noise(64, 64), "JPEG")[:1500])
    with pytest.raises(CrossresError, match=r"^dot.png: 1x1 pixels are too few; give at least 4x4$"):
        read_upload(tmp_path / "dot.png")
    with pytest.raises(CrossresError, match=r"^cut.jpg: image file is truncated"):
        read_upload(tmp_path / "cut.jpg")
