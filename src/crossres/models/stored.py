"""Stored embeddings as a teacher: what a network that nobody has at hand said of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError
from crossres.data.images import ImageSet, by_name
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder

#: endings of the files that hold embeddings
ENDINGS = (".npz", ".npy", ".parquet")


class StoredBackbone(nn.Module):
    """Stands where a network would: it knows widths and answers for stored images only.

    Args:
        path: of the file.
        paths: of the images.
        values: (N, d).
    """

    digest: Tensor

    def __init__(self, path: Path, paths: Sequence[str], values: Tensor) -> None:
        super().__init__()
        self.path = path
        self.paths = list(paths)
        self.values = values
        total = hashlib.sha256("\n".join(self.paths).encode("utf-8", "surrogateescape"))
        total.update(values.numpy().tobytes())
        self.register_buffer("digest", torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:  # noqa: ARG002
        raise CrossresError(
            f"{self.path}: stored embeddings answer for the stored images only; leave teacher_cache on"
        )


def is_stored(path: str | Path) -> bool:
    """Return whether a path is one that `stored_encoder` reads, by its ending; a folder by those of its files."""
    path = Path(path)
    return path.suffix.lower() in ENDINGS or (path.is_dir() and any(path.glob("*.parquet")))


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
    try:
        paths, values = _read(path)
    except CrossresError:
        raise
    except OSError as error:
        raise CrossresError(f"{error.filename or path}: {error.strerror or error}") from None
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        raise CrossresError(f"{path}: cannot be read as stored embeddings ({why})") from None
    if values.ndim != 2 or len(values) != len(paths) or not values.size:
        raise CrossresError(f"{path}: {len(paths)} paths and embeddings of {values.shape}, expected (N, d)")
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise CrossresError(f"{path}: the embedding of {paths[bad[0]]} holds NaN or infinity ({len(bad)} such)")
    if len(set(paths)) < len(paths):
        seen: set[str] = set()
        twice = next(name for name in paths if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise CrossresError(f"{path}: {twice} has two embeddings")
    backbone = StoredBackbone(path, paths, torch.from_numpy(np.array(values, dtype=np.float32)))
    encoder = Encoder(
        backbone,
        embedding_dim=values.shape[1],
        classes=(),
        input_size=None,
        architecture={"name": "stored", "file": path.name},
    )
    return encoder.eval().requires_grad_(False)


def stored_outputs(teacher: Encoder, images: ImageSet, device: torch.device) -> TeacherCache:
    """Return the stored embeddings of a set of images; both views are answered with the one there is.

    Raises:
        CrossresError: images without an embedding; names the first and counts them.
    """
    backbone = teacher.backbone
    assert isinstance(backbone, StoredBackbone)
    position = by_name(backbone.paths)
    rows, lacking = [], []
    for i in range(len(images)):
        name = images.path(i)
        row = position.get(name)
        if row is None:
            # by the file name alone only where that is all that is stored
            row = position.get(name.rpartition("/")[2], -1)
            row = -1 if "/" in backbone.paths[row] else row
        rows.append(row)
        if row < 0:
            lacking.append(i)
    if lacking:
        raise CrossresError(
            f"{backbone.path}: no embedding of {images.path(lacking[0]) or images.where(lacking[0])} "
            f"({len(lacking)} of {len(images)} images of {images.name} lack one); it has '{backbone.paths[0]}'"
        )
    if len(set(rows)) < len(rows):
        twice = next(i for i, row in enumerate(rows) if row in rows[:i])
        raise CrossresError(
            f"{backbone.path}: {images.path(twice)} and another image of {images.name} would share an embedding: "
            "store whole paths"
        )
    return TeacherCache(backbone.values[rows].to(device).expand(2, -1, -1), None)


def _read(path: Path) -> tuple[list[str], npt.NDArray[Any]]:
    if path.is_dir() or path.suffix == ".parquet":
        from crossres.data.shards import arrow

        _, pq = arrow()
        names: list[str] = []
        rows: list[list[float]] = []
        for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
            known = pq.read_schema(file).names
            for column in ("path", "embedding"):
                if column not in known:
                    raise CrossresError(f"{file}: has no column '{column}'; it has {', '.join(known)}")
            table = pq.read_table(file, columns=["path", "embedding"])
            for name, row in zip(table["path"].to_pylist(), table["embedding"].to_pylist(), strict=True):
                if row is not None:
                    names.append(name)
                    rows.append(row)
        return names, np.array(rows, dtype=np.float32)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            for name in ("path", "embedding"):
                if name not in arrays:
                    raise CrossresError(f"{path}: has no array '{name}'; it has {', '.join(arrays)}")
            return [str(name) for name in arrays["path"]], arrays["embedding"]
    listing = path.with_suffix(".txt")
    return listing.read_text(encoding="utf-8").splitlines(), np.load(path)
