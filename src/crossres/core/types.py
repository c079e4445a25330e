"""What flows between the rooms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # deploy imports this without torch
    from torch import Tensor

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
#: Positions of images, or what belongs to each: int32 where there may be millions.
Rows = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Complexes = npt.NDArray[np.complex128]
Bools = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Texts = npt.NDArray[np.str_]


@dataclass
class Batch:
    """The same scenes at two resolutions, of the same view (same crop, same flip).

    Attributes:
        hr: high-resolution images, float32 (B, 3, H, W) in 0..1; None where nobody reads them.
        lr: low-resolution images at their native size, float32 (B, 3, h, w) in 0..1.
        label: class of each image, int64 (B,).
        index: stable position of each image in its ImageSet, int64 (B,).
        view: which fixed view the images belong to, int64 (B,): 0 as stored, 1 flipped left to right.
        place: where each point lies in that view, float32 (B, 2, 3), the affine map of ``torch``'s ``affine_grid``
            (from -1, the left or upper border, to 1); None where no image is shifted or zoomed.
        aligned: whether the teacher sees the very image, bool (B,), or another one, whose position ``index`` then is;
            None where it always does.
    """

    hr: Tensor | None
    lr: Tensor
    label: Tensor
    index: Tensor
    view: Tensor
    place: Tensor | None = None
    aligned: Tensor | None = None


@dataclass
class Outputs:
    """What an encoder says of a batch.

    Attributes:
        embedding: (B, d), the input of the classifier.
        logits: (B, classes); None for an encoder without a classifier.
        features: intermediate outputs by module path, as requested.
    """

    embedding: Tensor
    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
