from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.decode import Fit, check_fit, decode, extremes, fit_image, look, to_rgb

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)


def stored(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    with Image.open(path) as again:
        decoded = to_rgb(again)
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "ppm", "webp"])
def test_lossless_formats_keep_rgb(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    np.testing.assert_array_equal(stored(tmp_path / f"a.{suffix}", Image.fromarray(RGB), **options), RGB)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
def test_jpeg_stays_close(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    decoded = stored(tmp_path / f"a.{suffix}", Image.fromarray(flat), quality=95)
    assert np.abs(decoded.astype(int) - flat).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "pgm", "gif"])
def test_greyscale_fills_three_channels(tmp_path: Path, suffix: str) -> None:
    decoded = stored(tmp_path / f"a.{suffix}", Image.fromarray(GREY))
    np.testing.assert_array_equal(decoded, np.repeat(GREY[..., None], 3, axis=2))


def test_one_bit(tmp_path: Path) -> None:
    bits = GREY > 100
    decoded = stored(tmp_path / "a.png", Image.fromarray(bits))
    np.testing.assert_array_equal(decoded[..., 1], bits * 255)


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(48)
    np.testing.assert_array_equal(stored(tmp_path / "a.png", image), np.asarray(image.convert("RGB")))


def test_palette_transparency_goes_over_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 110, 120, 130])
    image.putpixel((1, 0), 1)
    decoded = stored(tmp_path / "a.png", image, transparency=0)
    assert decoded[0].tolist() == [[0, 0, 0], [110, 120, 130]]


def test_alpha_goes_over_black(tmp_path: Path) -> None:
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    decoded = stored(tmp_path / "a.png", Image.fromarray(pixels))
    assert decoded[0, 0].tolist() == [200, 100, 50]
    assert decoded[0, 1].tolist() == [0, 0, 0]
    np.testing.assert_allclose(decoded[0, 2], [100, 50, 25], atol=1)


def test_dark_drawings_go_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:4, :, 3] = 255
    decoded = stored(tmp_path / "a.png", Image.fromarray(pixels))
    assert decoded[2:4].max() == 0
    assert decoded[4:].min() == 255


def test_grey_with_alpha(tmp_path: Path) -> None:
    pixels = np.array([[[200, 255], [200, 0]]], np.uint8)
    decoded = stored(tmp_path / "a.png", Image.fromarray(pixels, "LA"))
    assert decoded[0, :, 0].tolist() == [200, 0]


def test_rgb_with_one_transparent_colour(tmp_path: Path) -> None:
    pixels = np.array([[[9, 8, 7], [101, 102, 103]]], np.uint8)
    decoded = stored(tmp_path / "a.png", Image.fromarray(pixels), transparency=(9, 8, 7))
    assert decoded[0].tolist() == [[0, 0, 0], [101, 102, 103]]


def test_cmyk(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = stored(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))
    assert decoded[0, 0, 0] > 200
    assert decoded[0, 0, 1] < 60


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_the_high_byte(tmp_path: Path, suffix: str) -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(stored(tmp_path / f"a.{suffix}", deep)[..., 0], GREY)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_bits_of_a_sensor_are_those_of_the_largest_value(tmp_path: Path, bits: int) -> None:
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16) << (bits - 8)) + 2 ** (bits - 8) - 1
    decoded = stored(tmp_path / "a.png", Image.fromarray(deep))
    assert decoded[..., 0].ravel().tolist() == list(range(256))


def test_mode_i_keeps_the_high_byte() -> None:
    deep = Image.fromarray(GREY.astype(np.int32) * 257)
    assert deep.mode == "I"
    np.testing.assert_array_equal(np.asarray(to_rgb(deep))[..., 2], GREY)


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no known range"):
        stored(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.float32)))


@pytest.mark.parametrize(
    ("orientation", "upright"), [(3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB))]
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(stored(tmp_path / "a.png", Image.fromarray(RGB), exif=exif), upright)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    decoded = stored(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decoded.max() == 10


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_right_size_is_untouched(fit: str) -> None:
    image = Image.fromarray(RGB[:6, :6])
    assert fit_image(image, 6, fit) is image


def test_crop_equals_resize_then_centre_crop() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    wide = Image.fromarray(noise)
    whole = np.asarray(wide.resize((30, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(fit_image(wide, 20, "crop")), whole[:, 5:25])
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    whole = np.asarray(tall.resize((20, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(fit_image(tall, 20, "crop")), whole[5:25])


def test_crop_of_an_extreme_aspect_stays_small() -> None:
    assert fit_image(Image.new("RGB", (60000, 1)), 224, "crop").size == (224, 224)


def test_squash_takes_everything() -> None:
    image = Image.fromarray(RGB)
    expected = np.asarray(image.resize((4, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(fit_image(image, 4, "squash")), expected)


def test_pad_centres_on_black() -> None:
    padded = np.asarray(fit_image(Image.new("RGB", (40, 20), (90, 90, 90)), 8, "pad"))
    assert padded[:2].max() == padded[6:].max() == 0
    assert (padded[2:6] == 90).all()
    line = np.asarray(fit_image(Image.new("RGB", (100, 1), (90, 90, 90)), 8, "pad"))
    assert (line > 0).any(axis=(1, 2)).sum() == 1


def test_unknown_fit_and_size_are_refused() -> None:
    with pytest.raises(CrossresError, match="did you mean 'crop'"):
        check_fit(8, "cropp")
    with pytest.raises(CrossresError, match="image size is 0"):
        check_fit(0, "crop")


# -- how much there is to see


def test_contrast_and_clipped_share() -> None:
    flat = np.full((4, 4, 3), 128)
    halves = np.zeros((4, 4, 3), dtype=np.int64)
    halves[2:] = 255
    quarter = flat.copy()
    quarter[0] = 255
    contrast, clipped = look(np.stack([flat, halves, quarter]).astype(np.uint8))
    np.testing.assert_allclose(contrast[:2], [0, 0.5])
    np.testing.assert_allclose(clipped, [0, 1, 0.25])


def test_extremes_leave_out_one_in_a_thousand() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(100, 150, (2000, 4, 4, 3), dtype=np.uint8)
    images[7], images[8], images[9] = 128, 255, 0
    bounds = extremes([images[:900], images[900:]])
    contrast, clipped = (np.sort(values) for values in look(images))
    assert bounds == {"contrast": contrast[1], "clipped": clipped[-2]}
    assert (bounds["contrast"], bounds["clipped"]) == (0, 1)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_black_and_white_may_be_given(kind: type[np.generic]) -> None:
    deep = Image.fromarray(np.array([[0, 900, 1000], [1500, 2000, 4000]]).astype(kind))
    assert np.asarray(to_rgb(deep, (1000, 2000)))[..., 1].tolist() == [[0, 0, 0], [128, 255, 255]]


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("sides", [(600, 400), (400, 600)])
def test_a_large_jpeg_is_decoded_small_and_stays_close(tmp_path: Path, fit: Fit, sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    coarse.resize(sides, Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=90)
    with Image.open(tmp_path / "large.jpg") as image:
        expected = np.asarray(fit_image(to_rgb(image), 16, fit))
    with Image.open(tmp_path / "large.jpg") as image:
        pixels = decode(image, 16, fit)
        assert image.size == tuple(side // 8 for side in sides)
    assert np.abs(pixels.astype(int) - expected).mean() < 1.5
    with Image.open(tmp_path / "large.jpg") as image:
        assert decode(image, 100, fit).shape == (100, 100, 3)
        assert image.size == sides
