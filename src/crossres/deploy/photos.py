"""Photos from anywhere, some of them hostile: to 8-bit RGB within bounds, and the gate before the network."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crossres.core.errors import CrossresError, demand_file
from crossres.core.types import Pixels
from crossres.data.decode import FORMATS, Limits, fit_image, look, reason, to_rgb
from crossres.data.folder import IMAGE_SUFFIXES, files_below, folders_in, is_own
from crossres.data.splits import SPLIT_WORDS
from crossres.deploy.gallery_file import is_name
from crossres.evaluation.facts import Facts

#: What a photo may be given as.
Source = str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | npt.NDArray[Any]

#: Pixels of the largest image that is decoded; its header says them before.
MAX_PIXELS = 50_000_000
#: Bytes of the largest file that is read.
MAX_BYTES = 100 * 2**20
#: A photo of less contrast (standard deviation, 0..1) is flat, one of which a larger share is black or white is blown
#: out, where the training images' own are not known.
FLAT, BLOWN = 0.02, 0.9
#: How the flag of a photo that is smaller than those of the training begins.
TOO_SMALL = "too small: "
#: A larger photo is first reduced by whole numbers, to no less than this many times what the network gets.
FINER = 8


def read_photo(source: Source, name: str = "", limits: Limits = None) -> Pixels:
    """Return a photo as uint8 (H, W, 3) RGB; errors call it by its name, or its path.

    It may be a path, an open file or its bytes, a Pillow image, or pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
    Of pixels of more than 8 bits ``limits`` are the values of black and white.
    CrossresError: not an image, a damaged one, more than `MAX_PIXELS` pixels, or another type.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "image")
    if isinstance(source, np.ndarray):
        return _of_array(source, name)
    try:
        if isinstance(source, Image.Image):
            return _decoded(source.copy(), name, limits)
        with Image.open(_stream(source, name), formats=FORMATS) as image:
            return _decoded(image, name, limits)
    except CrossresError:
        raise
    except Image.DecompressionBombError:
        raise CrossresError(f"{name}: more than {MAX_PIXELS // 10**6} million pixels; crop or shrink it") from None
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise CrossresError(f"{name}: {reason(error)}") from None


def _stream(source: Any, name: str) -> io.BytesIO:
    if isinstance(source, (str, Path)):
        if (path := Path(source)).is_dir():
            raise no_image(path)
        demand_file(path)
        try:
            with path.open("rb") as file:
                source = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise CrossresError(f"{name}: {error.strerror}") from None
    elif callable(getattr(source, "read", None)):
        source = source.read(MAX_BYTES + 1)
    if not isinstance(source, (bytes, bytearray, memoryview)):
        kind = "open as text" if isinstance(source, str) else type(source).__name__
        raise CrossresError(f"{name} is {kind}; give a path, an open file or its bytes, a Pillow image or an array")
    if memoryview(source).nbytes > MAX_BYTES:
        raise CrossresError(f"{name}: the file is larger than {MAX_BYTES // 2**20} MB; shrink the image")
    return io.BytesIO(source)


def _decoded(image: Image.Image, name: str, limits: Limits) -> Pixels:
    width, height = image.size
    if width * height > MAX_PIXELS:
        pixels = f"{width}x{height} pixels are more than {MAX_PIXELS // 10**6} million"
        raise CrossresError(f"{name}: {pixels}; crop or shrink it")
    return np.asarray(to_rgb(image, limits))


def _of_array(pixels: npt.NDArray[Any], name: str) -> Pixels:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        expected = "uint8 (H, W), (H, W, 3) or (H, W, 4) in 0..255"
        raise CrossresError(f"{name} is {pixels.dtype} {pixels.shape}; give {expected}")
    if 0 in pixels.shape or pixels.size > 4 * MAX_PIXELS:
        raise CrossresError(f"{name}: the image is empty or too large ({pixels.shape[1]}x{pixels.shape[0]} pixels)")
    return np.asarray(to_rgb(Image.fromarray(pixels)))


def reduced(pixels: Pixels, facts: Facts) -> Pixels:
    """Return a photo, a large one reduced by a whole number: still much finer than what the network gets."""
    factor = min(pixels.shape[:2]) // (FINER * max(facts.side, facts.hr_size))
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def fitted(pixels: Pixels, side: int, facts: Facts) -> Pixels:
    """Return a photo, uint8 (side, side, 3), as the model's preprocessing brings it to a side."""
    return np.asarray(fit_image(Image.fromarray(pixels), side, facts.fit, facts.kernel, reducing_gap=None))


def flags(pixels: Pixels, facts: Facts) -> tuple[str, ...]:
    """Return the reasons why an answer to a photo, uint8 (H, W, 3), is not to be trusted; none for a sound photo.

    Too small is one whose shorter side (the longer one where it is padded) is below what the network was trained at.
    Flat and blown out are judged at the network's own size, against the training images' extremes.
    """
    height, width = pixels.shape[:2]
    reasons = []
    if facts.side_of(pixels) < facts.lr_size[0]:
        side = facts.lr_size[0]
        reasons.append(f"{TOO_SMALL}{width}x{height} pixels, trained on {side}x{side} or larger")
    # about what the network sees; a padded photo's margins are left out
    seen = fit_image(Image.fromarray(pixels), facts.side, "crop" if facts.fit == "crop" else "squash")
    contrast, clipped = (float(value[0]) for value in look(np.asarray(seen)[None]))
    # half of the contrast that hardly any training image fell below, and half-way from their clipped share to all
    flat = facts.seen["contrast"] / 2 if "contrast" in facts.seen else FLAT
    blown = (1 + facts.seen["clipped"]) / 2 if "clipped" in facts.seen else BLOWN
    if contrast < flat:
        reasons.append(f"flat: contrast {contrast:.3f}, at least {flat:.3f} expected")
    if clipped > blown:
        reasons.append(f"blown out: {100 * clipped:.0f} % of it is black or white")
    return tuple(reasons)


def named(images: Source | Iterable[Source]) -> Iterator[tuple[str, Source]]:
    """Yield every photo with its name: one photo, several, or the image files of a folder and below it, by name.

    A folder without any image among several sources is itself yielded: `read_photo` says what is wrong with it. A
    single one is a CrossresError.
    """
    # of an array, (N, H, W, 3) are several; a file would else be its lines, and what cannot be counted is one, too
    one = isinstance(images, (str, Path, bytes, bytearray, memoryview, Image.Image)) or hasattr(images, "read")
    single = one or not hasattr(images, "__iter__") or getattr(images, "ndim", 4) < 4
    sources: Iterable[Any] = [images] if single else images  # type: ignore[assignment]
    for number, source in enumerate(sources):
        is_path = isinstance(source, (str, Path))
        folder = Path(source) if is_path and Path(source).is_dir() else None
        photos = photos_below(folder) if folder else []
        if single and folder and not photos:
            raise no_image(folder)
        yield from ((str(path), path) for path in photos)
        if not photos:
            yield str(source) if is_path else f"image {number}", source


def photos_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and below it, in the order of their names; hidden ones are left out."""
    return [path for path in files_below(folder)[0] if path.is_file()]


def no_image(folder: Path) -> CrossresError:
    """Return the error of a folder without images."""
    return CrossresError(f"{folder}: no image in it ({', '.join(IMAGE_SUFFIXES)})")


def people_in(folder: Path, *, flat: bool = False) -> list[tuple[str, Path]]:
    """Return the photos of a folder, each with the name of its identity: the name of the folder it lies in.

    Without such folders, or if flat, it is the photo's own without the ending. CrossresError: no folder, no image,
    images beside folders, or a name that cannot be one.
    """
    if not folder.is_dir():
        raise CrossresError(f"{folder}: not a folder")
    inside = sorted(entry for entry in folder.iterdir() if is_own(entry.name))
    if splits := [entry.name for entry in inside if entry.name.lower() in SPLIT_WORDS and folders_in(entry)]:
        raise CrossresError(f"{folder} holds the split {splits[0]}; enroll people from {folder / splits[0]}")
    loose = [(entry.stem, entry) for entry in inside if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES]
    below = [(entry.name, photo) for entry in inside if entry.is_dir() for photo in photos_below(entry)]
    if loose and below and not flat:
        remedy = "move them into folders, or give --flat to use only them"
        raise CrossresError(f"{folder}: {len(loose)} images lie beside its folders; {remedy}")
    people = loose if flat or not below else below
    if not people:
        raise no_image(folder)
    for name, photo in people:
        if not is_name(name):
            raise CrossresError(f"{str(photo)!a}: {name!a:.80} cannot name an identity; rename it")
    return people
