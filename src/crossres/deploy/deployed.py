"""The network as it is deployed: photos of any size in, answers out; what torch runs and what every export holds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossres.data.degrade import resize_matrix
from crossres.deploy.facts import Facts
from crossres.models.encoder import Encoder

#: the outputs by name, in their order; those in the middle only with classes
OUTPUTS = ("embedding", "logits", "probabilities", "quality")


class Window(NamedTuple):
    """Which part of an axis becomes which part of the result, in pixels; scalars of float64."""

    start: Tensor
    length: Tensor
    offset: Tensor
    inner: Tensor


class Deployed(nn.Module):
    """Preprocessing + encoder + classifier + quality, as one graph.

    A photo is brought to the LR size in one resampling step with the training's kernel, antialiased, or enlarged by
    bicubic interpolation, and rounded to 8 bits as a stored LR image is.

    Args:
        encoder: in eval mode; in float16, the outputs are float32 all the same.
        facts: LR size, fit and kernel.
    """

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.facts = facts
        side = encoder.input_size
        enlarges = side is not None and side != facts.side
        # as the encoder enlarges: the same bicubic weights, as a matrix that any runtime multiplies alike
        self.register_buffer("enlarging", resize_matrix(facts.side, side or 1, "bicubic") if enlarges else None)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return OUTPUTS if self.facts.classes else (OUTPUTS[0], OUTPUTS[-1])

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Photos uint8 (B, H, W, 3), RGB -> embedding (B, d), logits and probabilities (B, classes), quality (B,).

        Quality is the highest probability, or the embedding's length where there are no classes: networks give
        images they can make nothing of a short one (Meng et al., MagFace, 2021).
        """
        outputs = self.encoder(self.read(photos))
        embedding = outputs.embedding.float()
        if outputs.logits is None:
            return embedding, embedding.norm(dim=1)
        probabilities = outputs.logits.float().softmax(1)
        return embedding, outputs.logits.float(), probabilities, probabilities.amax(1)

    def read(self, photos: Tensor) -> Tensor:
        """Photos uint8 (B, H, W, 3) -> what the encoder gets, float32 (B, 3, s, s) in 0..1."""
        rows, columns = self._matrices(photos)
        images = photos.permute(0, 3, 1, 2).float() / 255
        small = rows @ images @ columns.transpose(0, 1)
        small = (small.clamp(0, 1) * 255).round() / 255
        if isinstance(self.enlarging, Tensor):
            small = (self.enlarging @ small @ self.enlarging.transpose(0, 1)).clamp(0, 1)
        return small

    def _matrices(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        along = [torch.arange(photos.shape[axis], device=photos.device).double() for axis in (1, 2)]
        lengths = [pixel[-1] + 1 for pixel in along]
        side = torch.full_like(lengths[0], self.facts.side)
        zero = torch.zeros_like(side)
        if self.facts.fit == "crop":
            short = torch.minimum(*lengths)
            windows = [Window((length - short) / 2, short, zero, side) for length in lengths]
        elif self.facts.fit == "squash":
            windows = [Window(zero, length, zero, side) for length in lengths]
        else:
            long = torch.maximum(*lengths)
            inner = [(length * side / long).round().clamp(min=1) for length in lengths]
            windows = [
                Window(zero, length, ((side - share) / 2).floor(), share)
                for length, share in zip(lengths, inner, strict=True)
            ]
        rows, columns = (
            resampling(pixel, window, self.facts.side, self.facts.kernel)
            for pixel, window in zip(along, windows, strict=True)
        )
        return rows, columns


def resampling(pixel: Tensor, window: Window, side: int, kernel: str) -> Tensor:
    """Return the matrix (side, n) that resamples a window of an axis; what the window leaves out of the result is 0.

    The weights are those of `crossres.data.degrade.resize_matrix` (Pillow's ``Image.resize`` with a box), made of
    tensors so that the axis may have any length in an exported graph.

    Args:
        pixel: 0, 1, ... n - 1, float64 (n,).
        window: of the axis.
        side: length of the result.
        kernel: by which it is shrunk; it is enlarged by bicubic interpolation.
    """
    number = torch.arange(side, device=pixel.device).double() - window.offset
    inside = (number >= 0) & (number < window.inner)
    scale = window.length / window.inner
    widen = scale.clamp(min=1)
    centre = window.start + (number + 0.5) * scale
    weights = _weights(pixel, centre, widen, "bicubic")
    if kernel != "bicubic":
        weights = torch.where(scale > 1, _weights(pixel, centre, widen, kernel), weights)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.where(inside[:, None], weights, torch.zeros_like(weights)).float()


def _weights(pixel: Tensor, centre: Tensor, widen: Tensor, kernel: str) -> Tensor:
    if kernel == "nearest":
        return ((centre[:, None] >= pixel) & (centre[:, None] < pixel + 1)).double()
    support = {"area": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}[kernel] * widen
    first = (centre - support + 0.5).floor()[:, None]
    last = (centre + support + 0.5).floor()[:, None]
    distance = ((pixel + 0.5 - centre[:, None]) / widen).abs()
    # a pixel half-way belongs to the window before it, as in Pillow's box
    signed = (pixel + 0.5 - centre[:, None]) / widen
    return _kernel(distance, signed, kernel) * ((pixel >= first) & (pixel < last)).double()


def _kernel(distance: Tensor, signed: Tensor, kernel: str) -> Tensor:
    if kernel == "area":
        return ((signed > -0.5) & (signed <= 0.5)).double()
    if kernel == "bilinear":
        return (1 - distance).clamp(min=0)
    if kernel == "bicubic":
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    angle = torch.pi * distance.clamp(min=1e-9)
    lobes = torch.sin(angle) / angle * (torch.sin(angle / 3) / (angle / 3))
    return torch.where(distance < 3, lobes, torch.zeros_like(lobes))
