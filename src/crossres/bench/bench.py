"""Do a grid of distillations: independent runs that are skipped when done and resumed when cut off."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from crossres.bench.comparison import MEASURES, compare_folder
from crossres.bench.engines import over_ray, side_by_side
from crossres.bench.grid import FILES, Grid, GridRun, judgements_of, read_grid, runs_of
from crossres.bench.tables import write_comparison
from crossres.config.judging import Bench, Evaluate
from crossres.config.reading import read
from crossres.config.record import base_name, sha256
from crossres.core.errors import CrossresError, needs
from crossres.core.files import locked, read_json, write_json
from crossres.core.progress import Overview
from crossres.data.degradation import Degradation
from crossres.data.readers import SOURCES
from crossres.losses.options import reads

#: A file of fewer bytes that a grid names, such as a list of pairs, counts by its content.
SHORT = 2**20
#: Options of an experiment that are paths of what it trains on, by their names in a result.
TRAINED_ON = {name: name for name in ("data", "unlabelled", "teacher", "pairs", "natural_labels")} | {
    "natural images": "natural"
}
#: Digest of a place where nothing is.
NOTHING = hashlib.sha256().hexdigest()


def run_bench(options: Bench, *, say: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Do what is missing of a grid and tabulate it; a run that fails is recorded and the others go on.

    Each run is a process of its own, ``crossres distill``, then ``crossres transfer`` and ``evaluate`` where the grid
    names them. Its result is copied to the grid's folder; one that is there with the same options is skipped, an
    interrupted run is resumed, a failed one is tried again. Under Ray the folders must be shared by all machines.

    Args:
        options: the grid, and where its runs go.
        say: gets a line for each run that ends; by default it is printed to stderr under a live overview.

    Returns:
        The documents of this grid's runs, results and errors (``{name, error}``), in the grid's order.

    Raises:
        CrossresError: a grid that cannot be, or no Ray.
    """
    with needs("crossres bench", "bench"):  # before the first run, not after it
        import scipy  # noqa: F401
        import sklearn  # noqa: F401
    if options.parallel < 1:
        raise CrossresError(f"parallel: expected 1 or more, got {options.parallel}")
    grid = read_grid(options.grid, data=options.data, runs=options.runs, trust_code=options.trust_code)
    runs = list(runs_of(grid))
    _demand_judgements(grid, runs[0])
    busy = f"another bench works on {grid.folder}; wait for it, or give this grid another out"
    with locked(grid.folder / ".lock", busy):
        documents = {run.config.name: _done(grid, run) for run in runs}
        missing = [run for run in runs if documents[run.config.name] is None]
        stale = [run for run in missing if _is_stale(grid, run)]
        for run in stale:
            (run.config.folder / "result.json").unlink(missing_ok=True)
        overview = Overview(len(missing), quiet=say is not None)
        say = say or overview.say
        say(f"{grid.name}: {len(runs)} runs, {len(runs) - len(missing)} of them done")
        carry_out = over_ray if options.engine == "ray" else side_by_side
        with overview:
            for run, document in carry_out(grid, missing, options.parallel, overview):
                document["grid"] = run.place | {"inputs": _inputs(grid, run)}
                if "error" in document and run not in stale and (before := _measured(grid, run)):
                    # a judgement that failed does not undo what the training came to
                    document = {**before, "error": document["error"]}
                documents[run.config.name] = document
                write_json(grid.folder / f"{run.config.name}.json", document)
                say(overview.ended(run.config.name, _ending(document)))
        if any(document and "error" not in document for document in documents.values()):
            write_comparison(compare_folder(grid.folder, grid.baseline), grid.folder)
    return [documents[run.config.name] or {} for run in runs]


def _demand_judgements(grid: Grid, run: GridRun) -> None:
    """Refuse judgements whose files are not there, before the first run."""
    for part, name, options in judgements_of(grid, run):
        if part == "unseen":  # of the run's own data
            continue
        for data in getattr(options, "natural", None) or [options.data]:
            if data not in SOURCES and not Path(data).exists():
                remedy = "; set that environment variable" if "$" in data else ""
                raise CrossresError(f"{part}.{name}: there is no data set '{data}'{remedy}")
        for what in FILES[1:]:
            path = getattr(options, what, None)
            if path and "/" in path and not Path(path).exists():
                raise CrossresError(f"{part}.{name}: {what}: there is no {path}")


def _ending(document: dict[str, Any]) -> str:
    """Say how a run ended."""
    if reason := document.get("error"):
        return f"failed: {reason}"
    measure = document.get("compared_by", "top1")
    line = f"{MEASURES[measure][0]} {document[f'{measure}_last']:.2f} %"
    if both := document.get("people_in_both_last"):
        line += f", {both} people are in the training and in the test images"
    return line


def _done(grid: Grid, run: GridRun) -> dict[str, Any] | None:
    """Return the result that is there for the same options, data, teacher and judgements."""
    document = _measured(grid, run)
    if document is None or "error" in document:
        return None
    inputs = _inputs(grid, run)
    before = _before(document) or inputs
    if {**before, "unseen": None} != {**inputs, "unseen": None}:
        return None
    for part, name, options in judgements_of(grid, run):
        judged = document.get(part, {}).get(name)
        if judged is None:
            return None
        given = options.degradation if isinstance(options, Evaluate) else None
        # a parameter that came later had its default
        if given is not None and Degradation(**judged["degradation"]).resolved() != given.resolved():
            return None
    return document


def _is_stale(grid: Grid, run: GridRun) -> bool:
    """Say whether a training has its result, but of other images, another teacher or another labelling student.

    CrossresError: one of these is not there.
    """
    before, inputs = _before(_measured(grid, run) or {}), _inputs(grid, run)
    changed = [name for name in (*TRAINED_ON, "teacher_maps") if before and before.get(name) != inputs.get(name)]
    for name in changed:
        if inputs.get(name) == NOTHING:
            path = getattr(run.config, TRAINED_ON[name])
            raise CrossresError(f"{name}: there is no {path}, of which there are results")
    return bool(changed)


def _before(document: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that a result has recorded."""
    place = document.get("grid", {})
    return dict(place.get("inputs", place.get("asked", {})))  # asked: of an earlier version


def _measured(grid: Grid, run: GridRun) -> dict[str, Any] | None:
    """Return the result that is there for the same options; an option that came later had its default."""
    try:
        document = read_json(grid.folder / f"{run.config.name}.json")
        same = sha256(read(type(run.config), document["config"])) == sha256(run.config)
    except (ValueError, KeyError, CrossresError):
        return None
    return document if same else None


def _inputs(grid: Grid, run: GridRun) -> dict[str, Any]:
    """Return what a result hangs on beside its options: what lies at the paths, and what it is judged on.

    Files count by name and size, so that a copy of a folder elsewhere is the same.
    """
    paths = {what: getattr(run.config, option, None) for what, option in TRAINED_ON.items()}
    paths |= {f"{name}.{key}": options.get(key) for name, options in grid.protocols.items() for key in FILES}
    paths |= {f"natural.{name}": options["data"] for name, options in grid.natural.items()}
    inputs: dict[str, Any] = {what: _files_sha256(Path(path)) for what, path in paths.items() if path}
    if run.config.teacher_cache and any(reads(name) == "features" for name in run.config.terms):
        inputs["teacher_maps"] = "moved"  # an earlier version's did not follow the images
    for part in ("transfer", *(part for part in ("natural", "protocols") if getattr(grid, part))):
        inputs[part] = {
            name: {key: base_name(value) if key in FILES else value for key, value in options.items()}
            for name, options in getattr(grid, part).items()
        }
    return inputs


@cache
def _files_sha256(place: Path) -> str:
    digest = hashlib.sha256()
    # the model of a teacher's run, not its log
    root = place / "model" if (place / "model" / "model.safetensors").exists() else place
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        short = path == place and place.is_file() and path.stat().st_size < SHORT
        if path.name == "model.safetensors" or short:
            digest.update(path.read_bytes())
        elif path.is_file() and not path.name.startswith("."):
            digest.update(f"{path.relative_to(root)} {path.stat().st_size}".encode())
    return digest.hexdigest()
