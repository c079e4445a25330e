"""Photos from anywhere, some of them hostile: to 8-bit RGB within bounds, and the gate before the network."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.decode import FORMATS, Fit, fit_image, reason, to_rgb
from crossres.data.look import look
from crossres.deploy.facts import Facts

Pixels = npt.NDArray[np.uint8]
#: What a photo may be given as.
Source = str | Path | bytes | Image.Image | npt.NDArray[Any]

#: Pixels of the largest image that is decoded; its header says them before.
MOST_PIXELS = 50_000_000
#: Bytes of the largest file that is read.
MOST_BYTES = 100 * 2**20
#: A larger photo is first reduced by whole numbers, to no less than this many times what the network gets.
FINER = 8
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def read_photo(source: Source, name: str = "image") -> Pixels:
    """Return a photo as uint8 (H, W, 3) RGB.

    Args:
        source: a path, the bytes of a file, a Pillow image, or pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
        name: what errors call it where it is no path.

    Raises:
        CrossresError: no image, a damaged or animated one, one of more than `MOST_PIXELS` pixels or of another type.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source, name)
    if isinstance(source, (str, Path)):
        name = str(source)
    try:
        if isinstance(source, Image.Image):
            return _decoded(source.copy(), name)
        with Image.open(_stream(source, name), formats=FORMATS) as image:
            return _decoded(image, name)
    except CrossresError:
        raise
    except Image.DecompressionBombError:
        raise CrossresError(f"{name}: more than {MOST_PIXELS // 10**6} million pixels; crop or shrink it") from None
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise CrossresError(f"{name}: {reason(error)}") from None


def _stream(source: Any, name: str) -> io.BytesIO:
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            raise CrossresError(f"{name}: there is no image in it ({', '.join(ENDINGS)})")
        try:
            if path.stat().st_size > MOST_BYTES:
                raise CrossresError(f"{name}: a file of more than {MOST_BYTES // 2**20} MB is not read")
            return io.BytesIO(path.read_bytes())
        except OSError as error:
            raise CrossresError(f"{name}: {error.strerror}") from None
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MOST_BYTES:
            raise CrossresError(f"{name}: more than {MOST_BYTES // 2**20} MB are not read")
        return io.BytesIO(source)
    raise CrossresError(
        f"{name} is {type(source).__name__}; give a path, the bytes of a file, a Pillow image or an array"
    )


def _decoded(image: Image.Image, name: str) -> Pixels:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise CrossresError(
            f"{name}: {width}x{height} pixels are more than {MOST_PIXELS // 10**6} million; crop or shrink it"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise CrossresError(f"{name}: holds {image.n_frames} frames; give one of them as an image")  # type: ignore[attr-defined]
    return np.asarray(to_rgb(image))


def _of_array(pixels: npt.NDArray[Any], name: str) -> Pixels:
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise CrossresError(
            f"{name} is {pixels.dtype} {pixels.shape}; give uint8 (H, W), (H, W, 3) or (H, W, 4) in 0..255"
        )
    if 0 in pixels.shape or pixels.size > 4 * MOST_PIXELS:
        raise CrossresError(f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels are none or too many")
    return np.asarray(to_rgb(Image.fromarray(pixels)))


def reduced(pixels: Pixels, facts: Facts) -> Pixels:
    """Return a photo, a large one reduced by a whole number: still much finer than what the network gets."""
    factor = min(pixels.shape[:2]) // (FINER * max(facts.side, facts.hr_size))
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def flags(pixels: Pixels, facts: Facts) -> tuple[str, ...]:
    """Say why an answer to this photo is not to be trusted; nothing where there is no reason.

    Too small is one whose shorter side (the longer one where it is padded) is below what the network was trained at.
    Flat and blown-out ones are told at the network's own size, beside the training images' extremes.

    Args:
        pixels: uint8 (H, W, 3).
        facts: of the network.
    """
    height, width = pixels.shape[:2]
    side = max(height, width) if facts.fit == "pad" else min(height, width)
    found = []
    if side < facts.lr_size[0]:
        found.append(f"too small: {width}x{height} pixels, trained from {facts.lr_size[0]}x{facts.lr_size[0]}")
    contrast, clipped = (float(value[0]) for value in look(as_seen(pixels, facts)[None]))
    if contrast < facts.flat:
        found.append(f"flat: contrast {contrast:.3f}, at least {facts.flat:.3f} expected")
    if clipped > facts.blown:
        found.append(f"blown out: {100 * clipped:.0f} % of it is black or white")
    return tuple(found)


def as_seen(pixels: Pixels, facts: Facts) -> Pixels:
    """Return about what the network sees of a photo, uint8 (s, s, 3); a padded photo's margins are left out."""
    fit: Fit = "crop" if facts.fit == "crop" else "squash"
    return np.asarray(fit_image(Image.fromarray(pixels), facts.side, fit))


def named(images: Source | Iterable[Source]) -> Iterator[tuple[str, Source]]:
    """Yield every photo with its name: one photo, several, or the image files of a folder and below it, by name.

    A folder without any image among several sources is itself yielded: `read_photo` says what is wrong with it.

    Raises:
        CrossresError: a single folder without any image.
    """
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        found = photos_below(Path(images))
        if not found:
            raise CrossresError(f"{images}: there is no image in it ({', '.join(ENDINGS)})")
        yield from ((str(path), path) for path in found)
        return
    single = isinstance(images, (str, Path, bytes, bytearray, Image.Image))
    if isinstance(images, np.ndarray):
        # (N, H, W, 3) are several
        single = images.ndim < 4
    given: Iterable[Any] = [images] if single else images  # type: ignore[assignment]
    for number, source in enumerate(given):
        if isinstance(source, (str, Path)) and Path(source).is_dir() and photos_below(Path(source)):
            yield from named(source)
        else:
            yield (str(source) if isinstance(source, (str, Path)) else f"image {number}"), source


def photos_below(folder: Path) -> Sequence[Path]:
    """Return the image files in a folder and below it, in the order of their names; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
