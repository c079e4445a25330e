"""Do a grid of distillations: independent runs that are skipped when done and resumed when cut off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from crossres.bench.comparison import FORMATS, MEASURES, Row, compare, current, legend, rank_table, ranks, sentence
from crossres.bench.engines import Document, over_ray, side_by_side
from crossres.bench.grid import FILES, Grid, Run, runs_of
from crossres.bench.tables import OTHER_SIZES, read_results, sizes_table, transfer_table
from crossres.commands.evaluate import transfer_words
from crossres.commands.evaluate_faces import protocol_words
from crossres.config import options as configs
from crossres.config.reading import from_dict
from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically, write_json
from crossres.core.progress import Overview

Engine = Literal["local", "ray"]
#: What a run is judged by after its training: the keys of a grid and of its results.
JUDGEMENTS = ("transfer", "unseen", "protocols")


def bench(
    grid: Grid,
    *,
    engine: Engine = "local",
    parallel: int = 1,
    say: Callable[[str], None] | None = None,
    **overrides: Any,
) -> list[Document]:
    """Do what is missing of a grid; a run that fails is recorded and the others go on.

    Each run is a process of its own, ``crossres distill``, then ``crossres transfer`` and ``evaluate`` where the grid
    asks for them. Its result is copied to ``grid.folder``; one that is there with the same options is skipped, an
    interrupted run is resumed, a failed one is tried again. Under Ray the folders must be shared by all machines.

    Args:
        grid: the runs.
        engine: ``local`` runs them here, ``ray`` over the cluster that Ray is connected to.
        parallel: local runs side by side, each with an equal share of the cores and pinned to it.
        say: told a line for each run that ends; by default it is printed to stderr under a live overview.
        overrides: see `runs_of`.

    Returns:
        The documents of this grid's runs, results and errors (``{name, error}``), in the grid's order.

    Raises:
        CrossresError: a grid that cannot be, or no Ray.
    """
    for package in ("scipy", "sklearn"):
        if find_spec(package) is None:
            raise CrossresError(f"crossres bench needs {package}: pip install 'crossres[bench]'")
    wanted = list(runs_of(grid, **overrides))
    checks: dict[str, Callable[[str, Mapping[str, Any]], object]] = {
        "transfer": transfer_words,
        "protocols": protocol_words,
    }
    for part, words_of in checks.items():
        for name, options in getattr(grid, part).items():
            try:
                words_of("model", options)
            except CrossresError as error:
                raise CrossresError(f"{part}.{name}: {error}") from None
    with _alone(grid):
        found = {run.config.name: _done(grid, run) for run in wanted}
        todo = [run for run in wanted if found[run.config.name] is None]
        overview = Overview(len(todo), silent=say is not None)
        say = say or overview.say
        say(f"{grid.name}: {len(wanted)} runs, {len(wanted) - len(todo)} of them done")
        ends = (over_ray if engine == "ray" else side_by_side)(grid, todo, parallel, overview)
        with overview:
            for run, document in ends:
                document["grid"] = {**run.place, "asked": _asked(grid, run)}
                if "error" in document and (before := _measured(grid, run)):
                    # a judgement that failed does not undo what the training came to
                    document = {**before, "error": document["error"]}
                found[run.config.name] = document
                write_json(grid.folder / f"{run.config.name}.json", document)
                failed = document.get("error")
                measure = document.get("compared_by", "top1")
                said = (
                    f"failed: {failed}" if failed else f"{MEASURES[measure][0]} {document[f'{measure}_last']:.2f} %"
                )
                if both := document.get("people_in_both_last"):
                    said += f", {both} people are in the training and in the test images"
                say(overview.ended(run.config.name, said))
    return [found[run.config.name] or {} for run in wanted]


@contextmanager
def _alone(grid: Grid) -> Iterator[None]:
    """Refuse a second bench on one grid: both would go on with the same runs."""
    grid.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(grid.folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise CrossresError(
            f"another bench works on {grid.folder}; wait for it, or give this grid another out"
        ) from None


def compared(
    grid: Grid, costs: Mapping[tuple[str, int, str], float] | None = None
) -> tuple[list[Row], list[Document], list[str]]:
    """Return the comparison of what lies in ``grid.folder``, the results it is of, and a line for each left out.

    Every result in that folder counts, so grids that write into one folder are one comparison.

    Args:
        grid: whose results are there.
        costs: as for `compare`.
    """
    results, left_out = current(read_results(grid.folder), grid.baseline)
    return compare(results, grid.baseline, costs), [dict(result) for result in results], left_out


def summarise(grid: Grid, costs: Mapping[tuple[str, int, str], float] | None = None) -> list[Row]:
    """Write ``comparison.md``, ``.tex``, ``.csv``, what they say in words and the figures into ``grid.folder``.

    Args:
        grid: whose results are there.
        costs: as for `compare`.

    Returns:
        The rows of the comparison.
    """
    rows, results, left_out = compared(grid, costs)
    write_comparison(grid, rows, results, left_out)
    return rows


def write_comparison(grid: Grid, rows: list[Row], results: list[Document], left_out: list[str]) -> None:
    """Write what `compared` gave; see `summarise`.

    Beside it ``ranks.md`` of several settings, ``transfer.md`` and ``sizes.md`` of students that were judged
    elsewhere (of one seed).
    """
    from crossres.bench.figures import draw_comparison

    for ending, render in FORMATS.items():
        _write(grid.folder / f"comparison.{ending}", render(rows, grid.baseline))
    if table := rank_table(rows):
        _write(grid.folder / "ranks.md", table)
    said = [legend(rows, grid.baseline), *said_of(rows, grid), *left_out]
    _write(grid.folder / "comparison.txt", "\n".join(said))
    judged = [r for r in results if (r.get("transfer") or r.get("unseen")) and "top1_best_val" in r]
    judged = [r for r in judged if r["seed"] == judged[0]["seed"]]
    if judged:
        _write(grid.folder / "transfer.md", transfer_table(judged))
    if any(OTHER_SIZES in r.get("unseen", {}) for r in judged):
        _write(grid.folder / "sizes.md", sizes_table(judged))
    draw_comparison(rows, grid.baseline, grid.folder)


def said_of(rows: Sequence[Row], grid: Grid) -> list[str]:
    """Return a sentence for each method beside the baseline, and the mean ranks where there are several settings."""
    words = [sentence(row, grid.baseline) for row in rows if row.method != grid.baseline]
    if len({row.setting for row in rows}) > 1 and (found := ranks(rows)):
        told = ", ".join(f"{method} {rank:.1f}" for method, rank in found.items())
        words.append(f"Mean rank over the settings, of the methods that all have (1 is best): {told}.")
    return words


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(f"{text.rstrip()}\n".encode()))


def _asked(grid: Grid, run: Run) -> dict[str, Any]:
    """Return what a result hangs on beside its options: what lies at the paths, and what it is judged on.

    Files count by name and size, so that a copy of a folder elsewhere is the same.
    """
    read = {what: getattr(run.config, what, None) for what in ("data", "unlabelled", "teacher", "pairs")}
    listed = {f"{name}.{key}": grid.protocols[name].get(key) for name in grid.protocols for key in FILES}
    return {
        **{what: _files_sha256(Path(place)) for what, place in (read | listed).items() if place},
        "transfer": _named(grid.transfer),
        "unseen": grid.unseen,
        **({"protocols": _named(grid.protocols)} if grid.protocols else {}),
    }


def _named(judgements: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options with files by their names alone."""
    return {
        name: {key: configs.base_name(str(value)) if key in FILES else value for key, value in options.items()}
        for name, options in judgements.items()
    }


#: A file of fewer bytes that a grid names, such as a list of pairs, counts by what it holds.
SHORT = 2**20


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


def _measured(grid: Grid, run: Run) -> Document | None:
    """Return the result that is there for the same options; an option that came later had its default."""
    try:
        document: Document = json.loads((grid.folder / f"{run.config.name}.json").read_text())
        known = configs.sha256(from_dict(type(run.config), document["config"]))
    except (OSError, ValueError, KeyError, CrossresError):
        return None
    return document if known == configs.sha256(run.config) else None


def _done(grid: Grid, run: Run) -> Document | None:
    """Return the result that is there for the same options, data, teacher and judgements."""
    document = _measured(grid, run)
    if document is None:
        return None
    asked = _asked(grid, run)
    same = document.get("grid", {}).get("asked", asked) == asked
    judged = all(name in document.get(part, {}) for part in JUDGEMENTS for name in asked.get(part, {}))
    return document if same and judged else None
