"""Images that do not fit into memory: the order in which they are read, and decoding by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from crossres.core.cores import usable_cores
from crossres.core.errors import CrossresError, decoders_live
from crossres.core.types import Int64s, Rows

if TYPE_CHECKING:
    from crossres.data.decode import Fit
    from crossres.data.images import ImageSet

#: Places of a set that are read at the same time, at most: each fills an equal part of every batch.
LANES = 16
#: Most images of a run that a worker decodes at once, where memory does not allow fewer.
PART = 1024


def stream_order(runs: Rows, count: int, batch_size: int, buffer: int, generator: torch.Generator) -> Tensor:
    """Return the positions of an epoch, int32 (count,), at random but with images of a run near each other.

    The runs follow each other at random; this sequence is cut into `LANES` equal ones, and each of these is shuffled
    within its part of the buffer. A lane fills the same rows of every batch: processes that share a batch read runs
    of their own, and the order does not depend on how many they are.

    Args:
        runs: the run of each image, (N,); see `ImageSet.runs`.
        count: how many, a multiple of the batch size; above N the images come again.
        batch_size: images per step over all processes together.
        buffer: images among which the next one is drawn, over all lanes together.
        generator: of the order.
    """
    run = torch.from_numpy(runs)
    number = int(run.max()) + 1
    turns = [torch.randperm(number, generator=generator) for _ in range(-(-count // len(runs)))]
    sequence = torch.cat([torch.argsort(turn[run], stable=True).int() for turn in turns])
    lanes = max(each for each in range(1, LANES + 1) if batch_size % each == 0)
    mixed = sequence[:count].view(lanes, -1)
    for lane in mixed:
        # one that lies `buffer / lanes` further is never drawn before: what a buffer of this size can do, in one sort
        delay = torch.rand(len(lane), generator=generator, dtype=torch.float64).mul_(max(1, buffer // lanes))
        lane.copy_(lane[delay.add_(torch.arange(len(lane))).argsort()])
    return mixed.view(lanes, -1, batch_size // lanes).transpose(0, 1).flatten()


@dataclass(eq=False)
class Parts:
    """What workers decode at once: the images at ``positions[start:stop]`` of each part; picklable, cheap to fork."""

    images: ImageSet
    size: int
    fit: Fit
    positions: Rows
    bounds: Int64s  #: start and stop of each part, (P, 2)

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, part: int) -> Tensor | CrossresError:
        """Decode a part; hand over its error, as the DataLoader would wrap a traceback around the name."""
        start, stop = self.bounds[part]
        try:
            return torch.stack([self.images.sample(int(i), self.size, self.fit) for i in self.positions[start:stop]])
        except CrossresError as error:
            return error

    def served(self, workers: int, pin: bool = False) -> Iterator[Tensor]:
        """Yield the parts, uint8 (B, 3, size, size), decoded by so many processes.

        Raises:
            CrossresError: a damaged image, or a process that was killed.
        """
        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=None,  # a part for each item, so that nothing is left to collate
            num_workers=min(workers, len(usable_cores())),  # torch warns of more
            # its own, or it would draw from the global one and with it change the weights and the anchors
            generator=torch.Generator(),
            pin_memory=pin,
        )
        with decoders_live():
            for pixels in loader:
                if isinstance(pixels, CrossresError):
                    # a new one: a frame that holds the error it raises is a cycle, and keeps the workers for seconds
                    raise CrossresError(str(pixels))
                yield pixels


def in_runs(parts: Parts, runs: Rows, workers: int, most: int = PART) -> Iterator[Tensor]:
    """Yield what `Parts.served` yields, but read each run of images (N,) at once, or so many of it, at most `PART`.

    What is decoded before its turn waits in memory: in the order of `stream_order` one or two such parts a lane.
    """
    whole, number, place = _by_run(parts, runs, min(most, PART))
    served = whole.served(workers)
    left, waiting, loaded = np.diff(whole.bounds)[:, 0], dict[int, Any](), 0
    for start, stop in parts.bounds:
        numbers = number[start:stop]
        while loaded <= numbers.max():
            waiting[loaded] = next(served).numpy().copy()  # out of the memory that is shared with the worker
            loaded += 1
        rows = zip(numbers.tolist(), place[start:stop].tolist(), strict=True)
        yield torch.from_numpy(np.stack([waiting[part][row] for part, row in rows]))
        for part, count in zip(*np.unique(numbers, return_counts=True), strict=True):
            left[part] -= count
            if not left[part]:
                del waiting[part]


def _by_run(parts: Parts, runs: Rows, most: int) -> tuple[Parts, Rows, Rows]:
    """Return the same images a run at a time, or so many of it, the one that is needed first at first.

    With it the number of the part that holds each image of ``parts`` and its place there, int32 (count,).
    """
    order = parts.positions
    count = np.arange(len(order), dtype=np.int32)
    again = _again(order)
    by_run = np.lexsort((order, runs[order], again)).astype(np.int32)
    sorted_runs = runs[order[by_run]]
    ends = [*np.flatnonzero((np.diff(sorted_runs) != 0) | (np.diff(again[by_run]) != 0)) + 1, len(order)]
    starts = np.concatenate([np.arange(start, stop, most) for start, stop in pairwise([0, *ends])])
    bounds = np.stack([starts, np.r_[starts[1:], len(order)]], 1)
    turn = np.argsort(np.minimum.reduceat(by_run, starts))
    turn_of = np.empty_like(turn)
    turn_of[turn] = np.arange(len(turn))
    sizes = np.diff(bounds)[:, 0]
    number, place = np.empty_like(count), np.empty_like(count)
    number[by_run] = np.repeat(turn_of, sizes)
    place[by_run] = count - np.repeat(starts, sizes)
    return Parts(parts.images, parts.size, parts.fit, order[by_run], bounds[turn]), number, place


def _again(order: Rows) -> Rows:
    """Return how often each position came before: a set that is too small for an epoch comes again."""
    again = np.zeros(len(order), np.int32)
    if len(order) and np.bincount(order).max() > 1:
        by_position = np.argsort(order, kind="stable")
        count = np.arange(len(order))
        first = np.diff(order[by_position], prepend=-1) != 0
        again[by_position] = count - np.maximum.accumulate(np.where(first, count, 0))
    return again
