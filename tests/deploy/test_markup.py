"""The page's HTML: what it shows of photos, and that nothing from outside becomes markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossres.config.deployment import Page
from crossres.deploy.gallery import Gallery
from crossres.deploy.markup import about, classified, compared, message, searched
from crossres.deploy.photos import read_photo
from crossres.deploy.service import PhotoService, load_service
from crossres.deploy.thresholds import Limit, Threshold

RNG = np.random.default_rng(0)
WRITTEN = "<img src=x onerror=alert()> {{x}}"
ESCAPED = "&lt;img src=x onerror=alert()&gt; {{x}}"


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def service(faces: Path) -> PhotoService:
    """Of faces, with a gallery of one whose name looks like markup."""
    service = load_service(Page(model=str(faces)))
    gallery = Gallery(service.facts.embedding_dim)
    gallery.add(WRITTEN, service.student.embed(noise(16, 16)))
    return replace(service, gallery=gallery)


def test_classes_at_a_resolution(onnx_file: Path) -> None:
    service = load_service(Page(model=str(onnx_file)))
    assert about(service) == "Reads 8x8 pixels (trained from 16x16 images); knows 4 classes."
    whole, small = (classified(service, noise(16, 16), side) for side in (16, 4))
    assert "The photo at 16x16 pixels" in whole
    assert "on the photo as it is" in whole
    assert "What the student reads: 8x8" in small
    assert "<p class='note'>Too small: 4x4 pixels, trained on 8x8 or larger.</p>" in small
    assert small.count("<li>") == 4
    # at its own size what it reads is the photo
    own = classified(service, noise(16, 16), 8)
    assert "The photo at 8x8 pixels" not in own
    assert own.count("<figure>") == 1


def test_the_answer_comes_first_and_is_amber_where_it_is_unsure(
    calibrated: Callable[[float | None], Path], drawn: Path
) -> None:
    photo = read_photo(drawn / "test" / "bar" / "00.png")
    shown = {threshold: load_service(Page(model=str(calibrated(threshold)))) for threshold in (0.0, 1.0, None)}
    (answer,) = shown[0.0].student.predict(photo)
    percent = f"{answer.label}, {100 * answer.probability:.0f} %"
    begins = "<div class='crossres'><div class='answer{}' role='status'><p class='verdict'>{}</p>{}</div>"
    sure, unsure, old = (classified(service, photo, 16) for service in shown.values())
    # nothing to say of the pixels: no praise, no note
    assert sure.startswith(begins.format("", percent, ""))
    why = "<p class='note'>Unsure: 400 validation images show 95 % right answers at no probability.</p>"
    assert unsure.startswith(begins.format(" unsure", f"{percent}: unsure", why))
    unknown = "<p class='note'>This model has no calibrated confidence.</p>"
    if answer.probability > 0.5:
        assert old.startswith(begins.format("", f"{percent} (not calibrated)", unknown))
    else:
        doubt = "<p class='note'>Unsure: its probability is no higher than 50 %.</p>"
        assert old.startswith(begins.format(" unsure", f"{percent}: unsure", doubt + unknown))
    # what a confidence was calibrated on was not so small: the answer is unsure, however probable
    small = classified(shown[0.0], photo, 4)
    assert "<div class='answer unsure' role='status'>" in small


def test_the_teacher_stands_beside(onnx_file: Path, drawn_teacher: Path) -> None:
    service = load_service(Page(model=str(onnx_file), teacher=str(drawn_teacher)))
    photo = noise(16, 16)
    enlarged, whole = (answer.label for answer in service.examine(photo, 8).teacher)
    line = f"<p>The teacher answers {enlarged} to the same pixels, enlarged, and {whole} to the whole photo.</p>"
    assert line in classified(service, photo, 8)
    assert "The teacher answers" not in classified(service, photo, 16)
    assert "<p class='note'>Why.</p>" in classified(service, photo, 16, "why")


@pytest.mark.parametrize(
    ("limit", "verdict", "note"),
    [
        (Limit(-1.0, ""), "The same", ""),
        (Limit(1.1, ""), "Not the same", ""),
        (Limit(None, "no threshold is set"), "No verdict", "No threshold is set."),
    ],
)
def test_two_photos(service: PhotoService, limit: Limit, verdict: str, note: str) -> None:
    html = compared(replace(service, pairs=limit), noise(16, 16), noise(4, 30))
    assert f"<p class='verdict'>{verdict}</p>" in html
    assert "<p class='note'>The second photo is too small: 30x4 pixels, trained on 8x8 or larger.</p>" in html
    assert html.index("verdict") < html.index("too small")
    assert html.count("<p class='note'>") == 1 + bool(note)
    assert f"<p class='note'>{note}</p>" in html or not note


def test_a_photo_that_a_threshold_does_not_hold_for_has_no_verdict(service: PhotoService) -> None:
    own = replace(service, pairs=Limit(-1.0, "what it does", side=8))
    html = compared(own, noise(16, 16), noise(7, 30))
    assert "<p class='verdict'>No verdict</p>" in html
    small = "No verdict, too small for the model&#x27;s threshold: 7 pixels, it holds from 8 on"
    assert f"<p class='note'>{small}; --threshold decides anyway.</p>" in html
    assert "What it does" not in html
    assert "<p class='verdict'>The same</p>" in compared(own, noise(16, 16), noise(8, 30))
    photo, limit = noise(16, 16), 1e6
    poor = compared(replace(service, pairs=Limit(-1.0, "", min_quality=limit)), photo, photo)
    assert "<p class='verdict'>No verdict</p>" in poor
    quality = f"{service.student.predict(photo)[0].quality:.3g}"
    assert f"<p class='note'>The first photo&#x27;s quality {quality} is below 1e+06.</p>" in poor
    strict = Threshold(-1.0, 0.1, 100, False, 1, None, min_quality=limit)
    poor = searched(replace(service, thresholds=[strict]), photo)
    assert "<p class='verdict'>No verdict</p>" in poor
    assert f"<p class='note'>Quality {quality} is below 1e+06.</p>" in poor


def test_names_are_escaped(service: PhotoService) -> None:
    assert about(service).endswith("compares photos; 1 identities in the gallery.")
    html = searched(replace(service, thresholds=[Threshold(-1.0, 0.1, 100, False, 1, None)]), noise(16, 16))
    assert f"<p class='verdict'>{ESCAPED}</p>" in html
    assert f"<li><span>{ESCAPED}</span>" in html
    assert WRITTEN not in html
    nobody = searched(replace(service, thresholds=[Threshold(1.1, 0.1, 100, False, 1, None, 16)]), noise(16, 16))
    assert "Nobody in this gallery" in nobody
    small = searched(replace(service, thresholds=[Threshold(-1.0, 0.1, 100, False, 1, None, 17)]), noise(7, 7))
    assert "No verdict" in small
    assert "Too small: 7 pixels, thresholds begin at 17." in small
    assert small.count("Too small") == 1
    assert message("refused", WRITTEN, [WRITTEN]).count(ESCAPED) == 2


def test_a_ready_model_says_what_it_expects() -> None:
    assert "It expects one sign that fills the picture." in about(load_service(Page(model="signs-16")))
