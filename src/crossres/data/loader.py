"""Batches of two resolutions: read once, augmented once, degraded once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from crossres.core.errors import CrossresError
from crossres.core.types import Batch
from crossres.data.degradation import Degradation, Size
from crossres.data.degrade import Draws, degrade, draw

if TYPE_CHECKING:
    from crossres.data.images import ImageSet


class Loader:
    """Serves an ImageSet as batches of the same view at two resolutions.

    A set whose decoded images fit the memory budget lies on the device as one uint8 tensor; a larger one is
    decoded by worker processes. Everything random is drawn per epoch from (seed, epoch), for all samples at
    once, so it is the same for every number of processes, and, drawn on the CPU, the same on every device;
    only the realistic preset's noise is drawn on the device itself.

    Args:
        images: the labelled images.
        hr_size: side of the HR images, in pixels.
        lr_size: side of the LR images or a range (low, high); hr_size gives ``batch.lr`` = ``batch.hr``.
        degradation: how LR comes from HR.
        batch_size: images per step over all processes together, or as many as there are.
        device: where the batches are made.
        fit: how images that are not square are fitted.
        shift: largest random shift of a training image, HR pixels.
        flip: whether training images are mirrored at random.
        zoom: largest random share by which a training image is enlarged or reduced.
        colour: largest random share by which its brightness, contrast and saturation are changed.
        images_per_class: images of each class in a training batch; 0 draws images whatever their class.
        seed: of everything random.
        memory_mb: budget for decoded images, in MB.
        workers: decoding processes of a set over the budget.
        rank: this process's number under DDP.
        world_size: number of processes under DDP.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        hr_size: int,
        lr_size: Size,
        degradation: Degradation | None = None,
        batch_size: int = 128,
        device: torch.device | str = "cpu",
        fit: Literal["crop", "squash", "pad"] = "crop",
        shift: int = 0,
        flip: bool = False,
        zoom: float = 0.0,
        colour: float = 0.0,
        images_per_class: int = 0,
        seed: int = 0,
        memory_mb: int = 4096,
        workers: int = 2,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = images
        self.hr_size = hr_size
        self.lr_size = lr_size
        self.degradation = degradation or Degradation()
        self.device = torch.device(device)
        self.fit = fit
        self.shift = min(shift, hr_size - 1)
        self.flip = flip
        self.zoom = zoom
        self.colour = colour
        self.images_per_class = images_per_class
        self.seed = seed
        self.workers = workers
        self.rank = rank
        self.world_size = world_size
        # of a set that is smaller than a batch, what divides over the processes
        self.batch_size = min(batch_size, max(1, len(images) - len(images) % world_size))
        self.label = torch.from_numpy(images.labels).to(self.device)
        in_memory = images.decoded_bytes(hr_size) <= memory_mb * 2**20
        self.pixels = images.pixels(hr_size, fit).to(self.device) if in_memory else None

    @property
    def steps(self) -> int:
        """Training steps per epoch; the incomplete last batch is left out."""
        return len(self.images) // self.batch_size

    def epoch(self, epoch: int, *, hr: bool = False) -> Iterator[Batch]:
        """Yield the training batches of one epoch: shuffled, augmented, this process's share of each.

        Args:
            epoch: number of the epoch; the same number gives the same batches.
            hr: whether ``batch.hr`` is wanted.
        """
        generator = _generator(self.seed, epoch)
        n = self.steps * self.batch_size
        order = self._order(n, generator)
        shift = torch.randint(-self.shift, self.shift + 1, (n, 2), generator=generator)
        flip = torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0)
        zoom = 1 + self.zoom * (2 * torch.rand(n, generator=generator) - 1) if self.zoom else None
        draws = draw(n, self.lr_size, self.degradation, generator)
        colour = 1 + self.colour * (2 * torch.rand(n, 3, generator=generator) - 1) if self.colour else None
        rows = [slice(step * self.batch_size, (step + 1) * self.batch_size) for step in range(self.steps)]
        moves = self.shift > 0 or self.flip
        shares = [self._share(row) for row in rows]
        yield from self._batches(
            order, shift, flip, draws, rows, shares, moves=moves, hr=hr, zoom=zoom, colour=colour
        )

    def _order(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the positions (n,) of an epoch's images."""
        each = self.images_per_class
        if not each:
            return torch.randperm(len(self.images), generator=generator)[:n]
        label = torch.from_numpy(self.images.labels)
        mixed = torch.randperm(len(label), generator=generator)
        by_class = mixed[torch.argsort(label[mixed], stable=True)]
        counts = torch.bincount(label, minlength=len(self.images.classes))
        starts = counts.cumsum(0) - counts
        present = torch.nonzero(counts).flatten()
        groups = -(-self.batch_size // each)
        rows = []
        queue = torch.empty(0, dtype=torch.long)
        for _ in range(n // self.batch_size):
            # each class once before any comes again; where a round ends inside a batch, the next one begins there
            while len(queue) < groups:
                queue = torch.cat([queue, present[torch.randperm(len(present), generator=generator)]])
            chosen, queue = queue[:groups], queue[groups:]
            count = counts[chosen, None]
            # distinct images; of a class with fewer they come again
            first = (torch.rand(groups, 1, generator=generator) * count).long()
            place = (first + torch.arange(each)) % count
            rows.append(by_class[starts[chosen, None] + place].flatten()[: self.batch_size])
        return torch.cat(rows) if rows else torch.empty(0, dtype=torch.long)

    def ordered(
        self, *, flip: bool = False, hr: bool = False, batch_size: int | None = None, start: int = 0
    ) -> Iterator[Batch]:
        """Yield every image once, in the order of the set, unshifted; the degradation's draws are fixed.

        Args:
            flip: serve the mirrored view.
            hr: whether ``batch.hr`` is wanted.
            batch_size: images per batch; the training's if left out.
            start: position of the first image, to go on where one stopped.
        """
        n = len(self.images)
        size = batch_size or self.batch_size
        draws = draw(n, self.lr_size, self.degradation, _generator(self.seed, -1))
        rows = [slice(start, min(start + size, n)) for start in range(start, n, size)]
        no_shift = torch.zeros(n, 2, dtype=torch.long)
        view = torch.full((n,), flip)
        yield from self._batches(torch.arange(n), no_shift, view, draws, rows, rows, moves=flip, hr=hr)

    def _share(self, batch: slice) -> slice:
        size = -(-(batch.stop - batch.start) // self.world_size)
        return slice(batch.start + self.rank * size, min(batch.start + (self.rank + 1) * size, batch.stop))

    def _batches(
        self,
        order: Tensor,
        shift: Tensor,
        flip: Tensor,
        draws: Draws,
        rows: list[slice],
        shares: list[slice],
        *,
        moves: bool,
        hr: bool,
        zoom: Tensor | None = None,
        colour: Tensor | None = None,
    ) -> Iterator[Batch]:
        raw = self._decoded(order, shares)
        order, shift, flip = (t.to(self.device, non_blocking=True) for t in (order, shift, flip))
        draws = draws.to(self.device)
        zoom, colour = (None if t is None else t.to(self.device, non_blocking=True) for t in (zoom, colour))
        for whole, row in zip(rows, shares, strict=True):
            index = order[row]
            pixels = next(raw) if self.pixels is None else self.pixels[index]
            if moves:
                pixels = shift_and_flip(pixels, shift[row], flip[row])
            images = pixels.float().mul_(1 / 255)
            if zoom is not None:
                images = zoomed(images, zoom[row])
            if colour is not None:
                images = recoloured(images, colour[row])
            lr = self._lr(images, draws.part(whole, row))
            yield Batch(
                hr=images if hr or lr is images else None,
                lr=lr,
                label=self.label[index],
                index=index,
                view=flip[row].long(),
            )

    def _lr(self, images: Tensor, draws: Draws) -> Tensor:
        clean = Degradation(kernel=self.degradation.kernel).resolved()
        if self.lr_size == self.hr_size and self.degradation.resolved() == clean:
            return images
        return degrade(images, self.lr_size, self.degradation, draws=draws)

    def _decoded(self, order: Tensor, rows: list[slice]) -> Iterator[Tensor]:
        if self.pixels is not None:
            return iter(())
        batches = DataLoader(
            _Decode(self.images, self.hr_size, self.fit),
            batch_sampler=[order[row].tolist() for row in rows],
            num_workers=min(self.workers, _cores()),  # torch warns of more
            # its own, or it would draw from the global one and with it change the weights and the anchors
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
            collate_fn=_joined,
        )
        return (_checked(batch).to(self.device, non_blocking=True) for batch in batches)


class _Decode(Dataset[Tensor | CrossresError]):
    """Decodes one image at a time, for worker processes.

    A corrupt image is handed over, not raised: the DataLoader would wrap a worker's traceback around its name.
    """

    def __init__(self, images: ImageSet, size: int, fit: Literal["crop", "squash", "pad"]) -> None:
        self.images = images
        self.size = size
        self.fit: Literal["crop", "squash", "pad"] = fit

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor | CrossresError:
        try:
            return self.images.sample(i, self.size, self.fit)
        except CrossresError as error:
            return error


def _joined(samples: list[Tensor | CrossresError]) -> Tensor | CrossresError:
    for sample in samples:
        if isinstance(sample, CrossresError):
            return sample
    joined: Tensor = default_collate(samples)
    return joined


def _checked(batch: Tensor | CrossresError) -> Tensor:
    if isinstance(batch, CrossresError):
        # a new one: a frame that holds the error it raises is a cycle, and would keep the workers for seconds
        raise CrossresError(str(batch))
    return batch


def shift_and_flip(pixels: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Shift each image by its own offset, mirroring its border into view, and mirror it if asked to.

    Args:
        pixels: (B, C, H, W) of any type.
        shift: (B, 2) int64: down and right, in pixels, less than H and W.
        flip: (B,) bool: left to right, after the shift.

    Returns:
        A tensor like ``pixels``.
    """
    height, width = pixels.shape[-2:]
    rows = _mirror(torch.arange(height, device=pixels.device) - shift[:, :1], height)
    columns = torch.arange(width, device=pixels.device) - shift[:, 1:]
    columns = _mirror(torch.where(flip[:, None], columns.flip(1), columns), width)
    # one gather over all pixels is five times as fast as one per axis
    source = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    return pixels.flatten(2).gather(2, source[:, None].expand(-1, pixels.shape[1], -1)).view_as(pixels)


def zoomed(images: Tensor, factor: Tensor) -> Tensor:
    """Enlarge (or below 1 reduce) each image about its centre, bilinear, mirroring its border into view.

    Args:
        images: floating point (B, C, H, W).
        factor: (B,), above 0.
    """
    turn = torch.zeros(len(images), 2, 3, device=images.device)
    turn[:, 0, 0] = turn[:, 1, 1] = 1 / factor
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def recoloured(images: Tensor, factor: Tensor) -> Tensor:
    """Change the brightness, contrast and saturation of each image, in this order.

    Args:
        images: floating point (B, 3, H, W) in 0..1, as what is returned.
        factor: (B, 3), of the values, of their distance to the image's mean and of that to each pixel's luminance
            (ITU-R BT.601).
    """
    brightness, contrast, saturation = factor.to(images.dtype)[:, :, None].unbind(1)
    # all three are linear: one product of matrices is several times as fast as a pass each
    luminance = images.new_zeros(3, 3)
    for channel, share in enumerate((0.299, 0.587, 0.114)):
        luminance[:, channel] = share
    itself = torch.eye(3, dtype=images.dtype, device=images.device)
    mixed = saturation[..., None] * itself + (1 - saturation[..., None]) * luminance
    mean = images.mean((1, 2, 3))[:, None]
    offset = brightness * (1 - contrast) * mean
    changed = torch.baddbmm(offset[..., None], (brightness * contrast)[..., None] * mixed, images.flatten(2))
    return changed.clamp_(0, 1).view_as(images)


def _mirror(position: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - position.abs()).abs()


def _cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _generator(seed: int, epoch: int) -> torch.Generator:
    # two plain numbers into one seed, so that epoch 1 of seed 0 is not epoch 0 of seed 1
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)
