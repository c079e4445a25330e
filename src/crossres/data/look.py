"""How much there is to see in an image: what a gate compares with the training images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

#: Grey values, 0..1, that count as black and as white.
BLACK, WHITE = 0.02, 0.98


def look(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each image's contrast (standard deviation of its grey values, 0..1) and its share of black and white.

    Args:
        images: uint8 (N, h, w, 3).
    """
    grey = images.astype(np.float64).mean(-1).reshape(len(images), -1) / 255
    return grey.std(1), ((grey <= BLACK) | (grey >= WHITE)).mean(1)


def extremes(batches: Iterable[npt.NDArray[np.uint8]]) -> dict[str, float]:
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
