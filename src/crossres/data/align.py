"""Alignment: the face in a photo, found by OpenCV's YuNet, turned and cropped as face models expect it."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crossres.core.errors import CrossresError, demand_file, library_errors, needs
from crossres.core.types import Complexes, Pixels
from crossres.data.images import ImageSet

#: Side in pixels of the template, and where it has eyes, nose and corners of the mouth, the picture's left ones first
#: (x + iy, from the middle of the first pixel). Source: Deng et al., ArcFace (2019), insightface's ``face_align.py``.
SIDE = 112
TEMPLATE = np.array(
    [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]
)
#: A larger photo is shrunk to this side before the detector sees it: it is made for faces of 10 to 300 pixels.
SEEN = 640
#: Least score of a detected face.
SCORE = 0.6


def similarity(points: npt.ArrayLike, onto: npt.ArrayLike) -> tuple[complex, complex]:
    """Return a and b of the similarity a*z + b that brings points z, complex (N,), nearest to some in least squares.

    Source: Umeyama (1991), without reflection; of complex numbers it is a linear regression.
    """
    z, w = np.asarray(points, complex), np.asarray(onto, complex)
    centred = z - z.mean()
    a = complex((centred.conj() * (w - w.mean())).sum() / (np.abs(centred) ** 2).sum())
    return a, complex(w.mean() - a * z.mean())


class Aligner:
    """Aligns the largest face of a photo by five points.

    Args:
        path: of YuNet as an ONNX file (``face_detection_yunet_*.onnx`` of OpenCV's model zoo).

    Raises:
        CrossresError: no such file, one that OpenCV cannot read, or OpenCV is missing.
    """

    def __init__(self, path: str | Path) -> None:
        with needs("alignment", "align"):
            import cv2
        demand_file(path)
        if not Path(path).is_file():
            raise CrossresError(f"there is no file {path}; give YuNet as an ONNX file")
        self.path = path
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # not what it cannot use
        with library_errors(f"{path}: not YuNet as an ONNX file"):
            self._detector: Any = cv2.FaceDetectorYN.create(str(path), "", (SEEN, SEEN), SCORE)
        self.points(np.zeros((SEEN, SEEN, 3), np.uint8))

    def points(self, photo: Pixels) -> Complexes | None:
        """Return the five points (5,) of the largest face of a photo, uint8 (H, W, 3) RGB; None where there is none.

        They are x + iy in pixels, in the order of `TEMPLATE`.
        """
        height, width = photo.shape[:2]
        scale = min(1.0, SEEN / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        seen = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
        with library_errors(f"{self.path}: not YuNet as an ONNX file"):
            self._detector.setInputSize(size)
            faces = self._detector.detect(np.ascontiguousarray(seen[:, :, ::-1]))[1]
        if faces is None:
            return None
        largest = faces[np.argmax(faces[:, 2] * faces[:, 3])]
        x, y = largest[4:14].reshape(5, 2).astype(float).T
        points: Complexes = (x + 0.5) * width / size[0] - 0.5 + 1j * ((y + 0.5) * height / size[1] - 0.5)
        return points

    def __call__(self, photo: Pixels) -> Pixels | None:
        """Return the largest face of a photo, uint8 (H, W, 3), as `cropped` gives it; None where there is none."""
        points = self.points(photo)
        return None if points is None else cropped(photo, points)


def cropped(photo: Pixels, points: Complexes) -> Pixels:
    """Return the face at five points (5,) of a photo, uint8 (H, W, 3), turned as `TEMPLATE` has it: uint8 (s, s, 3).

    Its side s is `SIDE`, of a smaller face less: nothing is enlarged.
    """
    pixels = 1 / abs(similarity(points, TEMPLATE)[0])  # of the photo, to one of the template
    side = max(1, min(SIDE, round(SIDE * pixels)))
    factor = max(1, int(pixels * SIDE / side))
    middle = 0.5 + 0.5j  # Pillow counts from the corner
    a, b = similarity((points + middle) / factor, (TEMPLATE + middle) * side / SIDE)
    a, b = 1 / a, -b / a  # where each pixel comes from
    coefficients = (a.real, -a.imag, b.real, a.imag, a.real, b.imag)
    image = Image.fromarray(photo).reduce(factor)  # or a few of many pixels would be sampled
    how: dict[str, Any] = {"resample": Image.Resampling.BICUBIC}
    return np.asarray(image.transform((side, side), Image.Transform.AFFINE, coefficients, **how))


@dataclass(eq=False, repr=False)
class AlignedItems:
    """The pictures of a set, turned and cropped to the points of their faces; one without points stays as it is."""

    images: ImageSet
    points: list[Complexes | None]

    def __len__(self) -> int:
        return len(self.images)

    def open(self, row: int) -> Image.Image:
        photo, points = self.images.image(row), self.points[row]
        return Image.fromarray(photo if points is None else cropped(photo, points))

    def path(self, row: int) -> str:
        return self.images.path(row)

    def where(self, row: int) -> str:
        return self.images.where(row)

    def digest(self, row: int) -> bytes:
        return sha256(self.open(row).tobytes()).digest()


def aligned(images: ImageSet, aligner: Aligner, rows: Iterable[int]) -> tuple[ImageSet, list[int]]:
    """Return the set with the faces of some images aligned, and those of these in which no face was detected."""
    points: list[Complexes | None] = [None] * len(images)
    missed = []
    for row in rows:
        points[row] = aligner.points(images.image(row))
        if points[row] is None:
            missed.append(row)
    both = ImageSet(AlignedItems(images, points), images.labels, images.classes, images.name, whole=images.whole)
    both.skipped, both.ignored = images.skipped, images.ignored
    return both, missed
