"""High resolution to low resolution: batched, on the images' device, from declared parameters.

Blur, antialiased downsampling and enlarging are linear and separable, so each is a small matrix per axis and
their product is applied in two matrix products, however many samples have a size or a blur of their own.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossres.data.degradation import COLOURS, Degradation, Kernel, Range, Size, check_size
from crossres.data.jpeg import jpeg


class Draws(NamedTuple):
    """What is random in a degradation: tensors (B,) but for the last, a value for each sample.

    What is the same for all samples is one value, expanded: there may be millions of them.
    """

    size: Tensor  # side of its LR image, in pixels
    blur: Tensor  # sigma of its Gaussian blur, in LR pixels
    noise: Tensor  # standard deviation of its noise, in 0..1 of full scale
    quality: Tensor  # of its JPEG, 1..100, or 0 for none
    seed: Tensor  # of its noise, int64
    colour: Tensor  # its factors of brightness, contrast and saturation, (B, 3)

    def rows(self, rows: slice | Tensor) -> Draws:
        """Return the draws of some of the samples."""
        return Draws(*(drawn[rows] for drawn in self))

    def to(self, device: torch.device | str) -> Draws:
        """Return the draws on a device."""
        return Draws(*(moved(drawn, device) for drawn in self))


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    """Return values (N, ...) on a device; of an expanded one the value that it holds is copied."""
    if len(values) and not values.stride(0):
        return values[:1].to(device, non_blocking=True).expand_as(values)
    return values.to(device, non_blocking=True)


def draw(n: int, size: Size, degradation: Degradation, generator: torch.Generator | None = None) -> Draws:
    """Draw the random part of a degradation for ``n`` samples, on the CPU."""
    low, high = check_size(size)
    ranges = degradation.resolved()

    def uniform(limits: Range | None) -> Tensor:
        start, end = limits or (0.0, 0.0)
        if start == end:
            return torch.full((1,), start).expand(n)
        return torch.empty(n).uniform_(start, end, generator=generator)

    sizes = torch.full((1,), high).expand(n)
    if low < high:
        sizes = torch.randint(low, high + 1, (n,), generator=generator)
    seed = torch.zeros(1, dtype=torch.long).expand(n)
    if ranges.noise and ranges.noise[1] > 0:
        seed = torch.arange(n) + torch.randint(2**62, (1,), generator=generator)
    blur, noise, quality = uniform(ranges.blur), uniform(ranges.noise), uniform(ranges.jpeg)
    colours = [uniform(getattr(ranges, name)) for name in COLOURS]
    if degradation.share < 1:
        plain = torch.rand(n, generator=generator) >= degradation.share
        blur, noise, quality = (torch.where(plain, 0.0, values) for values in (blur, noise, quality))
        colours = [torch.where(plain, 1.0, values) for values in colours]
    same = n > 1 and not any(values.stride(0) for values in colours)
    colour = torch.stack([values[:1] for values in colours], 1).expand(n, -1) if same else torch.stack(colours, 1)
    return Draws(sizes, blur, noise, quality, seed, colour)


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
        degradation: the parameters; bicubic downsampling if left out.
        generator: CPU generator of the random part.
        draws: the random part, if it is drawn already (``generator`` is then unused).

    Returns:
        float32 (B, C, high, high) in 0..1, rounded to 8 bits at its own size as an image file holds it. Rounded once,
        where Pillow rounds between its two passes, too: a difference of 1/255 on photos, of up to 30/255 on noise of
        black and white. A blur's weights beyond the border go to the pixels inside.

    Raises:
        CrossresError: a size that is 0, an empty range or larger than the image.
    """
    degradation = degradation or Degradation()
    height, width = hr.shape[-2:]
    low, high = check_size(size, min(height, width))
    ranges = degradation.resolved()
    draws = (draws or draw(len(hr), size, degradation, generator)).to(hr.device)
    images = hr.float()
    if any(getattr(ranges, name) != (1.0, 1.0) for name in COLOURS):
        images = recoloured(images, draws.colour)  # linear but for the clamping, so that it may come before
    least, most = ranges.blur or (0.0, 0.0)
    if low == high and (most == 0 or (least == most and degradation.share == 1)):  # one pair of matrices for all
        rows, columns = (resize_matrix(side, high, degradation.kernel, hr.device) for side in (height, width))
        if most > 0:
            sigma = torch.full((1,), most / high, device=hr.device)
            rows, columns = rows @ _blurring(height, sigma * height)[0], columns @ _blurring(width, sigma * width)[0]
        lr = F.linear(F.linear(images, columns).transpose(-1, -2), rows).transpose(-1, -2).contiguous()
    else:
        rows = _shrinking_matrices(height, low, high, degradation.kernel, draws)
        columns = rows if width == height else _shrinking_matrices(width, low, high, degradation.kernel, draws)
        lr = rows[:, None] @ images @ columns[:, None].transpose(-1, -2)
    if ranges.noise != (0.0, 0.0):
        lr = lr + _normal(draws.seed, lr.shape[1:]) * draws.noise[:, None, None, None]
    lr = lr.clamp_(0, 1)
    if ranges.jpeg != (0.0, 0.0):
        whole = lr if low == high else _edges_repeated(lr, draws.size)
        lr = torch.where(draws.quality[:, None, None, None] > 0, jpeg(whole, draws.quality), lr)
    lr = lr.mul_(255).round_().div_(255)
    return lr if low == high else _enlarged(lr, low, draws.size)


def recoloured(images: Tensor, factor: Tensor) -> Tensor:
    """Change the brightness, contrast and saturation of each image (float, (B, 3, H, W), 0..1), in this order.

    ``factor`` (B, 3) is that of the values, of their distance to the image's mean and of that to each pixel's
    luminance (ITU-R BT.601).
    """
    brightness, contrast, saturation = factor.to(images.dtype)[:, :, None].unbind(1)
    # all three are linear: one product of matrices is several times as fast as a pass each
    luminance = images.new_zeros(3, 3)
    for channel, share in enumerate((0.299, 0.587, 0.114)):  # unlike a copy from the host, no wait
        luminance[:, channel] = share
    itself = torch.eye(3, dtype=images.dtype, device=images.device)
    mixed = saturation[..., None] * itself + (1 - saturation[..., None]) * luminance
    mean = images.mean((1, 2, 3))[:, None]
    offset = brightness * (1 - contrast) * mean
    changed = torch.baddbmm(offset[..., None], (brightness * contrast)[..., None] * mixed, images.flatten(2))
    return changed.clamp_(0, 1).view_as(images)


def _normal(seed: Tensor, shape: torch.Size) -> Tensor:
    """Return standard normal noise (B, *shape), of each sample from its own seed alone.

    A counter goes through SplitMix64 (Steele et al. 2014): one pass for a whole batch, on any device.
    """
    count = math.prod(shape)
    increment = -0x61C8864680B583EB  # 2**64 / golden ratio, as int64
    place = torch.arange(1, (count + 1) // 2 + 1, device=seed.device)
    bits = _mixed(_mixed(seed * increment)[:, None] + place * increment)
    uniform = bits.view(torch.int32)[:, :count] * 2.0**-31
    # one float32 below 1, where the inverse is still finite
    return torch.erfinv(uniform.clamp_(-1 + 2**-24, 1 - 2**-24)).mul_(2**0.5).view(-1, *shape)


def _mixed(bits: Tensor) -> Tensor:
    """Scramble int64 in place with SplitMix64's finalizer."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        bits ^= (bits >> shift).bitwise_and_(2 ** (64 - shift) - 1)  # a shift that fills up with zeros
        bits *= factor
    return bits


@lru_cache(maxsize=256)
def resize_matrix(n_in: int, n_out: int, kernel: Kernel, device: torch.device | str = "cpu") -> Tensor:
    """Return the (n_out, n_in) matrix that resamples one axis as Pillow's antialiased ``Image.resize`` does."""
    scale = n_in / n_out
    if kernel == "nearest":
        # Pillow adds up the scale, which settles the ties between two pixels
        steps = torch.full((n_out,), scale, dtype=torch.float64)
        steps[0] = 0.5 * scale
        return F.one_hot(steps.cumsum(0).long().clamp_(max=n_in - 1), n_in).float().to(device)
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * scale
    weight = resampling_weights(torch.arange(n_in, dtype=torch.float64), centre, max(scale, 1.0), kernel)
    return (weight / weight.sum(1, keepdim=True)).float().to(device)


def resampling_weights(pixel: Tensor, centre: Tensor, widen: Tensor | float, kernel: str) -> Tensor:
    """Return the weights of the input pixels in each output pixel, float64 (n_out, n_in), not yet of sum 1.

    Bicubic has a = -0.5 (Keys 1981), lanczos has three lobes, area is Pillow's box. All of it can be traced for
    export, with an axis of any length.

    Args:
        pixel: 0, 1, ... n_in - 1, float64 (n_in,).
        centre: of the output pixels on the input axis, float64 (n_out,).
        widen: by how much the kernel is widened: the shrinking factor, at least 1.
        kernel: any but nearest.
    """
    support = {"area": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}[kernel] * widen
    first = (centre - support + 0.5).floor()[:, None]
    last = (centre + support + 0.5).floor()[:, None]
    offset = (pixel + 0.5 - centre[:, None]) / widen
    distance = offset.abs()
    if kernel == "area":
        weight = ((offset > -0.5) & (offset <= 0.5)).double()
    elif kernel == "bilinear":
        weight = (1 - distance).clamp(min=0)
    elif kernel == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    else:
        # not torch.sinc: ONNX keeps its pi in float32
        angle = torch.pi * distance.clamp(min=1e-9)
        lobes = torch.sin(angle) / angle * (torch.sin(angle / 3) / (angle / 3))
        weight = torch.where(distance < 3, lobes, 0.0)
    return weight * ((pixel >= first) & (pixel < last))


def _shrinking_matrices(n_in: int, low: int, high: int, kernel: Kernel, draws: Draws) -> Tensor:
    """Return (B, high, n_in): per sample blur, then shrink to its size, in the first rows; the others are 0."""
    device, sizes = draws.size.device, range(low, high + 1)
    table = [F.pad(resize_matrix(n_in, size, kernel, device), (0, 0, 0, high - size)) for size in sizes]
    matrices = torch.stack(table)[draws.size - low]
    return matrices @ _blurring(n_in, draws.blur * n_in / draws.size)


def _blurring(n: int, sigma: Tensor) -> Tensor:
    """Return (B, n, n): a Gaussian blur of each sigma (B,), in pixels, along an axis; 0 leaves the identity."""
    pixel = torch.arange(n, device=sigma.device)
    sigma = sigma.clamp(min=1e-3)[:, None, None]
    gauss = torch.exp(-((pixel[:, None] - pixel).square()) / (2 * sigma.square()))
    gauss = torch.where(gauss > 1e-20, gauss, 0.0)  # less counts for nothing, but products of subnormals take long
    return gauss / gauss.sum(-1, keepdim=True)


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
