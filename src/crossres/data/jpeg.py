"""Baseline JPEG of small images on tensors, and the quality that a file was written with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Annex K of the JPEG standard (ITU-T T.81): luminance and chrominance quantisation at quality 50.
_LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@lru_cache(maxsize=8)
def dct_matrix(device: str) -> Tensor:
    """Return the matrix (8, 8) of the 8-point DCT."""
    n = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * n + 1) * n[:, None] * torch.pi / 16) * 0.5
    dct[0] /= 2**0.5
    return dct.float().to(device)


@lru_cache(maxsize=8)
def _constants(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the quantisation tables (3, 8, 8), RGB -> YCbCr (3, 3) and its inverse."""
    luminance, chrominance = (
        torch.tensor([float(v) for v in table.split()]).view(8, 8) for table in (_LUMINANCE, _CHROMINANCE)
    )
    colour = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    tables = torch.stack([luminance, chrominance, chrominance])
    return tables.to(device), colour.to(device), torch.linalg.inv(colour).to(device)


def to_ycc(images: Tensor) -> Tensor:
    """Return luminance and chroma, the latter about 0, of RGB images (B, 3, H, W), on their own scale."""
    return torch.einsum("cd,bdhw->bchw", _constants(str(images.device))[1], images)


def blocks_of(planes: Tensor) -> Tensor:
    """Return the blocks (B, C, rows, columns, 8, 8) of (B, C, H, W), filled up with the last row and column."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    return padded.reshape(*planes.shape[:2], rows, 8, columns, 8).transpose(3, 4)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Send RGB images, float (B, 3, H, W) in 0..1, through baseline JPEG (ITU-T T.81) without chroma subsampling.

    ``quality`` (B,), 1..100, scales the quantisation tables as in the IJG library.
    """
    device = str(images.device)
    dct, (tables, _, back) = dct_matrix(device), _constants(device)
    height, width = images.shape[-2:]
    ycc = to_ycc(images.float() * 255).round()
    ycc[:, 0] -= 128
    blocks = blocks_of(ycc)
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality).floor()[:, None, None, None]
    table = ((tables * scale + 50) / 100).floor().clamp(1, 255)[:, :, None, None]
    steps = dct @ blocks @ dct.T / table
    coefficients = steps.sign() * (steps.abs() + 0.5).floor() * table  # libjpeg rounds a tie away from 0
    decoded = (dct.T @ coefficients @ dct).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    decoded[:, 0] += 128
    # a decoder keeps all three planes in 8 bits; chroma is centred on 0 here
    decoded = torch.cat([decoded[:, :1].clamp(0, 255), decoded[:, 1:].clamp(-128, 127)], dim=1).round()
    rgb = torch.einsum("cd,bdhw->bchw", back, decoded)
    return (rgb[..., :height, :width] / 255).clamp(0, 1)


def quality_of(luminance: Sequence[int]) -> int:
    """Return the IJG quality, 1..100, whose luminance table is nearest to a file's, 64 numbers in any order."""
    given = torch.tensor(sorted(luminance), dtype=torch.float32)
    standard = _constants("cpu")[0][0].flatten().sort().values
    quality = torch.arange(1, 101)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor()[:, None]
    tables = ((standard * scale + 50) / 100).floor().clamp(1, 255)
    return int((tables - given).abs().sum(1).argmin()) + 1
