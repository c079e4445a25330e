"""A teacher's outputs by position: memory-mapped from shards of a fixed number of rows, or in memory."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.core.types import Outputs
from crossres.data.loader import resampled

#: Names of what is kept of logits: all of them, or the largest, their classes and what each of the others has.
LOGITS = ("logits", "top_logits", "top_classes", "other_logits")
#: Rows of a shard, a multiple of the images per forward pass. An interruption costs a process at most these.
ROWS = 4096


@dataclass
class TeacherCache:
    """The teacher's outputs for every training image; those of shards that are mapped take no memory of their own.

    Attributes:
        shards: tensors by name: embedding (rows, d) float32; logits (rows, C) float16, where there are any, or of the
            largest alone what `logits_kept` returns; maps (rows, c, h, w) float16 by module path.
        stride: rows from an image's first view to its second, which is flipped; 0 where both are one.
        device: where the answers lie.
        mirrored: answer with the mean of both views' embeddings and logits.
        order: row of each image, int64 (N,), where that is another than its position.
        classes: the teacher's, where only the largest logits are kept.
    """

    shards: Sequence[Mapping[str, Tensor]]
    stride: int
    device: torch.device | str = "cpu"
    mirrored: bool = False
    order: Tensor | None = None
    classes: int = 0

    def __post_init__(self) -> None:
        self.maps = [name for name in self.shards[0] if name not in ("embedding", *LOGITS)]
        self._arrays = {}
        if len(self.shards) > 1:  # NumPy takes a row out of one several times as fast as torch
            self._arrays = {name: [shard[name].numpy() for shard in self.shards] for name in self.shards[0]}

    def __call__(self, index: Tensor, view: Tensor, place: Tensor | None = None) -> Outputs:
        """Return the teacher's outputs for images ``index`` (B,) in their ``view`` (B,): 0 or 1 = flipped.

        Maps follow a shift and a zoom of the images, given as the ``place`` (B, 2, 3) of a `Batch`.
        """
        first = index if self.order is None else self.order[index]
        own = first + self.stride * view

        if self._arrays:  # one wait for the device, not one for each output
            first, own = first.cpu(), own.cpu()

        def answer(read: Callable[[Tensor], Tensor]) -> Tensor:
            return (read(first) + read(first + self.stride)) / 2 if self.mirrored else read(own)

        features = {path: self._rows(path, own) for path in self.maps}
        if place is not None:
            features = {path: resampled(maps.float(), place) for path, maps in features.items()}
        has_logits = not self.shards[0].keys().isdisjoint(LOGITS)
        return Outputs(answer(self._embedding), answer(self._logits) if has_logits else None, features)

    def embeddings(self, count: int) -> Tensor:
        """Return the embeddings of the first ``count`` images, unflipped, (count, d)."""
        index = torch.arange(count, device=self.device)
        return self(index, torch.zeros_like(index)).embedding

    def _embedding(self, row: Tensor) -> Tensor:
        return self._rows("embedding", row).float()

    def _logits(self, row: Tensor) -> Tensor:
        if "logits" in self.shards[0]:
            return self._rows("logits", row).float()
        others = self._rows("other_logits", row).float().expand(-1, self.classes)
        return others.scatter(1, self._rows("top_classes", row).long(), self._rows("top_logits", row).float())

    def _rows(self, name: str, row: Tensor) -> Tensor:
        if not self._arrays:
            stored = self.shards[0][name]
            return stored[row.to(stored.device)].to(self.device)
        arrays = self._arrays[name]
        rows = np.empty((len(row), *arrays[0].shape[1:]), arrays[0].dtype)
        for i, number in enumerate(row.tolist()):
            rows[i] = arrays[number // ROWS][number % ROWS]
        return torch.from_numpy(rows).to(self.device)


def logits_kept(logits: Tensor, top_k: int) -> dict[str, Tensor]:
    """Return what a shard keeps of logits (B, C): all of them, or with ``top_k`` the largest.

    Then each of the others counts as the logit with which together they have the probability that they had. Source:
    Shen and Xing 2022 (arXiv 2112.01528), marginal smoothing with top-K.
    """
    if not top_k:
        return {"logits": logits.half().cpu()}
    top, classes = logits.topk(top_k, 1)
    others = logits.scatter(1, classes, -torch.inf).logsumexp(1, keepdim=True) - math.log(logits.shape[1] - top_k)
    kept = {"top_logits": top.half(), "top_classes": classes.int(), "other_logits": others.half()}
    return {name: tensor.cpu() for name, tensor in kept.items()}


@dataclass(frozen=True)
class ShardFile:
    """A file of some rows of a view, whole or not there: ``first`` to ``last - 1`` of the cache of a ``digest``."""

    path: Path
    digest: str
    first: int
    last: int
    flip: bool = False

    def written(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Write the rows and map them; CrossresError where the disk is full or the folder cannot be written."""
        from safetensors.torch import save

        remedy = ", or give another cache_dir: the same command goes on, as whole shards are kept"
        write_atomically(self.path, lambda file: file.write(save(tensors, metadata=self._facts)), remedy)
        if (rows := self.mapped(note=True)) is None:
            raise CrossresError(f"{self.path} cannot be read after it was written: give another cache_dir")
        return rows

    def mapped(self, note: bool = False) -> dict[str, Tensor] | None:
        """Return the rows as tensors that are mapped from the file; None where they are not there, or not all.

        Only the header is read: that it fits the file's size, the rows and the digest. With ``note`` a line says what
        is wrong.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:  # refuses a size that is not the header's
                if file.metadata() == self._facts:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    if {len(tensor) for tensor in tensors.values()} == {self.last - self.first}:
                        return tensors
            reason = "is of another teacher or of other data"
        except (SafetensorError, OSError):
            reason = "is cut short or damaged"
        if note:
            print(f"{self.path} {reason}; computing it again", file=sys.stderr)
        return None

    @property
    def _facts(self) -> dict[str, str]:
        return {"cache": self.digest, "first": str(self.first)}
