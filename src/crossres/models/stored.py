"""Stored embeddings as a teacher: the outputs of a network that is not at hand."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError, library_errors, one_line
from crossres.data.images import ImageSet, by_name
from crossres.data.shards import arrow
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder


class StoredBackbone(nn.Module):
    """Stands in for a network: the embeddings (N, d) of the images at N paths, read from a file."""

    def __init__(self, path: Path, paths: Sequence[str], values: Tensor) -> None:
        super().__init__()
        self.path = path
        self.paths = list(paths)
        self.values = values
        total = hashlib.sha256("\n".join(self.paths).encode("utf-8", "surrogateescape"))
        total.update(values.numpy().tobytes())
        self.digest = nn.Buffer(torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:  # noqa: ARG002
        raise CrossresError(f"{self.path}: there are embeddings of the stored images only; leave teacher_cache on")


def is_stored(path: str | Path) -> bool:
    """Return whether `stored_encoder` reads a path: by its ending, or of a folder by its files' endings."""
    path = Path(path)
    return path.suffix.lower() in READERS or (path.is_dir() and any(path.glob("*.parquet")))


def stored_encoder(path: str | Path) -> Encoder:
    """Read stored embeddings as a frozen teacher.

    Args:
        path: a ``.parquet`` with the columns path and embedding (lists of numbers), or a folder of such, as
            `crossres.deploy.bulk.embed` writes it; a ``.npz`` with the arrays path (N,) and embedding (N, d); or a
            ``.npy`` (N, d) with the paths, a line each, in a ``.txt`` of its name. Images whose embedding is null
            have none.

    Raises:
        CrossresError: no such file, other columns, rows of several widths, numbers that are NaN or infinite, a path
            twice.
    """
    path = Path(path)
    with library_errors(f"{path}: cannot be read as stored embeddings"):
        try:
            paths, values = READERS[".parquet" if path.is_dir() else path.suffix.lower()](path)
        except OSError as error:
            raise CrossresError(f"{error.filename or path}: {error.strerror or one_line(error)}") from None
    if values.ndim != 2 or len(values) != len(paths) or not values.size:
        raise CrossresError(f"{path}: {len(paths)} paths and embeddings of {values.shape}, expected (N, d)")
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise CrossresError(f"{path}: the embedding of {paths[bad[0]]} holds NaN or infinity ({len(bad)} such)")
    twice = [name for name, count in Counter(paths).items() if count > 1]
    if twice:
        raise CrossresError(f"{path}: {twice[0]} has two embeddings")
    encoder = Encoder(
        StoredBackbone(path, paths, torch.from_numpy(np.array(values, dtype=np.float32))),
        embedding_dim=values.shape[1],
        classes=(),
        input_size=None,
        architecture={"name": "stored", "file": path.name},
    )
    return encoder.eval().requires_grad_(False)


def stored_outputs(teacher: Encoder, images: ImageSet, device: torch.device | str) -> TeacherCache:
    """Return the stored embeddings of images, the same for both views; raise CrossresError if some lack one."""
    backbone = teacher.backbone
    assert isinstance(backbone, StoredBackbone)
    position = by_name(backbone.paths)

    def row_of(name: str) -> int:
        if name in position:
            return position[name]
        # by the file name alone only where that is all that is stored
        row = position.get(name.rpartition("/")[2], -1)
        return -1 if "/" in backbone.paths[row] else row

    rows = [row_of(images.path(i)) for i in range(len(images))]
    if lacking := [i for i, row in enumerate(rows) if row < 0]:
        raise CrossresError(
            f"{backbone.path}: no embedding of {images.path(lacking[0]) or images.where(lacking[0])} "
            f"({len(lacking)} of {len(images)} images of {images.name} lack one); it has '{backbone.paths[0]}'"
        )
    if len(set(rows)) < len(rows):
        twice = next(i for i, row in enumerate(rows) if row in rows[:i])
        both = f"{images.path(twice)} and another image of {images.name}"
        raise CrossresError(f"{backbone.path}: {both} would share an embedding: store whole paths")
    return TeacherCache(backbone.values[rows].to(device).expand(2, -1, -1), None)


def _read_parquet(path: Path) -> tuple[list[str], npt.NDArray[Any]]:
    _, pq = arrow()
    names: list[str] = []
    rows: list[list[float]] = []
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        _require(file, "column", pq.read_schema(file).names)
        table = pq.read_table(file, columns=["path", "embedding"])
        table = table.filter(table["embedding"].is_valid())
        names += table["path"].to_pylist()
        rows += table["embedding"].to_pylist()
    return names, np.array(rows, dtype=np.float32)


def _read_npz(path: Path) -> tuple[list[str], npt.NDArray[Any]]:
    with np.load(path) as arrays:
        _require(path, "array", list(arrays))
        return [str(name) for name in arrays["path"]], arrays["embedding"]


def _read_npy(path: Path) -> tuple[list[str], npt.NDArray[Any]]:
    return path.with_suffix(".txt").read_text(encoding="utf-8").splitlines(), np.load(path)


def _require(path: Path, kind: str, names: Sequence[str]) -> None:
    for name in ("path", "embedding"):
        if name not in names:
            raise CrossresError(f"{path}: has no {kind} '{name}'; it has {', '.join(names)}")


#: By the file's ending: a function of its path that returns the images' paths (N) and their embeddings (N, d).
READERS = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}
