"""Teachers: frozen encoders, stored embeddings among them, matched to the classes of the data."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError, composed, demand_file, library_errors, one_line
from crossres.core.files import holds_embeddings, locked, write_atomically
from crossres.data.images import ImageSet
from crossres.data.items import NONE, NameIndex, Names
from crossres.data.readers import cache_home
from crossres.data.shards import CHECKED, arrow
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder
from crossres.models.onnx_encoder import onnx_encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained
from crossres.models.ready import READY, ready_encoder

#: Bytes of parquet files above which their embeddings are unpacked into a file that is mapped.
MAPPED = 2**30
#: Rows that are checked at once.
CHUNK = 2**16


def read_teacher(path: str, onnx_input: OnnxInput, *, trust_code: bool = False) -> Encoder:
    """Read a teacher that is in `READY`, an ONNX file, stored embeddings or a saved model, by its name."""
    if path in READY:
        return ready_encoder(path)
    if Path(path).suffix.lower() == ".onnx":
        return onnx_encoder(path, onnx_input)
    if holds_embeddings(path):
        return stored_encoder(path)
    return from_pretrained(path, trust_code=trust_code)


def frozen_teacher(teacher: Encoder, classes: Sequence[str], where: str, *, may_know_more: bool = False) -> Encoder:
    """Return a copy of a teacher: eval mode, no gradients, logits in the order of the data's classes.

    ``classes`` are the student's, in the order of the data's labels. Without any the teacher's classifier is dropped;
    a teacher without a classifier fits any. ``where`` names the teacher in a message.

    Raises:
        CrossresError: the teacher knows other classes; with ``may_know_more`` only if it lacks some of the data's.
    """
    teacher = deepcopy(teacher)
    if not classes:
        teacher.classes, teacher.classifier = (), None
    elif teacher.classes:
        order_classes(teacher, classes, where, may_know_more=may_know_more)
    return teacher.eval().requires_grad_(False)


def order_classes(encoder: Encoder, classes: Sequence[str], where: str, *, may_know_more: bool = False) -> None:
    """Reorder the classifier's rows to the class names; drop those of other classes if ``may_know_more``.

    Raises:
        CrossresError: the names are not the same set.
    """
    if encoder.classes == tuple(classes):
        return
    own = list(map(composed, encoder.classes))
    known, requested = set(own), set(classes)
    reasons = [f"the data's '{name}' is unknown to it" for name in classes if name not in known]
    if not may_know_more:
        reasons += [f"its '{name}' is not in the data" for name in own if name not in requested]
    if len(requested) < len(classes):
        reasons.append("the data names a class twice")
    if reasons:
        count = len(encoder.classes)
        remedy = "use a model of the same classes, or choose the data's with images.classes"
        raise CrossresError(f"{where} knows {count} classes, the data has {len(classes)}: {reasons[0]}; {remedy}")
    rows = torch.tensor([own.index(name) for name in classes])
    classifier = encoder.classifier
    assert classifier is not None
    chosen = nn.Linear(classifier.in_features, len(rows), bias=classifier.bias is not None)
    for name, value in list(classifier.named_parameters()):
        setattr(chosen, name, nn.Parameter(value.detach()[rows.to(value.device)]))
    encoder.classifier = chosen
    encoder.classes = tuple(classes)


class StoredBackbone(nn.Module):
    """Stands in for a network: the embeddings (N, d) of the images at N paths, read from a file."""

    def __init__(self, path: Path, paths: NameIndex, values: Tensor) -> None:
        super().__init__()
        self.path = path
        self.paths = paths
        self.values = values
        total = hashlib.sha256()
        for row, name in enumerate(paths.names):
            total.update(f"{chr(10) if row else ''}{name}".encode("utf-8", "surrogateescape"))
        for start in range(0, len(values), CHUNK):
            total.update(values[start : start + CHUNK].numpy().tobytes())
        self.digest = nn.Buffer(torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8))

    def __deepcopy__(self, _: dict[int, Any]) -> "StoredBackbone":
        return self  # nothing in it changes, and it may be larger than the memory

    def forward(self, images: Tensor) -> Tensor:  # noqa: ARG002
        raise CrossresError(f"{self.path}: there are embeddings of the stored images only; leave teacher_cache on")


def stored_encoder(path: str | Path) -> Encoder:
    """Read stored embeddings as a frozen teacher: every number once, to check it and to know the file again.

    Parquet above 1 GiB and a ``.npy`` of float32 are mapped and take no memory; anything else is held in it.

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
    demand_file(path)
    with library_errors(f"{path}: cannot be read as stored embeddings"):
        try:
            paths, values = _read(path)
        except OSError as error:
            raise CrossresError(f"{error.filename or path}: {error.strerror or one_line(error)}") from None
    if values.dtype.kind not in "fiu":
        raise CrossresError(f"{path}: embeddings of type {values.dtype}, expected numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        values = values.astype(np.float32, copy=False)
    if values.ndim != 2 or len(values) != len(paths) or not values.size:
        raise CrossresError(f"{path}: {len(paths)} paths and embeddings of {values.shape}, expected (N, d)")
    finite = [np.isfinite(values[start : start + CHUNK]).all(1) for start in range(0, len(values), CHUNK)]
    if len(bad := np.flatnonzero(~np.concatenate(finite))):
        raise CrossresError(f"{path}: the embedding of {paths[bad[0]]} holds NaN or infinity ({len(bad)} such)")
    index = NameIndex(paths)
    if (twice := index.twice()) is not None:
        raise CrossresError(f"{path}: {twice} has two embeddings")
    encoder = Encoder(
        StoredBackbone(path, index, torch.from_numpy(values)),
        embedding_dim=values.shape[1],
        classes=(),
        input_size=None,
        architecture={"name": "stored", "file": path.name},
    )
    return encoder.eval().requires_grad_(False)


def stored_outputs(
    teacher: Encoder, images: ImageSet, device: torch.device | str, memory_mb: int = 4096
) -> TeacherCache:
    """Return the stored embeddings of images, the same for both views; raise CrossresError if some lack one.

    They stay where they are; those within ``memory_mb`` are copied to a GPU.
    """
    backbone = teacher.backbone
    assert isinstance(backbone, StoredBackbone)
    names, count = backbone.paths.names, len(images)
    rows = backbone.paths.rows(images.path(i) for i in range(count))
    if len(unknown := np.flatnonzero(rows == NONE)):
        # by the file name alone only where that is all that is stored
        alone = backbone.paths.rows(images.path(int(i)).rpartition("/")[2] for i in unknown)
        rows[unknown] = [row if row >= 0 and "/" not in names[int(row)] else NONE for row in alone]
    if len(lacking := np.flatnonzero(rows < 0)):
        first = int(lacking[0])
        raise CrossresError(
            f"{backbone.path}: no embedding of {images.path(first) or images.where(first)} "
            f"({len(lacking)} of {count} images of {images.name} lack one); it has '{names[0]}'"
        )
    ordered = np.sort(rows)
    if len(shared := ordered[1:][ordered[1:] == ordered[:-1]]):
        one, other = np.flatnonzero(rows == shared[0])[:2]
        both = f"{images.path(int(one))} and {images.path(int(other))} of {images.name}"
        raise CrossresError(f"{backbone.path}: {both} would share an embedding: store whole paths")
    values, order = backbone.values, torch.from_numpy(rows)
    if torch.device(device).type != "cpu" and 4 * len(rows) * values.shape[1] <= memory_mb * 2**20:
        return TeacherCache([{"embedding": values[order].to(device)}], 0, device)
    return TeacherCache([{"embedding": values}], 0, device, order=order.to(device))


def _read(path: Path) -> tuple[Sequence[str], npt.NDArray[Any]]:
    """Return the images' paths (N) and their embeddings (N, d)."""
    kind = ".parquet" if path.is_dir() else path.suffix.lower()
    if kind == ".npy":
        with path.with_suffix(".txt").open(encoding="utf-8") as lines:
            return Names.of(line.rstrip("\n") for line in lines), np.load(path, mmap_mode="c")
    if kind == ".npz":
        with np.load(path) as arrays:
            _require(path, "array", list(arrays))
            return [str(name) for name in arrays["path"]], arrays["embedding"]
    _, pq = arrow()
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    for file in files:
        _require(file, "column", pq.read_schema(file).names)
    if sum(file.stat().st_size for file in files) > MAPPED:
        return _read(_unpacked(files))
    blocks = list(_blocks(files))
    values = np.concatenate([values for _, values in blocks]) if blocks else np.empty((0, 0))
    return [name for names, _ in blocks for name in names], values


def _blocks(files: Sequence[Path]) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
    """Yield paths and embeddings of parquet files, some rows at a time; rows without an embedding are left out."""
    _, pq = arrow()
    from pyarrow import compute

    width = None
    for file in files:
        for batch in pq.ParquetFile(file, **CHECKED).iter_batches(columns=["path", "embedding"]):
            batch = batch.filter(batch["embedding"].is_valid())
            if not len(batch):
                continue
            rows = batch["embedding"]
            widths = compute.list_value_length(rows).unique().to_pylist()
            width = width or widths[0]
            if widths != [width]:
                raise ValueError(f"rows of {width} and of {widths[-1]} numbers")
            with np.errstate(over="ignore"):  # as below
                values = rows.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            yield batch["path"].to_pylist(), values.reshape(len(rows), width)


def _unpacked(files: Sequence[Path]) -> Path:
    """Return a ``.npy`` of the embeddings of parquet files, paths beside it; made once for each state of theirs."""
    key = hashlib.sha256()
    for file in files:
        stat = file.stat()
        key.update(f"\0{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    out = cache_home() / f"embeddings-{key.hexdigest()[:24]}.npy"
    shape = [0, 0]

    def write_paths(file: IO[bytes]) -> None:
        for names, values in _blocks(files):
            file.write("".join(f"{name}\n" for name in names).encode())
            shape[:] = shape[0] + len(values), values.shape[1]

    def write_values(file: IO[bytes]) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _, values in _blocks(files):
            file.write(values.astype("<f4").tobytes())

    remedy = "; it caches embeddings: set $CROSSRES_CACHE"
    busy = f"another process has been writing {out} for an hour: wait until it ends"
    with nullcontext() if out.is_file() else locked(out.with_suffix(".lock"), busy, wait=3600):
        if not out.is_file():  # of many processes one unpacks them
            write_atomically(out.with_suffix(".txt"), write_paths, remedy)
            write_atomically(out, write_values, remedy)
    return out


def _require(path: Path, kind: str, names: Sequence[str]) -> None:
    for name in ("path", "embedding"):
        if name not in names:
            raise CrossresError(f"{path}: has no {kind} '{name}'; it has {', '.join(names)}")
