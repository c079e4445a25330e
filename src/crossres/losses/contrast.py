"""Contrast of a positive with its negatives, and which samples of a batch are negatives."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Critic = Literal["sigmoid", "softmax"]
Reduction = Literal["sum", "mean"]


def other_images(index: Tensor | None, size: int, device: torch.device) -> Tensor:
    """Return the bool (B, B) mask of pairs of different images; without ``index`` no image comes twice."""
    image = torch.arange(size, device=device) if index is None else index
    return image[:, None] != image


def other_classes(others: Tensor, label: Tensor | None) -> Tensor:
    """Return the bool (B, B) mask of negatives: different images and, with labels, of different classes."""
    return others if label is None else others & (label[:, None] != label)


def info_nce(scores: Tensor, allowed: Tensor) -> Tensor:
    """Return the softmax critic's loss of each row, see `contrast`."""
    # 0 for the positive and its negatives, -inf for the others
    others = torch.full(scores.shape, -torch.inf, device=scores.device).masked_fill_(allowed, 0)
    others.diagonal(dim1=-2, dim2=-1).zero_()
    target = torch.arange(scores.shape[-2], device=scores.device).expand(scores.shape[:-1])
    rows = F.cross_entropy((scores + others).flatten(0, -2), target.flatten(), reduction="none")
    return rows.view(scores.shape[:-1])


def contrast(scores: Tensor, allowed: Tensor, critic: Critic, reduction: Reduction) -> Tensor:
    """Return the contrastive loss of each row.

    Row b's positive is column b. With x = scores and N_b the allowed columns of row b:

    - sigmoid: ``-log s(x_bb) - sum_{k in N_b} log(1 - s(x_bk))``, the sum divided by ``|N_b|`` for "mean";
      in log-sigmoid form, so no score overflows. Without negatives only the first term is left.
    - softmax: ``-log(exp(x_bb) / (exp(x_bb) + sum_{k in N_b} exp(x_bk)))``, 0 without negatives.

    Args:
        scores: (..., B, B), already divided by the temperature.
        allowed: bool (..., B, B), True for a negative and False for the others, column b of row b among them.
        critic: as above.
        reduction: of the sigmoid critic's negatives; the softmax critic has no use for it.

    Returns:
        (..., B)
    """
    if critic == "softmax":
        return info_nce(scores, allowed)
    positive = scores.diagonal(dim1=-2, dim2=-1)
    pushed = (F.softplus(scores) * allowed).sum(-1)
    if reduction == "mean":
        pushed = pushed / allowed.sum(-1).clamp(min=1)
    return F.softplus(-positive) + pushed
