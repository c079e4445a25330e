"""What a camera leaves in small images: numbers of each image that blur, noise, JPEG and colour change."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossres.core.types import Float64s
from crossres.data.jpeg import blocks_of, dct_matrix, to_ycc

#: Smallest side of an image with a spectrum.
SMALLEST = 4
#: Rings of the spectrum, and bands of the frequencies of a JPEG block (sums of row and column, inclusive).
RINGS = 8
BANDS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 14))


def crop_features(images: Tensor) -> Float64s:
    """Return numbers of each image, float64 (B, F), that tell how it came to be rather than what it shows.

    Of luminance and chroma: level and spread, the power spectrum in rings, the differences along diagonals that noise
    raises, and size and share of vanishing DCT coefficients of JPEG's blocks (Fan & de Queiroz 2003 tell from these
    whether an image was compressed).

    Args:
        images: float (B, 3, s, s) in 0..1, s at least `SMALLEST`.
    """
    ycc = to_ycc(images.float() * 255)
    luminance, chroma = ycc[:, 0], ycc[:, 1:]
    parts: list[Tensor] = [
        luminance.mean((1, 2))[:, None] / 64,
        torch.log(luminance.std((1, 2)) + 1)[:, None],
        torch.log(chroma.square().sum(1).mean((1, 2)).sqrt() + 1)[:, None],
        _quantiles(luminance.flatten(1) / 64, (0.02, 0.25, 0.75, 0.98)),
        *_spectrum(ycc),
    ]
    diagonal = (ycc[..., :-1, :-1] - ycc[..., 1:, :-1] - ycc[..., :-1, 1:] + ycc[..., 1:, 1:]).abs() / 2
    parts += [torch.log(_quantiles(diagonal[:, c].flatten(1), (0.25, 0.5, 0.9)) + 0.5) for c in range(3)]
    dct = dct_matrix(str(ycc.device))
    frequency = torch.arange(8)[:, None] + torch.arange(8)
    sizes = (dct @ blocks_of(ycc) @ dct.T).flatten(2, 3).abs()[:, :2]
    for low, high in BANDS:
        band = sizes[..., (frequency >= low) & (frequency <= high)].flatten(2)
        parts += [torch.log(band.mean(-1) + 0.3), (band < 1).float().mean(-1)]
    features: Any = torch.cat(parts, 1).double().cpu().numpy()
    return features  # type: ignore[no-any-return]


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Return what `torch.quantile` does of each row of (B, N), many times faster on a CPU: (B, shares)."""
    ordered = np.sort(values.cpu().numpy(), axis=1)
    place = np.multiply(shares, ordered.shape[1] - 1)
    below = place.astype(int)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    return torch.from_numpy(ordered[:, below] + (ordered[:, above] - ordered[:, below]) * (place - below)).to(values)


def _spectrum(planes: Tensor) -> list[Tensor]:
    """Return the logarithm of the power in each ring of frequencies, of each plane: (B, 3) a ring."""
    side = planes.shape[-1]
    window = torch.hann_window(side, periodic=False, device=planes.device) + 0.1
    centred = planes - planes.mean((2, 3), keepdim=True)
    power = torch.fft.rfft2(centred * window[:, None] * window).abs().square()
    radius = (torch.fft.fftfreq(side)[:, None].square() + torch.fft.rfftfreq(side).square()).sqrt()
    ring = (radius / (0.5 * 2**0.5) * RINGS).ceil().clamp(max=RINGS)
    members = [ring == number for number in range(1, RINGS + 1)]
    return [torch.log(power[..., member].mean(-1) + 1) for member in members if member.any()]
