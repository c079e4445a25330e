"""The page's HTML: what it shows of photos, and that nothing from outside becomes markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossres.config.deployment import Page
from crossres.deploy.gallery import Gallery
from crossres.deploy.markup import about, classified, compared, message, searched
from crossres.deploy.service import Limit, PhotoService, load_service

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
    assert "No problem detected in the photo." in whole
    assert "What the student reads: 8x8" in small
    assert "too small: 4x4 pixels, trained on 8x8 or larger" in small
    assert small.count("<li>") == 4


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
    assert "The second photo is too small: 30x4 pixels" in html
    assert (f"<p class='note'>{note}</p>" in html) == bool(note)


def test_names_are_escaped(service: PhotoService) -> None:
    assert about(service).endswith("compares photos; 1 identities in the gallery.")
    html = searched(replace(service, strangers=Limit(-1.0, "")), noise(16, 16))
    assert f"<p class='verdict'>{ESCAPED}</p>" in html
    assert f"<li><span>{ESCAPED}</span>" in html
    assert WRITTEN not in html
    nobody = searched(replace(service, strangers=Limit(1.1, "")), noise(16, 16))
    assert "Nobody in this gallery" in nobody
    assert message("refused", WRITTEN, [WRITTEN]).count(ESCAPED) == 2
