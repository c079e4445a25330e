"""What the contrastive losses share: unit vectors, who may be a negative, and the critics."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Critic = Literal["sigmoid", "softmax"]
Reduction = Literal["sum", "mean"]

# Below this length a vector is not stretched to 1: a difference of two equal embeddings is rounding noise.
SMALL = 1e-4


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


def identities(index: Tensor | None, like: Tensor) -> Tensor:
    """Return one integer per sample, equal for the same image: ``index``, or distinct numbers below -1."""
    if index is not None:
        return index
    return -2 - torch.arange(like.shape[0], device=like.device)


def may_contrast(
    label: Tensor | None, identity: Tensor, other_label: Tensor | None, other_identity: Tensor
) -> Tensor:
    """Return the bool (B, K) mask of negatives: another image and, with labels, of another class."""
    allowed = identity[:, None] != other_identity
    if label is not None and other_label is not None:
        allowed &= label[:, None] != other_label
    return allowed


def contrast(scores: Tensor, allowed: Tensor, critic: Critic, reduction: Reduction) -> Tensor:
    """Return the contrastive loss of each row.

    Row b's positive is column b. With x = scores and N_b the allowed columns of row b:

    - sigmoid: ``-log s(x_bb) - sum_{k in N_b} log(1 - s(x_bk))``, the sum divided by ``|N_b|`` for "mean";
      in log-sigmoid form, so no score overflows. Without negatives only the first term is left.
    - softmax: ``-log(exp(x_bb) / (exp(x_bb) + sum_{k in N_b} exp(x_bk)))``, 0 without negatives.

    Args:
        scores: (..., B, K), K at least B, already divided by the temperature.
        allowed: bool (..., B, K), True for a negative and False for the others, column b of row b among them.
        critic: as above.
        reduction: of the sigmoid critic's negatives; the softmax critic has no use for it.

    Returns:
        (..., B)
    """
    if critic == "softmax":
        # 0 for the positive and its negatives, -inf for the others
        others = torch.full(scores.shape, -torch.inf, device=scores.device).masked_fill_(allowed, 0)
        others.diagonal(dim1=-2, dim2=-1).zero_()
        target = torch.arange(scores.shape[-2], device=scores.device).expand(scores.shape[:-1])
        rows = F.cross_entropy((scores + others).flatten(0, -2), target.flatten(), reduction="none")
        return rows.view(scores.shape[:-1])
    positive = scores.diagonal(dim1=-2, dim2=-1)
    pushed = (F.softplus(scores) * allowed).sum(-1)
    if reduction == "mean":
        pushed = pushed / allowed.sum(-1).clamp(min=1)
    return F.softplus(-positive) + pushed
