"""Distances and angles between the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

#: Below this distance two embeddings count as equal.
SMALL = 1e-4


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


def _lengths(embedding: Tensor) -> Tensor:
    squares = embedding.square().sum(1)
    squared = (squares[:, None] + squares - 2 * embedding @ embedding.T).clamp(min=1e-12)
    # rounding leaves a little on the diagonal
    return squared.sqrt() * ~torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
