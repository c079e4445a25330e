"""A teacher's outputs, computed once per view and kept on disk."""

from __future__ import annotations

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

from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.core.types import Outputs
from crossres.data.loader import Loader
from crossres.losses.maps import resized
from crossres.models.encoder import Encoder
from crossres.models.weights import weights_sha256

#: Images per forward pass of the teacher.
BATCH = 128
#: Seconds between two looks at a process that is asking the teacher already.
LOOK_EVERY = 5.0
#: Images after which what the teacher said is put on disk, a multiple of BATCH: an interruption costs at most these.
PART = 16 * BATCH


@dataclass
class TeacherCache:
    """What the teacher says of every training image, on one device.

    Attributes:
        embedding: (views, N, d), float32.
        logits: (views, N, C), float32; None for a teacher without a classifier.
        features: maps (views, N, c, h, w) by module path, float16.
        mirrored: answer with the mean of both views' embeddings and logits.
    """

    embedding: Tensor
    logits: Tensor | None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    mirrored: bool = False

    def __call__(self, index: Tensor, view: Tensor) -> Outputs:
        """Return the teacher's outputs of images ``index`` (B,) in their ``view`` (B,): 0 or 1 = flipped."""
        features = {path: maps[view, index] for path, maps in self.features.items()}
        if self.mirrored:
            means = [None if kept is None else kept[:, index].mean(0) for kept in (self.embedding, self.logits)]
            assert means[0] is not None
            return Outputs(means[0], means[1], features)
        logits = None if self.logits is None else self.logits[view, index]
        return Outputs(self.embedding[view, index], logits, features)


@dataclass(frozen=True)
class CachedMaps:
    """The feature maps that a cache keeps, at the size they are compared at.

    Attributes:
        sizes: (height, width) by module path, in the order of the network.
        match: how they are brought there, as in `MapLoss`.
    """

    sizes: Mapping[str, tuple[int, int]]
    match: str


def cached_outputs(
    teacher: Encoder,
    loader: Loader,
    folder: Path | None,
    *,
    flip: bool,
    mirrored: bool = False,
    autocast: Callable[[], Any],
    precision: str,
    maps: CachedMaps | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> TeacherCache:
    """Return the teacher's outputs on the unshifted images, from disk where they are there.

    Args:
        teacher: in eval mode, on the loader's device.
        loader: serves the training images.
        folder: where the files lie, one per view; None keeps them in memory only.
        flip: whether the mirrored view is asked for.
        mirrored: let the cache answer with the mean of both views.
        autocast: context of the teacher's forward pass.
        precision: its name, part of the key with the teacher's weights and answers, the data, the size and the view.
        maps: feature maps to keep, too; the teacher captures them.
        progress: told (what, done, total).
    """
    shared = {
        "teacher": weights_sha256(teacher),
        "probe": _probe(teacher, loader, autocast),
        "data": loader.images.fingerprint,
        "hr_size": loader.hr_size,
        "fit": loader.fit,
        "precision": precision,
        **({"maps": {path: list(size) for path, size in maps.sizes.items()}, "match": maps.match} if maps else {}),
    }
    keys = [{**shared, "flip": bool(view)} for view in range(2 if flip or mirrored else 1)]
    views = [_view(teacher, loader, folder, key, maps, autocast, progress) for key in keys]
    joined = {name: torch.stack([v.pop(name) for v in views]).to(loader.device) for name in list(views[0])}
    features = {path: joined[path] for path in maps.sizes} if maps else {}
    return TeacherCache(joined["embedding"], joined.get("logits"), features, mirrored)


def _view(
    teacher: Encoder,
    loader: Loader,
    folder: Path | None,
    key: dict[str, Any],
    maps: CachedMaps | None,
    autocast: Callable[[], Any],
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    if folder is None:
        return _joined(list(_parts(teacher, loader, key["flip"], maps, autocast, progress)))
    path = folder / f"{digest}.safetensors"
    # what an interruption leaves behind: whole parts, in order
    beside = folder / f"{digest}.parts"

    def waiting() -> None:
        progress("teacher, in another process", PART * len(list(beside.glob("*.safetensors"))), len(loader.images))

    found = _read(path)
    if found is None:
        with _alone(folder / f"{digest}.lock", waiting) as waited:
            found = _read(path) if waited else None
            found = found or _computed(path, beside, teacher, loader, key, maps, autocast, progress)
    return found


@contextmanager
def _alone(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Let one process at a time in, of this machine or of those that share the folder; say whether it had to wait.

    No timeout ends the wait, as one would that processes have for each other.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, waited = FileLock(path), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=LOOK_EVERY if waited else 0)
            except Timeout:
                waited = True
                waiting()
    except (OSError, NotImplementedError) as error:
        raise CrossresError(f"cannot lock {path} ({error}): give another cache_dir") from None
    try:
        yield waited
    finally:
        lock.release()


def _computed(
    path: Path,
    beside: Path,
    teacher: Encoder,
    loader: Loader,
    key: dict[str, Any],
    maps: CachedMaps | None,
    autocast: Callable[[], Any],
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """Ask the teacher, keeping parts ``beside`` until the whole is written to ``path``."""
    files = [beside / f"{number}.safetensors" for number in range(-(-len(loader.images) // PART))]
    parts: list[dict[str, Tensor]] = []
    for file in files:
        part = _read(file)
        if part is None:
            break
        parts.append(part)
    rest = _parts(teacher, loader, key["flip"], maps, autocast, progress, start=len(parts) * PART)
    for part, file in zip(rest, files[len(parts) :], strict=True):
        _save(part, file, {})
        parts.append(part)
    whole = _joined(parts)
    _save(whole, path, key)
    shutil.rmtree(beside, ignore_errors=True)
    return whole


def _parts(
    teacher: Encoder,
    loader: Loader,
    flip: bool,
    maps: CachedMaps | None,
    autocast: Callable[[], Any],
    progress: Callable[[str, int, int], None],
    start: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """Yield what the teacher says of each ``PART`` images from position ``start`` on."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    done = start
    # a batch size of its own: the last bits depend on it, and every run may read what this one writes
    for batch in loader.ordered(flip=flip, hr=True, batch_size=BATCH, start=start):
        with torch.no_grad(), autocast():
            said = teacher(batch.hr)
        outputs["embedding"].append(said.embedding.float().cpu())
        _refuse_unusable(outputs["embedding"][-1], said.logits is None, loader, done)
        if said.logits is not None:
            outputs["logits"].append(said.logits.float().cpu())
        if maps is not None:
            for name, size in maps.sizes.items():
                kept = resized(said.features[name].float(), size, maps.match).half().contiguous().cpu()
                if not bool(torch.isfinite(kept).all()):
                    raise CrossresError(
                        f"the teacher's map '{name}' is NaN or beyond 65,504, the range of float16: "
                        "set teacher_cache to false"
                    )
                outputs[name].append(kept)
        done += len(batch.label)
        progress("teacher", done, len(loader.images))
        if done % PART == 0 or done == len(loader.images):
            yield {name: torch.cat(outputs.pop(name)) for name in list(outputs)}


def _refuse_unusable(embedding: Tensor, alone: bool, loader: Loader, start: int) -> None:
    """Refuse rows that are not finite, or all 0 where the embedding is ``alone``, before they reach the disk."""
    bad = ~torch.isfinite(embedding).all(1)
    if alone:
        bad |= (embedding == 0).all(1)
    if bool(bad.any()):
        first = start + int(bad.int().argmax())
        raise CrossresError(
            f"the teacher's embedding of {loader.images.where(first)} is NaN, infinite or 0 ({int(bad.sum())} of "
            f"a batch of {len(bad)}): check what the teacher expects of its input, or leave these images out"
        )


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}


def _save(tensors: dict[str, Tensor], path: Path, key: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    facts = {**{name: str(value) for name, value in key.items()}, "sha256": _sha256(tensors)}
    write_atomically(path, lambda file: file.write(save(tensors, metadata=facts)))


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None where there is none, or one that is not what was written."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("sha256") == _sha256(found):
                return found
            reason = "is not as it was written"
    except (SafetensorError, OSError):
        reason = "cannot be read"
    print(f"{path} {reason} and is computed anew", file=sys.stderr)
    return None


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().data.cast("B"))
    return total.hexdigest()


def _probe(teacher: Encoder, loader: Loader, autocast: Callable[[], Any]) -> str:
    """Return a digest of what the teacher says to a fixed image: it changes with its code and memory order too."""
    size = loader.hr_size
    image = torch.linspace(0, 1, 3 * size * size, device=loader.device).view(1, 3, size, size)
    with torch.no_grad(), autocast():
        said = teacher(image)
    answer = said.embedding if said.logits is None else torch.cat([said.embedding, said.logits], dim=1)
    return hashlib.sha256(answer.float().cpu().numpy().tobytes()).hexdigest()
