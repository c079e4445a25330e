"""A teacher's outputs, computed once per view and kept on disk."""

import hashlib
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossres.core.errors import CrossresError, library_errors
from crossres.core.files import write_atomically
from crossres.core.types import Outputs
from crossres.data.loader import Loader, resampled
from crossres.losses.maps import pooled
from crossres.models.encoder import Encoder
from crossres.models.weights import weights_sha256

#: Images per forward pass of the teacher.
BATCH = 128
#: Seconds between two looks at another process that computes the same outputs.
LOOK_EVERY = 5.0
#: Images after which outputs are written to disk, a multiple of BATCH: an interruption costs at most these.
PART = 16 * BATCH


@dataclass
class TeacherCache:
    """The teacher's outputs for every training image, on one device."""

    embedding: Tensor  #: (views, N, d), float32
    logits: Tensor | None  #: (views, N, C), float32; None for a teacher without a classifier
    features: Mapping[str, Tensor] = field(default_factory=dict)  #: maps (views, N, c, h, w) by module path, float16
    mirrored: bool = False  #: answer with the mean of both views' embeddings and logits

    def __call__(self, index: Tensor, view: Tensor, place: Tensor | None = None) -> Outputs:
        """Return the teacher's outputs for images ``index`` (B,) in their ``view`` (B,): 0 or 1 = flipped.

        Maps follow a shift and a zoom of the images, given as the ``place`` (B, 2, 3) of a `Batch`.
        """

        def rows(stored: Tensor) -> Tensor:
            return stored[:, index].mean(0) if self.mirrored else stored[view, index]

        logits = None if self.logits is None else rows(self.logits)
        features = {path: maps[view, index] for path, maps in self.features.items()}
        if place is not None:
            features = {path: resampled(maps.float(), place) for path, maps in features.items()}
        return Outputs(rows(self.embedding), logits, features)


def cached_outputs(
    teacher: Encoder,
    loader: Loader,
    folder: Path | None,
    *,
    flip: bool,
    mirrored: bool = False,
    autocast: Callable[[], Any],
    precision: str,
    maps: Mapping[str, tuple[int, int]] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> TeacherCache:
    """Return the teacher's outputs on the unshifted images, from disk where they are there.

    Args:
        teacher: in eval mode, on the loader's device.
        loader: serves the training images.
        folder: where the files lie, one per view; None keeps them in memory only.
        flip: whether the mirrored view is needed.
        mirrored: let the cache answer with the mean of both views.
        autocast: context of the teacher's forward pass.
        precision: its name, part of the key with the teacher's weights and outputs, the data, the size and the view.
        maps: feature maps to keep, too, pooled to these sizes (height, width) by path; the teacher captures them.
        progress: called with (what, done, total).

    Raises:
        CrossresError: unusable embeddings or maps, or a folder that cannot be written or locked.
    """
    run = _TeacherPass(teacher, loader, maps or {}, autocast, progress)
    shared = {
        "teacher": weights_sha256(teacher),
        "probe": run.probe(),
        "data": loader.images.fingerprint,
        "hr_size": loader.hr_size,
        "fit": loader.fit,
        "precision": precision,
        # there was another way to resize maps once: "match" keeps the files of that time valid
        **({"maps": {path: list(size) for path, size in maps.items()}, "match": "pool"} if maps else {}),
    }
    views = [run.view(folder, {**shared, "flip": bool(view)}) for view in range(2 if flip or mirrored else 1)]
    joined = {name: torch.stack([v.pop(name) for v in views]).to(loader.device) for name in list(views[0])}
    features = {path: joined[path] for path in maps or {}}
    return TeacherCache(joined["embedding"], joined.get("logits"), features, mirrored)


@dataclass(frozen=True)
class _TeacherPass:
    """A teacher on all images: `cached_outputs` for one view at a time."""

    teacher: Encoder
    loader: Loader
    maps: Mapping[str, tuple[int, int]]
    autocast: Callable[[], Any]
    progress: Callable[[str, int, int], None]

    def probe(self) -> str:
        """Return a digest of the outputs for a fixed image: it changes with the code and the memory order, too."""
        size = self.loader.hr_size
        image = torch.linspace(0, 1, 3 * size * size, device=self.loader.device).view(1, 3, size, size)
        with torch.no_grad(), self.autocast():
            outputs = self.teacher(image)
        parts = [part for part in (outputs.embedding, outputs.logits) if part is not None]
        return hashlib.sha256(torch.cat(parts, dim=1).float().cpu().numpy().tobytes()).hexdigest()

    def view(self, folder: Path | None, key: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the outputs for one view, from disk where they are there."""
        if folder is None:
            return _joined(list(self._parts(key["flip"])))
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = folder / f"{digest}.safetensors"

        def waiting() -> None:
            done = PART * len(list(path.with_suffix(".parts").glob("*.safetensors")))
            self.progress("teacher, in another process", done, len(self.loader.images))

        if (outputs := _load(path)) is None:
            with _locked(path.with_suffix(".lock"), waiting) as waited:
                outputs = (_load(path) if waited else None) or self._computed(path, key)
        return outputs

    def _computed(self, path: Path, key: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the teacher; until the whole is written to ``path``, an interruption leaves whole parts beside it."""
        beside = path.with_suffix(".parts")
        parts: list[dict[str, Tensor]] = []
        while (part := _load(beside / f"{len(parts)}.safetensors")) is not None:
            parts.append(part)
        for part in self._parts(key["flip"], len(parts) * PART):
            _save(part, beside / f"{len(parts)}.safetensors", {})
            parts.append(part)
        whole = _joined(parts)
        _save(whole, path, key)
        shutil.rmtree(beside, ignore_errors=True)
        return whole

    def _parts(self, flip: bool, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the outputs for each ``PART`` images from position ``start`` on."""
        kept: dict[str, list[Tensor]] = defaultdict(list)
        done, count = start, len(self.loader.images)
        # a batch size of its own: the last bits depend on it, and every run may read what this one writes
        for batch in self.loader.ordered(range(start, count), flip=flip, hr=True, batch_size=BATCH):
            with torch.no_grad(), self.autocast():
                outputs = self.teacher(batch.hr)
            embedding = outputs.embedding.float().cpu()
            kept["embedding"].append(embedding)
            bad = ~torch.isfinite(embedding).all(1)
            if outputs.logits is not None:
                kept["logits"].append(outputs.logits.float().cpu())
            else:
                bad |= (embedding == 0).all(1)
            if bool(bad.any()):
                first = self.loader.images.where(done + int(bad.int().argmax()))
                raise CrossresError(
                    f"the teacher's embedding of {first} is NaN, infinite or 0 ({int(bad.sum())} of a batch of "
                    f"{len(bad)}): check what the teacher expects of its input, or leave these images out"
                )
            for path, size in self.maps.items():
                maps = pooled(outputs.features[path].float(), size).half().contiguous().cpu()
                if not bool(torch.isfinite(maps).all()):
                    reason = "is NaN or beyond 65,504, the range of float16: set teacher_cache to false"
                    raise CrossresError(f"the teacher's map '{path}' {reason}")
                kept[path].append(maps)
            done += len(batch.label)
            self.progress("teacher", done, count)
            if done % PART == 0 or done == count:
                yield {name: torch.cat(kept.pop(name)) for name in list(kept)}


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold a lock among all processes that share the folder; yield whether it had to wait, for however long."""
    from filelock import FileLock, Timeout

    with library_errors(f"cannot lock {path}: give another cache_dir"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, waited = FileLock(path), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=LOOK_EVERY if waited else 0)
            except Timeout:
                waited = True
                waiting()
    try:
        yield waited
    finally:
        lock.release()


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}


def _save(tensors: dict[str, Tensor], path: Path, key: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    facts = {**{name: str(value) for name, value in key.items()}, "sha256": _sha256(tensors)}
    write_atomically(path, lambda file: file.write(save(tensors, metadata=facts)))


def _load(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None where there is none, or one that is not what was written."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("sha256") == _sha256(tensors):
                return tensors
            reason = "was changed after it was written"
    except (SafetensorError, OSError):
        reason = "cannot be read"
    print(f"{path} {reason}; computing it again", file=sys.stderr)
    return None


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().data.cast("B"))
    return total.hexdigest()
