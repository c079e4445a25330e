"""A first-in-first-out memory of past embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNKNOWN = -1


class Queue(nn.Module):
    """The last ``size`` embeddings with their labels and indices, in buffers: a resumed run keeps them.

    The memory does not grow with the data set, and writing needs no transfer between host and device.

    Args:
        size: number of entries.
        dim: width of an entry.
    """

    entries: Tensor
    label: Tensor
    identity: Tensor
    filled: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros(size, dim))
        self.register_buffer("label", torch.full((size,), UNKNOWN))
        self.register_buffer("identity", torch.full((size,), UNKNOWN))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def read(self) -> Tensor:
        """Return the entries (size, dim), a copy: autograd may need them after the next :meth:`push`."""
        return self.entries.clone()

    @torch.no_grad()
    def push(self, entries: Tensor, label: Tensor | None, index: Tensor | None) -> None:
        """Overwrite the oldest entries; of more than ``size`` new ones the last ``size`` are kept.

        Args:
            entries: (B, dim).
            label: (B,), or None: then the entries belong to no known class.
            index: (B,), or None: then the entries are no known image's.
        """
        size = self.entries.shape[0]
        entries = entries[-size:]
        count = entries.shape[0]
        slots = (self.pointer + torch.arange(count, device=self.pointer.device)) % size
        self.entries.index_copy_(0, slots, entries.to(self.entries.dtype))
        self.label.index_fill_(0, slots, UNKNOWN)
        self.identity.index_fill_(0, slots, UNKNOWN)
        if label is not None:
            self.label.index_copy_(0, slots, label[-size:].long())
        if index is not None:
            self.identity.index_copy_(0, slots, index[-size:].long())
        self.filled.index_fill_(0, slots, True)
        self.pointer.add_(count).remainder_(size)
