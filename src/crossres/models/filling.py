"""Filling a teacher's cache: every process that needs it computes shards that nobody else is at."""

import hashlib
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossres.core.cores import give_back_memory
from crossres.core.errors import CrossresError
from crossres.core.files import held, read_json, to_json, write_atomically
from crossres.data.loader import Loader
from crossres.losses.maps import pooled
from crossres.models import cache
from crossres.models.cache import LOGITS, ShardFile, TeacherCache, logits_kept
from crossres.models.encoder import Encoder
from crossres.models.weights import weights_sha256

#: Images per forward pass of the teacher.
BATCH = 128
#: Seconds between two looks at other processes that compute the last shards.
LOOK_EVERY = 5.0
#: What lies beside the shards and says of what they are.
RECORD = "cache.json"


def cached_outputs(
    teacher: Encoder,
    loader: Loader,
    folder: Path | None,
    *,
    flip: bool,
    mirrored: bool = False,
    top_k: int = 0,
    autocast: Callable[[], Any],
    precision: str,
    maps: Mapping[str, tuple[int, int]] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    agree: Callable[[dict[str, Any]], dict[str, Any]] = lambda key: key,
) -> TeacherCache:
    """Return the teacher's outputs on the unshifted images, from disk where they are there.

    Of what is not there each process computes a shard of each view at a time, whatever run or machine it is of; the
    memory is that of these. On a GPU, outputs within the loader's ``memory_mb`` are copied to it.

    Args:
        teacher: in eval mode, on the loader's device.
        loader: serves the training images.
        folder: where the shards lie, in a folder for each view; None keeps all outputs in memory only.
        flip: whether the mirrored view is needed.
        mirrored: let the cache answer with the mean of both views.
        top_k: keep so many logits an image, see `TeacherCache`; 0: all.
        autocast: context of the teacher's forward pass.
        precision: its name, part of the key with the teacher's weights and outputs, the data, the size and the view.
        maps: feature maps to keep, too, pooled to these sizes (height, width) by path; the teacher captures them.
        progress: called with (what, done, total).
        agree: returns the key of the run's first process, given that of this one.

    Raises:
        CrossresError: unusable embeddings or maps; a folder that cannot be written, lacks the space or is
            of another teacher or data.
    """
    classes = len(teacher.classes)
    top_k = top_k if top_k < classes else 0
    run = _TeacherPass(teacher, loader, maps or {}, top_k, autocast, progress)
    # the last bits of the probe may differ between machines
    key = agree(run.key(precision))
    views = (False, True) if flip or mirrored else (False,)
    if folder is None:
        parts = [run.outputs(*rows, views) for rows in run.bounds]
        shards = [part[view] for view in range(len(views)) for part in parts]
    else:
        shards = run.filled(folder, key, views)
    on_gpu = torch.device(loader.device).type != "cpu"
    size = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    if folder is None or (on_gpu and size <= loader.memory_mb * 2**20):
        whole = {name: torch.cat([shard.pop(name) for shard in shards]).to(loader.device) for name in list(shards[0])}
        return TeacherCache([whole], len(loader.images), loader.device, mirrored, classes=classes)
    return TeacherCache(shards, len(run.bounds) * cache.ROWS, loader.device, mirrored, classes=classes)


@dataclass
class _TeacherPass:
    """A teacher on all images, some of them at a time."""

    teacher: Encoder
    loader: Loader
    maps: Mapping[str, tuple[int, int]]
    top_k: int
    autocast: Callable[[], Any]
    progress: Callable[[str, int, int], None]
    row_bytes: int = 0  #: of an image's outputs, once it was probed
    bounds: list[tuple[int, int]] = field(init=False)  #: first and last row + 1 of each shard

    def __post_init__(self) -> None:
        count = len(self.loader.images)
        self.bounds = [(start, min(start + cache.ROWS, count)) for start in range(0, count, cache.ROWS)]

    def key(self, precision: str) -> dict[str, Any]:
        """Return all that the outputs depend on."""
        return {
            "teacher": weights_sha256(self.teacher),
            "data": self.loader.images.fingerprint,
            "hr_size": self.loader.hr_size,
            "fit": self.loader.fit,
            "precision": precision,
            "maps": {path: list(size) for path, size in self.maps.items()},
            "images": len(self.loader.images),
            "rows": cache.ROWS,
            **({"top_k": self.top_k} if self.top_k else {}),
            "probe": self.probe(),
        }

    def probe(self) -> str:
        """Return a digest of the outputs for a fixed image: it changes with the code and the memory order, too."""
        size, threads = self.loader.hr_size, torch.get_num_threads()
        image = torch.linspace(0, 1, 3 * size * size, device=self.loader.device).view(1, 3, size, size)
        torch.set_num_threads(1)  # the last bits depend on how many there are
        try:
            with torch.no_grad(), self.autocast():
                outputs = self.teacher(image)
        finally:
            torch.set_num_threads(threads)
        kept = self._kept(outputs)
        self.row_bytes = sum(tensor.nbytes for tensor in kept.values())
        parts = [part for part in (outputs.embedding, outputs.logits) if part is not None]
        return hashlib.sha256(torch.cat(parts, dim=1).float().cpu().numpy().tobytes()).hexdigest()

    def filled(self, folder: Path, key: Mapping[str, Any], views: Iterable[bool]) -> list[dict[str, Tensor]]:
        """Return the shards of each view, mapped; compute those that are not there and wait for other processes'."""
        of_views = [self._files(folder, {**key, "flip": flip}) for flip in views]
        files = [file for of_view in of_views for file in of_view]
        shards = {file: rows for file in files if (rows := file.mapped()) is not None}
        self._demand_space(folder, [file for file in files if file not in shards])
        rank, world = self.loader.rank, self.loader.world_size
        # a run's processes begin at different rows
        numbers = sorted(range(len(self.bounds)), key=lambda number: ((number - rank) % world, number))
        while len(shards) < len(files):
            wrote = False
            for number in numbers:
                missing = [of_view[number] for of_view in of_views if of_view[number] not in shards]
                shards |= {file: rows for file in missing if (rows := file.mapped()) is not None}
                if not shards.keys() >= set(missing):
                    wrote |= self._write([of_view[number] for of_view in of_views], shards)
            if not wrote and len(shards) < len(files):
                done = sum(file.last - file.first for file in shards)
                self.progress("teacher, in other processes", done, sum(file.last - file.first for file in files))
                time.sleep(LOOK_EVERY)
        return [shards[file] for file in files]

    def _write(self, same_rows: Sequence[ShardFile], shards: dict[ShardFile, dict[str, Tensor]]) -> bool:
        """Add the shards of some rows, one a view, decoded once; return False where another process does it."""
        with held(lock := same_rows[0].path.with_suffix(".lock")) as mine:
            if not mine:
                return False
            shards |= {f: rows for f in same_rows if f not in shards and (rows := f.mapped(note=True)) is not None}
            missing = [file for file in same_rows if file not in shards]
            outputs = (
                self.outputs(missing[0].first, missing[0].last, [file.flip for file in missing]) if missing else []
            )
            for file, rows in zip(missing, outputs, strict=True):
                shards[file] = file.written(rows)
            with suppress(OSError):
                lock.unlink()  # a process that waited for it sees that the shards are done
        return True

    def _files(self, folder: Path, key: Mapping[str, Any]) -> list[ShardFile]:
        """Return the files of a view, in a folder that holds its key; refuse one that holds another."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        record = folder / digest / RECORD
        if not record.exists():
            if not key["flip"] and not self.loader.rank:
                _say_other_data(folder, key)
            write_atomically(record, lambda file: file.write(to_json(key, 1).encode()), "; give another cache_dir")
        elif other := [what for what, value in key.items() if read_json(record).get(what) != value]:
            raise CrossresError(f"{record} is of another '{other[0]}'; remove its folder or give another cache_dir")
        return [
            ShardFile(record.with_name(f"{number:05}.safetensors"), digest, *rows, key["flip"])
            for number, rows in enumerate(self.bounds)
        ]

    def _demand_space(self, folder: Path, missing: Sequence[ShardFile]) -> None:
        needed = sum(file.last - file.first for file in missing) * self.row_bytes
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise CrossresError(
                f"the teacher's outputs need {needed / 1e9:,.1f} GB, and {folder} has {free / 1e9:,.1f} GB free: "
                "give another cache_dir, or set teacher_cache to false"
            )

    def outputs(self, start: int, stop: int, views: Sequence[bool]) -> list[dict[str, Tensor]]:
        """Run the teacher on the images at positions ``start`` to ``stop - 1``, of each view as they are or flipped.

        Return what is kept of each view, by name.
        """
        kept: list[dict[str, list[Tensor]]] = [defaultdict(list) for _ in views]
        # a batch size of its own: the last bits depend on it, and every run may read what this one writes
        batches = [torch.arange(at, min(at + BATCH, stop)) for at in range(start, stop, BATCH)]
        for positions, images in zip(batches, self.loader.unshifted(batches), strict=True):
            for flip, of_view in zip(views, kept, strict=True):
                with torch.no_grad(), self.autocast():
                    outputs = self.teacher(images.flip(-1) if flip else images)
                rows = self._kept(outputs)
                self._refuse_unusable(rows, int(positions[0]))
                for name, tensor in rows.items():
                    of_view[name].append(tensor)
            self.progress("teacher", int(positions[-1]) + 1, len(self.loader.images))
        give_back_memory()
        return [{name: torch.cat(of_view.pop(name)) for name in list(of_view)} for of_view in kept]

    def _kept(self, outputs: Any) -> dict[str, Tensor]:
        """Return the rows of a shard for a batch of outputs, on the CPU."""
        kept = {"embedding": outputs.embedding.float().cpu()}
        if outputs.logits is not None:
            kept |= logits_kept(outputs.logits.float(), self.top_k)
        for path, size in self.maps.items():
            kept[path] = pooled(outputs.features[path].float(), size).half().contiguous().cpu()
        return kept

    def _refuse_unusable(self, kept: Mapping[str, Tensor], start: int) -> None:
        embedding = kept["embedding"]
        bad = ~torch.isfinite(embedding).all(1)
        if kept.keys().isdisjoint(LOGITS):
            bad |= (embedding == 0).all(1)
        if bool(bad.any()):
            first = self.loader.images.where(start + int(bad.int().argmax()))
            raise CrossresError(
                f"the teacher's embedding of {first} is NaN, infinite or 0 ({int(bad.sum())} of a batch of "
                f"{len(bad)}): check what the teacher expects of its input, or leave these images out"
            )
        for name, tensor in kept.items():
            if not bool(torch.isfinite(tensor).all()):
                what = "logits are" if name in LOGITS else f"map '{name}' is"
                if bool(tensor.isnan().any()):
                    raise CrossresError(f"the teacher's {what} NaN: check its weights")
                reason = "beyond 65,504, the range of float16: set teacher_cache to false"
                raise CrossresError(f"the teacher's {what} {reason}")


def _say_other_data(folder: Path, key: Mapping[str, Any]) -> None:
    """Say that a cache is there that differs by its images alone: of copied files it may be the times only."""
    for record in folder.glob(f"*/{RECORD}"):
        with suppress(CrossresError):
            other = read_json(record)
            if [what for what, value in key.items() if other.get(what) != value] == ["data"]:
                print(
                    f"{record.parent} is of other images, or of files with other modification times (cp -p keeps "
                    "them, --images.verify true compares bytes); computing anew",
                    file=sys.stderr,
                )
                return
