"""From a stored picture to square 8-bit RGB, and how much there is to see in it.

EXIF orientation is applied; greyscale and palettes are expanded; transparency is laid over black (as padding is),
or over white where what is drawn is dark itself; of pixels of more than 8 bits the highest 8 are kept that the
picture's largest value takes, counted in 8, 10, 12, 14 or 16 bits, unless the values of black and white are given;
of an animation the first frame counts. Floating-point pixels without these values are refused.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from crossres.core.errors import CrossresError, nearest, one_line
from crossres.core.types import Float64s, Pixels
from crossres.data.degradation import Kernel

Fit = Literal["crop", "squash", "pad"]

#: The decoders that may run on a user's bytes: the raster formats the readers look for, and no others.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
#: Pillow refuses a PNG with more text than this, as of editors and image generators, whose pixels are sound.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
#: Bits that sensors count in, and the mean grey, 0..255, below which what is drawn on transparency is dark.
DEPTHS, DARK = (8, 10, 12, 14, 16), 64
#: Values that an image's lie within where there is nothing to see, of 256.
FLAT = 5
#: How much finer than it needs a large photo is left by the cheap steps before the last.
FINER = 3
#: Grey values, 0..1, that count as black and as white.
BLACK, WHITE = 0.02, 0.98


#: Values of black and white in pixels of more than 8 bits.
Limits = tuple[float, float] | list[float] | None


def check_limits(limits: Limits) -> None:
    """Raise CrossresError unless black is below white, both within a billion."""
    if limits and not -1e9 <= limits[0] < limits[1] <= 1e9:
        raise CrossresError(f"images.range is {limits[0]:g}, {limits[1]:g}; black should be below white, within 1e9")


def to_rgb(image: Image.Image, limits: Limits = None) -> Image.Image:
    """Decode to mode RGB, by the rules at the top of this file.

    Raises ValueError where the pixels are floating-point without ``limits``, OSError where the bytes are damaged or
    truncated.
    """
    if limits and any("RGB;16" in str(tile) for tile in getattr(image, "tile", ())):
        raise ValueError("colours of 16 bits are read by their highest 8; leave images.range out, or store them grey")
    ImageOps.exif_transpose(image, in_place=True)
    image.load()
    if limits and (image.mode == "F" or image.mode.startswith("I")):
        low, high = limits
        grey = np.nan_to_num((np.asarray(image).astype(np.float64) - low) / (high - low)).clip(0, 1)
        return Image.fromarray((255 * grey).round().astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits; mode I is how Pillow also opens 16-bit PNG and PGM
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        bits = next(bits for bits in DEPTHS if values.max(initial=0) < 2**bits)
        return Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; give images.range, or store 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        grey, cover = (np.asarray(clear.convert(band) if band == "L" else clear.getchannel(band)) for band in "LA")
        drawn = float((grey.astype(np.float64) * cover).sum() / max(1.0, cover.sum(dtype=np.float64)))
        ground = Image.new("RGBA", clear.size, "white" if drawn < DARK else "black")
        return Image.alpha_composite(ground, clear).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def fit_image(
    image: Image.Image, size: int, fit: Fit, kernel: Kernel = "bicubic", *, reducing_gap: float | None = FINER
) -> Image.Image:
    """Bring an RGB image to ``size`` x ``size`` pixels; see `ImageSet.pixels`.

    It is shrunk by the ``kernel`` and enlarged by bicubic interpolation. With ``reducing_gap`` a large photo is first
    halved cheaply, but left this many times finer than the result needs; None resamples it in one exact step.
    """
    width, height = image.size
    if width == height == size:
        return image
    decisive = (max if fit == "pad" else min)(width, height)
    used = kernel if decisive > size else "bicubic"
    resample = Image.Resampling["BOX" if used == "area" else used.upper()]
    if fit == "pad":
        scale = size / decisive
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = Image.new("RGB", (size, size))
        resized = image.resize(inner, resample, reducing_gap=reducing_gap)
        canvas.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return canvas
    # The box resizes the centre alone: the pixels of resize-then-crop, without the long strip
    # that an extreme aspect would need in between.
    left, top = (width - decisive) / 2, (height - decisive) / 2
    box = (left, top, left + decisive, top + decisive) if fit == "crop" else None
    return image.resize((size, size), resample, box=box, reducing_gap=reducing_gap)


def decode(image: Image.Image, size: int, fit: Fit, limits: Limits = None) -> Pixels:
    """Return an image that is open, not decoded yet, as uint8 (size, size, 3); see `to_rgb` and `fit_image`.

    Of a large JPEG the decoder itself makes a half, a quarter or an eighth, by its discrete cosine transform: still
    `FINER` times finer than the result needs.
    """
    image.draft(None, (FINER * size, FINER * size))
    return np.asarray(fit_image(to_rgb(image, limits), size, fit))


def check_fit(size: int, fit: str) -> None:
    """Raise CrossresError unless ``size`` is positive and ``fit`` is a known word."""
    if size < 1:
        raise CrossresError(f"the image size is {size}; it should be 1 pixel or more")
    if fit not in get_args(Fit):
        raise CrossresError(f"unknown fit '{fit}'{nearest(fit, get_args(Fit))}")


def reason(error: Exception) -> str:
    """Return in one line why an image could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image, or not of a known format ({', '.join(FORMATS).lower()})"
    return one_line(error)


def look(images: Pixels) -> tuple[Float64s, Float64s]:
    """Return each image's contrast (standard deviation of its grey values, 0..1) and its share of black and white.

    Args:
        images: uint8 (N, h, w, 3).
    """
    grey = images.astype(np.float64).mean(-1).reshape(len(images), -1) / 255
    return grey.std(1), ((grey <= BLACK) | (grey >= WHITE)).mean(1)


def extremes(batches: Iterable[Pixels]) -> dict[str, float]:
    """Return the ``contrast`` that one in a thousand images falls below and the ``clipped`` share one exceeds.

    Args:
        batches: uint8 (N, h, w, 3) each.
    """
    seen = [look(images) for images in batches]
    contrast, clipped = (np.concatenate(values) for values in zip(*seen, strict=True))
    return {
        "contrast": float(np.quantile(contrast, 0.001, method="lower")),
        "clipped": float(np.quantile(clipped, 0.999, method="higher")),
    }
