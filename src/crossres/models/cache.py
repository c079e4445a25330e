"""A teacher's outputs, computed once per view and kept on disk."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossres.checkpoint import write_atomically
from crossres.data.loader import Loader
from crossres.errors import CrossresError
from crossres.losses.base import resized
from crossres.models.encoder import Encoder
from crossres.models.weights import weights_sha256
from crossres.types import Outputs

#: Images per forward pass of the teacher.
BATCH = 128


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{digest}.safetensors" if folder else None
    if path and path.exists():
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            print(f"{path} cannot be read and is computed anew", file=sys.stderr)
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    done = 0
    # a batch size of its own: the last bits depend on it, and every run may read what this one writes
    for batch in loader.ordered(flip=key["flip"], hr=True, batch_size=BATCH):
        with torch.no_grad(), autocast():
            said = teacher(batch.hr)
        outputs["embedding"].append(said.embedding.float().cpu())
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
    whole = {name: torch.cat(outputs.pop(name)) for name in list(outputs)}
    if path:
        write_atomically(path, lambda f: f.write(save(whole, metadata={k: str(v) for k, v in key.items()})))
    return whole


def _probe(teacher: Encoder, loader: Loader, autocast: Callable[[], Any]) -> str:
    """Return a digest of what the teacher says to a fixed image: it changes with its code and memory order too."""
    size = loader.hr_size
    image = torch.linspace(0, 1, 3 * size * size, device=loader.device).view(1, 3, size, size)
    with torch.no_grad(), autocast():
        said = teacher(image)
    answer = said.embedding if said.logits is None else torch.cat([said.embedding, said.logits], dim=1)
    return hashlib.sha256(answer.float().cpu().numpy().tobytes()).hexdigest()
