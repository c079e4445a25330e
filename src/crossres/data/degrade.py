"""High resolution to low resolution: batched, on the images' device, from declared parameters.

Blur, antialiased downsampling and enlarging are linear and separable, so each is a small matrix per axis and
their product is applied in two matrix products, however many samples have a size or a blur of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from crossres.data.degradation import Degradation, Kernel, Range, Size, check_size


@dataclass
class Draws:
    """What is random in a degradation, drawn per sample: CPU or device tensors of shape (B,).

    The noise itself is drawn when it is added, from ``noise_seed``, for a whole batch of ``noise_rows[1]``
    samples of which these begin at ``noise_rows[0]``; None: these are the whole batch.
    """

    size: Tensor
    blur: Tensor
    noise: Tensor
    quality: Tensor
    noise_seed: int = 0
    noise_rows: tuple[int, int] | None = None

    def part(self, batch: slice, share: slice) -> Draws:
        """Return the draws of a batch's samples, or of one process's share of them (rows of all the draws)."""
        return Draws(
            self.size[share],
            self.blur[share],
            self.noise[share],
            self.quality[share],
            self.noise_seed + batch.start,
            (share.start - batch.start, batch.stop - batch.start),
        )

    def to(self, device: torch.device) -> Draws:
        """Return the draws on a device."""
        size, blur, noise, quality = (
            t.to(device, non_blocking=True) for t in (self.size, self.blur, self.noise, self.quality)
        )
        return Draws(size, blur, noise, quality, self.noise_seed, self.noise_rows)


def draw(n: int, size: Size, degradation: Degradation, generator: torch.Generator | None = None) -> Draws:
    """Draw the random part of a degradation for ``n`` samples, on the CPU."""
    low, high = check_size(size)
    ranges = degradation.resolved()

    def uniform(limits: Range | None) -> Tensor:
        start, end = limits or (0.0, 0.0)
        if start == end:
            return torch.full((n,), start)
        return torch.empty(n).uniform_(start, end, generator=generator)

    if low == high:
        sizes = torch.full((n,), high)
    else:
        sizes = torch.randint(low, high + 1, (n,), generator=generator)
    noisy = ranges.noise is not None and ranges.noise[1] > 0
    seed = int(torch.randint(2**62, (1,), generator=generator)) if noisy else 0
    return Draws(sizes, uniform(ranges.blur), uniform(ranges.noise), uniform(ranges.jpeg), seed)


def degrade(
    hr: Tensor,
    size: Size,
    degradation: Degradation | None = None,
    generator: torch.Generator | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Degrade high-resolution images to low resolution.

    Args:
        hr: float (B, C, H, W) in 0..1; H and W may differ.
        size: side of the LR image in pixels, or a range (low, high): then each sample is degraded at a size of
            its own, noise, JPEG and rounding included, and enlarged to ``high`` as an `Encoder` enlarges it
            (bicubic), so that the batch keeps one shape.
        degradation: the parameters; bicubic downsampling where left out.
        generator: CPU generator of the random part.
        draws: the random part, where it is drawn already (``generator`` is then unused).

    Returns:
        float32 (B, C, high, high) in 0..1, rounded to 8 bits at its own size as an image file holds it.

    Raises:
        CrossresError: a size that is 0, an empty range or larger than the image.
    """
    degradation = degradation or Degradation()
    height, width = hr.shape[-2:]
    low, high = check_size(size, min(height, width))
    ranges = degradation.resolved()
    if draws is None:
        draws = draw(len(hr), size, degradation, generator)
    draws = draws.to(hr.device)
    images = hr.float()
    if (low, ranges.blur) == (high, (0.0, 0.0)):
        rows = resize_matrix(height, high, degradation.kernel, hr.device)
        columns = resize_matrix(width, high, degradation.kernel, hr.device)
        lr = _resampled(images, rows, columns)
    else:
        rows = _shrinking_matrices(height, low, high, degradation.kernel, draws)
        columns = rows if width == height else _shrinking_matrices(width, low, high, degradation.kernel, draws)
        lr = rows[:, None] @ images @ columns[:, None].transpose(-1, -2)
    if ranges.noise != (0.0, 0.0):
        noise_generator = torch.Generator(hr.device).manual_seed(draws.noise_seed)
        first, of = draws.noise_rows or (0, len(lr))
        noise = torch.randn((of, *lr.shape[1:]), device=hr.device, generator=noise_generator)
        lr = lr + noise[first : first + len(lr)] * draws.noise[:, None, None, None]
    lr = lr.clamp_(0, 1)
    if ranges.jpeg != (0.0, 0.0):
        lr = jpeg(lr if low == high else _edges_repeated(lr, draws.size), draws.quality)
    lr = lr.mul_(255).round_().div_(255)
    return lr if low == high else _enlarged(lr, low, draws.size)


def _resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix to every column and one to every row of (B, C, H, W)."""
    return F.linear(F.linear(images, columns).transpose(-1, -2), rows).transpose(-1, -2).contiguous()


def resize_matrix(n_in: int, n_out: int, kernel: Kernel, device: torch.device | None = None) -> Tensor:
    """Return the (n_out, n_in) matrix that resamples one axis as Pillow's antialiased ``Image.resize`` does.

    The kernel is widened by the shrinking factor and sampled at the centres of the input pixels; rows sum
    to 1. Bicubic has a = -0.5 (Keys 1981), lanczos has three lobes, area is Pillow's box.
    """
    return _resize_matrix(n_in, n_out, kernel, str(device or "cpu"))


@lru_cache(maxsize=256)
def _resize_matrix(n_in: int, n_out: int, kernel: Kernel, device: str) -> Tensor:
    scale = n_in / n_out
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * scale
    if kernel == "nearest":
        # Pillow adds up the scale, which settles the ties between two pixels
        steps = torch.full((n_out,), scale, dtype=torch.float64)
        steps[0] = 0.5 * scale
        return F.one_hot(steps.cumsum(0).long().clamp_(max=n_in - 1), n_in).float().to(device)
    support = {"area": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}[kernel]
    widen = max(scale, 1.0)
    pixel = torch.arange(n_in, dtype=torch.float64)
    first = (centre - support * widen + 0.5).floor().clamp_(min=0)
    last = (centre + support * widen + 0.5).floor().clamp_(max=n_in)
    inside = (pixel >= first[:, None]) & (pixel < last[:, None])
    weight = _kernel((pixel + 0.5 - centre[:, None]) / widen, kernel) * inside
    return (weight / weight.sum(1, keepdim=True)).float().to(device)


def _kernel(x: Tensor, kernel: Kernel) -> Tensor:
    distance = x.abs()
    if kernel == "area":
        return ((x > -0.5) & (x <= 0.5)).double()
    if kernel == "bilinear":
        return (1 - distance).clamp(min=0)
    if kernel == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return torch.where(distance < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


def _shrinking_matrices(n_in: int, low: int, high: int, kernel: Kernel, draws: Draws) -> Tensor:
    """Return (B, high, n_in): per sample blur, then shrink to its size, in the first rows; the others are 0."""
    device = draws.size.device
    sizes = range(low, high + 1)
    table = [F.pad(resize_matrix(n_in, size, kernel, device), (0, 0, 0, high - size)) for size in sizes]
    matrices = torch.stack(table)[draws.size - low]
    # sigma is in LR pixels; a vanishing sigma leaves the identity
    sigma = (draws.blur * n_in / draws.size).clamp(min=1e-3)[:, None, None]
    pixel = torch.arange(n_in, device=device)
    gauss = torch.exp(-((pixel[:, None] - pixel).square()) / (2 * sigma.square()))
    return matrices @ (gauss / gauss.sum(-1, keepdim=True))


def _edges_repeated(images: Tensor, size: Tensor) -> Tensor:
    """Fill (B, C, s, s) beyond each sample's own size with its last row and column, as JPEG fills its blocks."""
    nearest = torch.arange(images.shape[-1], device=images.device).minimum(size[:, None] - 1)[:, None]
    rows = images.gather(2, nearest[..., None].expand_as(images))
    return rows.gather(3, nearest[..., None, :].expand_as(images))


def _enlarged(images: Tensor, low: int, size: Tensor) -> Tensor:
    """Enlarge each sample's own first rows and columns to all of (B, C, s, s)."""
    high = images.shape[-1]
    sizes = range(low, high + 1)
    table = [F.pad(resize_matrix(own, high, "bicubic", images.device), (0, high - own)) for own in sizes]
    matrices = torch.stack(table)[size - low][:, None]
    return (matrices @ images @ matrices.transpose(-1, -2)).clamp_(0, 1)


# Annex K of the JPEG standard (ITU-T T.81): luminance and chrominance quantisation at quality 50.
_LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@lru_cache(maxsize=8)
def _jpeg_constants(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the 8-point DCT (8, 8), the quantisation tables (3, 8, 8), RGB -> YCbCr (3, 3) and its inverse."""
    n = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * n + 1) * n[:, None] * torch.pi / 16) * 0.5
    dct[0] /= 2**0.5
    luminance, chrominance = (
        torch.tensor([float(v) for v in table.split()]).view(8, 8) for table in (_LUMINANCE, _CHROMINANCE)
    )
    colour = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    tables = torch.stack([luminance, chrominance, chrominance])
    return dct.float().to(device), tables.to(device), colour.to(device), torch.linalg.inv(colour).to(device)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Send RGB images through baseline JPEG (ITU-T T.81) without chroma subsampling.

    Args:
        images: float (B, 3, H, W) in 0..1.
        quality: (B,) in 1..100, scaled to quantisation tables as the IJG library does.

    Returns:
        float (B, 3, H, W) in 0..1.
    """
    dct, tables, colour, back = _jpeg_constants(str(images.device))
    height, width = images.shape[-2:]
    padded = F.pad(images.float() * 255, (0, -width % 8, 0, -height % 8), mode="replicate")
    ycc = torch.einsum("cd,bdhw->bchw", colour, padded).round()
    ycc[:, 0] -= 128
    shape = (len(ycc), 3, ycc.shape[2] // 8, 8, ycc.shape[3] // 8, 8)
    blocks = ycc.reshape(shape).transpose(3, 4)  # (B, 3, rows, columns, 8, 8)
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality).floor()[:, None, None, None]
    table = ((tables * scale + 50) / 100).floor().clamp(1, 255)[:, :, None, None]
    coefficients = torch.round(dct @ blocks @ dct.T / table) * table
    decoded = (dct.T @ coefficients @ dct).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    decoded[:, 0] += 128
    # a decoder keeps all three planes in 8 bits; chroma is centred on 0 here
    decoded = torch.cat([decoded[:, :1].clamp(0, 255), decoded[:, 1:].clamp(-128, 127)], dim=1).round()
    rgb = torch.einsum("cd,bdhw->bchw", back, decoded)
    return (rgb[..., :height, :width] / 255).clamp(0, 1)
