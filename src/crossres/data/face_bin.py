"""insightface's .bin: encoded images and pairs in a pickle, read without running anything in it."""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from crossres.core.errors import CrossresError
from crossres.data.faces import UNNAMED, Pairs, opening
from crossres.data.images import ImageSet
from crossres.data.items import EncodedItems


class _Kind:
    """Stands in for numpy's dtype: bytes and booleans only, so that no pickle can make numpy follow a pointer."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name  # as Python 2 wrote it
        if name not in ("u1", "|u1", "b1", "|b1", "?"):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and flags: of single bytes there are none."""


class _Array(bytearray):
    """Stands in for numpy's ndarray: its bytes in one row."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, raw = state
        self[:] = _raw(kind, raw)


def _raw(kind: object, raw: object) -> bytes:
    """Return the bytes of an array; UnpicklingError if it has none."""
    if not isinstance(kind, _Kind) or not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("it holds an array of an unknown kind or without bytes")
    return bytes(raw)


class _Plain(pickle.Unpickler):
    """Reads lists, bytes, numbers and arrays of bytes; anything else that a pickle names is refused, not run."""

    OWN: ClassVar[dict[str, Any]] = {
        "numpy.ndarray": _Array,
        "numpy.dtype": _Kind,
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.core.multiarray.scalar": lambda kind, raw: _raw(kind, raw)[0],
        "numpy.core.numeric._frombuffer": lambda raw, kind, *_: _raw(kind, raw),
        "_codecs.encode": lambda text, *_: text.encode("latin1"),  # how protocol 2 writes bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"
        if name not in self.OWN:
            raise pickle.UnpicklingError(f"it refers to {name}, which is never run")
        return self.OWN[name]


def read_bin(path: str | Path) -> tuple[ImageSet, Pairs]:
    """Read insightface's ``.bin``: encoded images, two a pair, and whether each pair is genuine; ten folds in order.

    The file is a pickle. Only lists, bytes, booleans and arrays are read; a file that names anything else is refused
    before it can run.

    Raises:
        CrossresError: no such file, no such pickle, or counts that do not fit.
    """
    path = Path(path)
    with opening(path, "a .bin of insightface"), path.open("rb") as file:
        pictures, same = _Plain(file, encoding="bytes").load()
        for picture in pictures:  # a few bytes of nested lists may stand for gigabytes
            if not isinstance(picture, (bytes, bytearray)):
                raise pickle.UnpicklingError(f"it holds an image as {type(picture).__name__}, not as bytes")
        pictures, truth = [bytes(picture) for picture in pictures], np.asarray([bool(one) for one in same])
    if len(pictures) != 2 * len(truth) or not len(truth):
        raise CrossresError(f"{path}: {len(pictures)} images for {len(truth)} pairs, expected two for each")
    labels = np.zeros(len(pictures), dtype=np.int64)
    images = ImageSet(EncodedItems(pictures, path.name), labels, [UNNAMED], path.stem, whole=True)
    left = np.arange(len(truth), dtype=np.int64) * 2
    fold = np.arange(len(truth), dtype=np.int64) * min(10, len(truth)) // len(truth)
    return images, Pairs(left, left + 1, truth, fold)
