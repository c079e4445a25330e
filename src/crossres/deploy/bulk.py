"""Many photos: what a model sees on each, and their embeddings as parquet files, on this machine or over Ray."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from crossres.config.deployment import Embed, Predict
from crossres.core.errors import CrossresError, needs
from crossres.core.files import cell, write_atomically
from crossres.data.locate import find_shards
from crossres.data.shards import arrow, encoded_images, open_shards, pick_image
from crossres.deploy.photos import no_image, photos_below
from crossres.deploy.recognizer import Recognizer

#: key of a part's origin in the metadata of its file
ORIGIN = b"crossres"
#: What is counted of photos.
COUNTS = ("photos", "flagged", "unreadable")
_OTHER = "was made by another model, from other photos or with another --part; name another folder"


def predict(options: Predict, note: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """Yield what a model sees on each photo, in order; write the table and note how many are flagged after the last.

    Yields:
        photo, label, probability, top (label and probability of each), flags and error.

    Raises:
        CrossresError: no such model, one without classes; after the last photo, that none could be read.
    """
    if options.top < 1:
        raise CrossresError(f"--top: expected 1 or more, got {options.top}")
    recognizer = Recognizer.load(options.model, threads=options.threads, trust_code=options.trust_code)
    if not recognizer.facts.classes:
        raise CrossresError(f"{options.model} has no classes; crossres identify and verify compare its embeddings")
    photos = flagged = unreadable = 0
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["photo", "label", "probability", "flags", "error"])
    for answer in recognizer.stream(options.photos):
        photos += 1
        flagged += bool(answer.flags)
        unreadable += answer.error is not None
        if options.csv:
            flags = "; ".join(answer.flags)
            table.writerow(map(cell, [answer.name, answer.label, answer.probability, flags, answer.error]))
        yield answer.document(recognizer.facts, options.top)
    if options.csv:
        # a file's name may not be UTF-8
        write_atomically(options.csv, lambda file: file.write(text.getvalue().encode(errors="backslashreplace")))
    if flagged or unreadable:
        note(f"{photos} photos: {flagged} flagged, {unreadable} unreadable")
    if unreadable == photos:
        raise CrossresError("none of the photos could be read")


@dataclass(frozen=True)
class PartFile:
    """Some photos in a row, and the file ``out`` that their embeddings go to.

    The ``source`` is a folder with photos of these ``names`` below it; or a parquet file without ``names``, of which
    the ``rows`` (the first and the one after the last) of a ``column`` are read. The ``origin``, which is kept in the
    file, is what it was made of: digests of model and photos.
    """

    out: Path
    source: Path
    origin: dict[str, str]
    names: Sequence[str] = ()
    rows: tuple[int, int] = (0, 0)
    column: str = ""


def embed(options: Embed, note: Callable[[str], None] = lambda _: None) -> dict[str, int]:
    """Write the embeddings of all photos into parquet files of one folder; what is there already is left as it is.

    Each file has the columns path (below ``data``), embedding (float32), quality, flags and error, a row a photo, in
    order; a photo that cannot be read has an error and no embedding. Files carry the model's digest: two models never
    mix. The folder can be a teacher: `crossres.models.teachers.stored_encoder` reads it. The machines of a cluster
    (``engine`` ray) share the folders. ``note`` is called with a line for every part.

    Returns:
        Counts: photos, flagged, unreadable.

    Raises:
        CrossresError: no photos, a column that is not there, a folder with parts of another model or of other photos,
            or none of the photos can be read.
    """
    data, out = Path(options.data), Path(options.out)
    if options.part < 1 or options.batch_size < 1:
        raise CrossresError(f"--part, --batch_size: expected 1 or more, got {options.part} and {options.batch_size}")
    if out.resolve() == data.resolve():
        raise CrossresError(f"{out} holds the photos; name another folder for their embeddings")
    recognizer = Recognizer.load(options.model, trust_code=options.trust_code, onnx_input=options.onnx_input)
    parts = _parts(options, recognizer)
    if stale := sorted(set(out.glob("part-*.parquet")) - {part.out for part in parts}):
        raise CrossresError(f"{stale[0]} {_OTHER}")
    if beside := 0 if parts[0].names else len(photos_below(data)):
        note(f"{data}: reading its parquet files; the {beside} image files beside them are not read")
    finished = {part.out: _counts(part) for part in parts if part.out.exists()}
    todo = [part for part in parts if part.out not in finished]
    if finished:
        note(f"{out}: {len(finished)} of {len(parts)} parts are there already")
    total = list(finished.values())
    alone = (write_part(recognizer, part, options.batch_size) for part in todo)
    for counts in _over_ray(todo, options) if options.engine == "ray" else alone:
        total.append(counts)
        note(f"{len(total)} of {len(parts)} parts, {sum(each['photos'] for each in total):,} photos")
    done = {key: sum(counts[key] for counts in total) for key in COUNTS}
    if done["unreadable"] == done["photos"]:
        raise CrossresError(f"{out}: none of the {done['photos']:,} photos could be read")
    return done


def _parts(options: Embed, recognizer: Recognizer) -> list[PartFile]:
    """Return all parts, in order."""
    data, size = Path(options.data), options.part
    model = f"{recognizer.digest} {options.onnx_input}" if options.onnx_input else recognizer.digest
    parts: list[PartFile] = []

    def add(source: Path, content: str, **photos: Any) -> None:
        out = Path(options.out) / f"part-{len(parts):05}.parquet"
        digest = hashlib.sha256(content.encode(errors="replace")).hexdigest()
        parts.append(PartFile(out, source, {"model": model, "photos": digest}, **photos))

    def state(name: str, path: Path) -> str:
        return f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}"

    shards = find_shards(data)
    for shard in shards:
        opened = open_shards([shard])
        # a column of text would name files of this machine
        column = pick_image(opened, options.images.image_column)
        for start in range(0, opened.rows[0], size):
            rows = start, min(start + size, opened.rows[0])
            add(shard, f"{state(shard.name, shard)} {rows}", rows=rows, column=column)
    if not shards and not data.is_dir():
        raise CrossresError(f"{data}: not a folder of images and not a parquet file")
    names = [] if shards else [path.relative_to(data).as_posix() for path in photos_below(data)]
    for start in range(0, len(names), size):
        some = names[start : start + size]
        add(data, "\n".join(state(name, data / name) for name in some), names=some)
    if not parts:
        raise no_image(data)
    return parts


def _counts(part: PartFile) -> dict[str, int]:
    """Return the counts of a part that is there; refuse one of another model or of other photos."""
    _, pq = arrow()
    try:
        record = json.loads((pq.read_schema(part.out).metadata or {}).get(ORIGIN, b"{}"))
    except Exception:  # cut off or foreign
        record = {}
    if record.get("origin") != part.origin:
        raise CrossresError(f"{part.out} {_OTHER}")
    return {key: int(value) for key, value in record["counts"].items()}


def write_part(recognizer: Recognizer, part: PartFile, batch_size: int) -> dict[str, int]:
    """Embed the photos of a part and write its file; return how many, how many flagged and how many unreadable."""
    pa, pq = arrow()
    names: list[str] = []

    def sources() -> Iterator[Any]:
        first, last = part.rows
        rows = encoded_images(part.source, part.column, first, last) if last else []
        numbered = ((name or f"{part.source.name}:{row}", image) for row, (name, image) in enumerate(rows, first))
        for name, source in chain(((name, part.source / name) for name in part.names), numbered):
            # a file's name may not be UTF-8
            names.append(name.encode(errors="backslashreplace").decode())
            yield source

    answers = list(recognizer.stream(sources(), batch_size=batch_size))
    flagged = sum(bool(answer.photo_flags) for answer in answers)
    unreadable = sum(answer.error is not None for answer in answers)
    counts = {"photos": len(answers), "flagged": flagged, "unreadable": unreadable}
    embeddings = [None if answer.embedding is None else answer.embedding.tolist() for answer in answers]
    columns = {
        "path": pa.array(names, pa.string()),
        "embedding": pa.array(embeddings, pa.list_(pa.float32(), recognizer.facts.embedding_dim)),
        "quality": pa.array([answer.quality for answer in answers], pa.float32()),
        "flags": pa.array([list(answer.photo_flags) for answer in answers], pa.list_(pa.string())),
        "error": pa.array([answer.error for answer in answers], pa.string()),
    }
    record = {ORIGIN: json.dumps({"origin": part.origin, "counts": counts}).encode()}
    table = pa.table(columns).replace_schema_metadata(record)
    write_atomically(part.out, lambda file: pq.write_table(table, file, write_page_checksum=True))
    return counts


class _Worker:
    """Of a Ray cluster: loads the model once."""

    def __init__(self, options: Embed) -> None:
        how: dict[str, Any] = {"trust_code": options.trust_code, "onnx_input": options.onnx_input}
        self.recognizer, self.batch_size = Recognizer.load(options.model, threads=1, **how), options.batch_size

    def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        return write_part(self.recognizer, row["item"], self.batch_size)


def _over_ray(todo: list[PartFile], options: Embed) -> Iterator[dict[str, int]]:
    with needs("engine ray", "ray"):
        import ray
        import ray.data
    if not todo:
        return
    if Path(options.model).exists():
        options = replace(options, model=str(Path(options.model).resolve()))
    parts = [replace(part, out=part.out.resolve(), source=part.source.resolve()) for part in todo]
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    workers = max(1, min(len(parts), int(cores)))
    # a block a part, or one worker would get them all
    queue = ray.data.from_items(parts, override_num_blocks=len(parts))
    worker: Any = _Worker
    done = queue.map(worker, fn_constructor_args=(options,), concurrency=workers)
    yield from ({key: int(value) for key, value in row.items()} for row in done.iter_rows())
