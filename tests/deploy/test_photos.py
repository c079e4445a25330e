"""Photos from anywhere: hostile ones are refused in a line, and the gate marks those that are not to be trusted."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crossres.core.errors import CrossresError
from crossres.deploy.photos import MAX_BYTES, MAX_PIXELS, fitted, flags, read_photo
from crossres.evaluation.facts import Facts

RNG = np.random.default_rng(0)
FACTS = Facts("classification", ("a", "b"), (8, 8), 32, "crop", "bicubic", 16)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims more pixels than fit in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    content = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


#: photos that are refused, and a part of the reason
HOSTILE = [
    (bomb(40_000, 40_000), "more than"),
    (encoded(noise(64, 64), "JPEG")[:900], "it: "),
    (b"MZ not an image", "not an image"),
    (b"", "not an image"),
    (Path("missing.png"), "it: No such file"),
    (np.zeros((4, 4, 7), np.uint8), "uint8"),
    (np.zeros((4, 4, 3), np.float32), "float32"),
    (np.zeros((0, 4, 3), np.uint8), "empty or too large"),
    (3.5, "it is float"),
    (io.StringIO("text"), "it is open as text"),
]


@pytest.mark.parametrize(("source", "why"), HOSTILE)
def test_hostile_photos_are_refused_in_a_line(source: object, why: str) -> None:
    with pytest.raises(CrossresError) as raised:
        read_photo(source, "it")
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)
    assert MAX_PIXELS < 40_000 * 40_000


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_the_first_of_several_frames_counts_as_in_training(kind: str) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    assert read_photo(file.getvalue()).reshape(-1, 3).tolist() == 64 * [[255, 0, 0]]


def test_sound_pixels_beside_what_nobody_needs() -> None:
    pixels = noise(12, 12)
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * 3_000_000, zip=True)
    assert np.array_equal(read_photo(encoded(pixels, pnginfo=text)), pixels)
    file, phone = io.BytesIO(), Image.fromarray(noise(16, 16))  # with a smaller second picture
    phone.save(file, "MPO", save_all=True, append_images=[phone.resize((8, 8))], quality=95)
    assert read_photo(file.getvalue()).shape == (16, 16, 3)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for source in (tmp_path / "large.png", bytes(MAX_BYTES + 1)):
        with pytest.raises(CrossresError, match="the file is larger than 100 MB"):
            read_photo(source)


def test_a_photo_at_a_side_is_what_the_network_would_read() -> None:
    photo = noise(40, 30)
    assert fitted(photo, 8, FACTS).shape == (8, 8, 3)
    square = Image.fromarray(photo).resize((8, 8), Image.Resampling.BICUBIC, box=(0, 5, 30, 35))
    np.testing.assert_array_equal(fitted(photo, 8, FACTS), np.asarray(square))
    assert not fitted(photo, 8, replace(FACTS, fit="pad"))[:, 0].any()
    assert (FACTS.side_of(photo), replace(FACTS, fit="pad").side_of(photo)) == (30, 40)


def test_exif_orientation_and_greyscale() -> None:
    pixels = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_photo(encoded(pixels, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))
    grey = pixels[..., 0]
    np.testing.assert_array_equal(read_photo(encoded(grey)), grey[..., None].repeat(3, -1))


def test_the_gate_says_why() -> None:
    white = np.full((16, 16, 3), 255, np.uint8)
    assert flags(noise(16, 16), FACTS) == ()
    assert [reason.split(":")[0] for reason in flags(white, FACTS)] == ["flat", "blown out"]
    assert flags(noise(7, 30), FACTS) == ("too small: 30x7 pixels, trained on 8x8 or larger",)


def test_the_gate_knows_the_training_images(drawn: Path) -> None:
    facts = replace(FACTS, seen={"contrast": 0.03, "clipped": 0.5})
    faint = (np.asarray(Image.open(next(drawn.glob("train/disc/*.png")))).astype(float) * 0.04 + 120).astype(np.uint8)
    assert flags(faint, replace(facts, seen={"contrast": 0.002, "clipped": 0.1})) == ()
    assert flags(faint, facts)[0].startswith("flat")
    ink = np.where(RNG.random((16, 16, 1)) < 0.5, 0, 255).astype(np.uint8).repeat(3, 2)
    assert flags(ink, replace(FACTS, lr_size=(16, 16), seen={"contrast": 0.1, "clipped": 0.999})) == (
        "blown out: 100 % of it is black or white",
    )
    assert flags(ink, replace(FACTS, lr_size=(16, 16), seen={"contrast": 0.1, "clipped": 1.0})) == ()
