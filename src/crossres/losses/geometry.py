"""Directions, distances and angles of a batch's embeddings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Below this length a vector is not stretched to 1: a difference of two equal embeddings is rounding noise.
# Below this distance two embeddings count as equal.
SMALL = 1e-4
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
    lengths = _lengths(embedding)
    apart = len(embedding) * (len(embedding) - 1)
    return lengths / (lengths.sum() / max(1, apart)).clamp(min=1e-6)


def angles(embedding: Tensor) -> Tensor:
    """Return (B, B, B): cosines of the angles at j between i and k, in the order j, i, k.

    From the inner products alone, ``<e_i - e_j, e_k - e_j> = g_ik - g_ij - g_jk + g_jj``, so that no tensor of
    B x B x width is made. Where two embeddings are equal the cosine is 0.
    """
    # the angles do not change, but the products lose fewer digits
    embedding = embedding - embedding.mean(0)
    inner = embedding @ embedding.T
    own = inner.diagonal()
    lengths = _lengths(embedding)
    inverse = torch.where(lengths > SMALL, 1 / lengths.clamp(min=SMALL), 0.0)
    towards = inner - own  # (i, j): g_ij - g_jj
    return (inner[None] - towards.T[:, :, None] - inner[:, None, :]) * (inverse[:, :, None] * inverse[:, None, :])


def unlike(teacher: Tensor, student: Tensor, pair: float, triplet: float) -> Tensor:
    """Return ``pair`` times the Huber loss of the distances plus ``triplet`` times that of the angles, a scalar."""
    loss = student.sum() * 0
    if pair:
        loss = loss + pair * F.smooth_l1_loss(distances(student), distances(teacher))
    if triplet:
        loss = loss + triplet * F.smooth_l1_loss(angles(student), angles(teacher))
    return loss


def _lengths(embedding: Tensor) -> Tensor:
    squares = embedding.square().sum(1)
    squared = (squares[:, None] + squares - 2 * embedding @ embedding.T).clamp(min=1e-12)
    # rounding leaves a little on the diagonal
    return squared.sqrt() * ~torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
