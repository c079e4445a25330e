"""Embeddings of many photos as parquet files: part by part, resumable, on this machine or over a Ray cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.deploy.photos import photos_below
from crossres.deploy.recognizer import Recognizer

#: key of a part's origin in the metadata of its file
ORIGIN = b"crossres"
_OTHER = "is of another model, other photos or another number of them to a part; name another folder"


@dataclass(frozen=True)
class Part:
    """Some photos in a row, and the file their embeddings go to.

    Attributes:
        out: the file.
        paths: of the photos; of one parquet file where ``rows`` says which of its rows.
        names: of the photos, below the folder of images; of a parquet file none, it names them itself.
        rows: first row and the one after the last.
        origin: what the file says it was made of: model, photos.
    """

    out: Path
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    rows: tuple[int, int] | None
    origin: dict[str, str]


def embed(
    model: str | Path,
    data: str | Path,
    out: Path,
    *,
    image_column: str = "image",
    batch_size: int = 64,
    part: int = 10_000,
    engine: str = "local",
    onnx_input: str = "",
    trust_code: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Write the embeddings of all photos into parquet files of one folder; what is there already is left as it is.

    Each file has the columns path (below ``data``), embedding (float32), quality, flags and error, a row a photo, in
    order; a photo that cannot be read has an error and no embedding. Files carry the model's digest: two models never
    mix. The folder can be a teacher: `crossres.models.stored.stored_encoder` reads it.

    Args:
        model: as of `Recognizer.load`.
        data: a folder of images, a parquet file, or a folder of parquet files.
        out: the folder.
        image_column: of parquet files: bytes, or Hugging Face's image struct.
        batch_size: photos that are run together.
        part: photos to a file.
        engine: local, or ray: parts are spread over a cluster by Ray Data; its machines share the folders.
        onnx_input: of `Recognizer.load`.
        trust_code: import the code that the model names.
        say: told of every part.

    Returns:
        Counts: photos, flagged, unreadable.

    Raises:
        CrossresError: no photos, a column that is not there, or a folder with parts of another model or photos.
    """
    if part < 1 or batch_size < 1:
        raise CrossresError("part and batch_size: at least 1 photo")
    recognizer = Recognizer.load(model, trust_code=trust_code, onnx_input=onnx_input)
    made_by = " ".join(filter(None, (recognizer.digest, onnx_input)))
    if out.resolve() == Path(data).resolve():
        raise CrossresError(f"{out} holds the photos; name another folder for their embeddings")
    parts = list(_parts(Path(data), out, image_column, part, made_by))
    if not parts:
        raise CrossresError(f"{data}: there is no photo in it")
    stale = sorted(set(out.glob("part-*.parquet")) - {one.out for one in parts})
    if stale:
        raise CrossresError(f"{stale[0]} {_OTHER}")
    beside = len(photos_below(Path(data))) if parts[0].rows else 0
    if beside:
        say(f"{data}: its parquet files are read, {beside} image files beside them are not")
    found = [_counted(one) for one in parts]
    todo = [one for one, counts in zip(parts, found, strict=True) if counts is None]
    if len(todo) < len(parts):
        say(f"{out}: {len(parts) - len(todo)} of {len(parts)} parts are there already")
    total = [counts for counts in found if counts is not None]
    how: dict[str, Any] = {"column": image_column, "batch_size": batch_size}
    if engine == "ray":
        loading = {"trust_code": trust_code, "onnx_input": onnx_input}
        ends: Iterator[dict[str, int]] = _over_ray(todo, model, loading, how)
    else:
        ends = (write_part(recognizer, one, **how) for one in todo)
    for number, counts in enumerate(ends, start=len(parts) - len(todo) + 1):
        total.append(counts)
        say(f"{number} of {len(parts)} parts, {sum(one['photos'] for one in total):,} photos")
    return {key: sum(counts[key] for counts in total) for key in ("photos", "flagged", "unreadable")}


def _parts(data: Path, out: Path, column: str, size: int, made_by: str) -> Iterator[Part]:
    number = 0

    def made(paths: Sequence[Path], names: Sequence[str], rows: tuple[int, int] | None, told: str) -> Part:
        origin = {"model": made_by, "photos": hashlib.sha256(told.encode(errors="replace")).hexdigest()}
        return Part(out / f"part-{number:05}.parquet", tuple(paths), tuple(names), rows, origin)

    shards = (
        [data] if data.suffix == ".parquet" else sorted(data.glob("*.parquet")) or sorted(data.glob("data/*.parquet"))
    )
    for shard in shards:
        count = _rows(shard, column)
        for start in range(0, count, size):
            rows = start, min(start + size, count)
            yield made([shard], [], rows, f"{_state(shard, shard.name)} {rows}")
            number += 1
    if shards:
        return
    if not data.is_dir():
        raise CrossresError(f"there is no folder of images and no parquet file {data}")
    photos = photos_below(data)
    if not photos:
        raise CrossresError(f"{data}: there is no image and no parquet file in it")
    for start in range(0, len(photos), size):
        some = photos[start : start + size]
        names = [path.relative_to(data).as_posix() for path in some]
        yield made(some, names, None, "\n".join(map(_state, some, names)))
        number += 1


def _state(path: Path, name: str) -> str:
    found = path.stat()
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def _rows(shard: Path, column: str) -> int:
    import pyarrow.parquet as parquet
    from pyarrow import types

    try:
        file = parquet.ParquetFile(shard)
    except Exception as error:  # pyarrow raises several kinds of its own
        raise CrossresError(f"{shard}: not a parquet file ({' '.join(str(error).split())[:120]})") from None
    if column not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise CrossresError(f"{shard}: has no column '{column}'; its columns are {names}: give --image_column")
    kind = file.schema_arrow.field(column).type
    if types.is_struct(kind):
        at = kind.get_field_index("bytes")
        kind = kind.field(at).type if at >= 0 else kind
    # a text would name files of this machine
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise CrossresError(f"{shard}: column '{column}' holds {kind}, not the bytes of images: give --image_column")
    return int(file.metadata.num_rows)


def _counted(part: Part) -> dict[str, int] | None:
    """Return the counts of a part that is there; None of one that is not.

    Raises:
        CrossresError: there is one of another model or of other photos.
    """
    import pyarrow.parquet as parquet

    if not part.out.exists():
        return None
    try:
        metadata = parquet.read_schema(part.out).metadata or {}
        said = json.loads(metadata.get(ORIGIN, b"{}"))
    except Exception:  # cut off or foreign
        said = {}
    if said.get("origin") != part.origin:
        raise CrossresError(f"{part.out} {_OTHER}")
    return {key: int(value) for key, value in said["counts"].items()}


def _photos(part: Part, column: str) -> Iterator[tuple[str, Any]]:
    """Yield name and source of each photo."""
    if part.rows is None:
        yield from zip(part.names, part.paths, strict=True)
        return
    import pyarrow.parquet as parquet

    (shard,) = part.paths
    at, (first, last) = 0, part.rows
    file = parquet.ParquetFile(shard)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    for i, end in enumerate(accumulate(groups)):
        at = end - groups[i]
        if end <= first or at >= last:
            continue
        for row, value in enumerate(file.read_row_group(i, columns=[column])[column].to_pylist(), start=at):
            if first <= row < last:
                image = value if isinstance(value, dict) else {"bytes": value}
                yield str(image.get("path") or f"{shard.name}:{row}"), image.get("bytes")


def write_part(recognizer: Recognizer, part: Part, column: str, batch_size: int) -> dict[str, int]:
    """Embed the photos of a part and write its file; return how many, how many flagged and how many unreadable."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    width = recognizer.facts.embedding_dim
    names: list[str] = []
    rows: dict[str, list[Any]] = {key: [] for key in ("embedding", "quality", "flags", "error")}

    def sources() -> Iterator[Any]:
        for name, source in _photos(part, column):
            names.append(name)
            yield source

    for answer in recognizer.stream(sources(), batch_size=batch_size):
        rows["embedding"].append(None if answer.embedding is None else answer.embedding.tolist())
        rows["quality"].append(answer.quality)
        rows["flags"].append(list(answer.flags))
        rows["error"].append(answer.error)
    counts = {
        "photos": len(names),
        "flagged": sum(map(bool, rows["flags"])),
        "unreadable": sum(error is not None for error in rows["error"]),
    }
    table = arrow.table(
        {
            # a file's name may be no UTF-8
            "path": arrow.array([name.encode(errors="backslashreplace").decode() for name in names], arrow.string()),
            "embedding": arrow.array(rows["embedding"], arrow.list_(arrow.float32(), width)),
            "quality": arrow.array(rows["quality"], arrow.float32()),
            "flags": arrow.array(rows["flags"], arrow.list_(arrow.string())),
            "error": arrow.array(rows["error"], arrow.string()),
        }
    ).replace_schema_metadata({ORIGIN: json.dumps({"origin": part.origin, "counts": counts}).encode()})
    write_atomically(part.out, lambda file: parquet.write_table(table, file))
    return counts


class _Worker:
    """Of a Ray cluster: loads the model once."""

    def __init__(self, model: str, loading: dict[str, Any], how: dict[str, Any]) -> None:
        self.recognizer = Recognizer.load(model, threads=1, **loading)
        self.how = how

    def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        return write_part(self.recognizer, row["item"], **self.how)


def _over_ray(
    todo: list[Part], model: str | Path, loading: dict[str, Any], how: dict[str, Any]
) -> Iterator[dict[str, int]]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CrossresError(f"--engine ray needs {error.name}: pip install 'crossres[ray]'") from None
    if not todo:
        return
    where = str(Path(model).resolve()) if Path(model).exists() else str(model)
    parts = [
        replace(part, out=part.out.resolve(), paths=tuple(path.resolve() for path in part.paths)) for part in todo
    ]
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    workers = max(1, min(len(parts), int(cores)))
    # a block a part, or one worker would get them all
    queue = ray.data.from_items(parts, override_num_blocks=len(parts))
    worker: Any = _Worker
    done = queue.map(worker, fn_constructor_args=(where, loading, how), concurrency=workers)
    yield from ({key: int(value) for key, value in row.items()} for row in done.iter_rows())
