"""Directions, distances and angles of a batch's embeddings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Below this length a vector is not stretched to 1: a difference of two equal embeddings is rounding noise.
SMALL = 1e-4
# Below this share of the mean distance two embeddings count as equal.
EQUAL = 1e-5
# Added to a variance, as batch norm does.
EPSILON = 1e-5


class _Unit(torch.autograd.Function):
    # By hand because autograd's own backward of a normalisation costs twice the time on large tensors.
    @staticmethod
    def forward(ctx: Any, x: Tensor, length: float) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length * (norm * norm + SMALL**2).rsqrt()
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        ctx.length = length
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        # inverse * (grad - y <grad, y> / length^2), all in one buffer.
        out = grad * y
        along = out.sum(-1, keepdim=True) / ctx.length**2
        return torch.addcmul(grad, y, along, value=-1, out=out).mul_(inverse), None


def unit(x: Tensor, length: float = 1.0) -> Tensor:
    """Return ``length * x / sqrt(|x|^2 + 1e-8)`` over the last dimension: a vector 0 stays 0, never NaN."""
    out: Tensor = _Unit.apply(x, length)
    return out


def standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return x with the mean 0 and the variance 1 over some dimensions; what does not vary becomes 0."""
    centred = x - x.mean(dims, keepdim=True)
    return centred * ((centred * centred).mean(dims, keepdim=True) + EPSILON).rsqrt()


def cosines(x: Tensor) -> Tensor:
    """Return (B, B): the cosine of each pair of rows of x (B, width)."""
    direction = unit(x)
    return direction @ direction.T


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean cosine of a's rows with the same rows of b, (B, width) each."""
    return (unit(a) * unit(b)).sum(1).mean()


def distances(embedding: Tensor) -> Tensor:
    """Return (B, B) Euclidean distances in units of their mean over the pairs that differ."""
    _, lengths = _apart(embedding)
    pairs = len(embedding) * (len(embedding) - 1)
    return lengths / (lengths.sum() / max(1, pairs)).clamp(min=1e-6)


def angles(embedding: Tensor) -> Tensor:
    """Return (B, B, B): cosines of the angles at j between i and k, in the order j, i, k.

    Where two embeddings are equal the cosine is 0.
    """
    apart, lengths = _apart(embedding)
    differ = lengths > EQUAL * lengths.detach().mean()
    direction = apart * torch.where(differ, 1 / torch.where(differ, lengths, 1.0), 0.0)[..., None]
    return direction @ direction.transpose(1, 2)


def unlike(teacher: Tensor, student: Tensor, pair: float, triplet: float) -> Tensor:
    """Return ``pair`` times the Huber loss of the distances plus ``triplet`` times that of the angles, a scalar."""
    loss = student.sum() * 0
    if pair:
        loss = loss + pair * F.smooth_l1_loss(distances(student), distances(teacher))
    if triplet:
        loss = loss + triplet * F.smooth_l1_loss(angles(student), angles(teacher))
    return loss


def _apart(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences (B, B, width), ``e_i - e_j`` in the order j, i, and their lengths (B, B).

    From the differences themselves: from inner products, rounding leaves a length between equal embeddings.
    """
    apart = embedding - embedding[:, None]
    squared = apart.square().sum(-1)
    differ = squared > 0
    return apart, torch.where(differ, torch.where(differ, squared, 1.0).sqrt(), 0.0)
