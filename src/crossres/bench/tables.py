"""Results as a table: mean and spread over seeds, and what a method gains over its baseline."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from math import isnan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from crossres.config.options import Distill, Faces, to_dict
from crossres.core.errors import CrossresError
from crossres.core.files import unpack

#: Two-sided 95 % quantile of Student's t for 1, 2, ... degrees of freedom; beyond the table the normal's.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


#: What the two ± of `method_table` are.
SPREAD = (
    "± after an accuracy is the standard deviation over the seeds, after a gain half its 95 % interval (Student's t, "
    "paired by seed, but never less than other test images would move it)."
)

#: What a method is made of.
_METHOD = ("losses", "teacher", "teacher_name", "teacher_cache", "teacher_views", "onnx_input", "stages")


#: name in ``unseen`` of a grid whose curve over sizes is tabulated
OTHER_SIZES = "other sizes"


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """Read every ``result.json`` document of the distillations in a folder, sorted by file name.

    Raises:
        CrossresError: no such folder, or a file that is no JSON, by name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CrossresError(f"no such folder: {folder}")
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text())
        except ValueError as error:
            raise CrossresError(f"{path}: not JSON: {error}") from None
        if document.get("task") in ("distill", "faces distill"):
            found.append(document)
    return found


def method_table(results: Iterable[Mapping[str, Any]], baselines: Sequence[str] = ("ce",)) -> str:
    """Return a Markdown table of top-1 on the test set: a row per student, size and method.

    Accuracies are those of the last epoch and of the epoch that was best on the validation split, as mean and
    sample standard deviation over the seeds. The gain over a baseline is that of the last epoch, paired by seed,
    with a 95 % interval (Student's t) where there are at least two pairs.

    Args:
        results: ``result.json`` documents.
        baselines: the methods the gains are counted from, by their names in the table: a loss whose weight
            decays is another method.

    Raises:
        CrossresError: two results of one row have the same seed or differ in more than the seed, or a row differs
            from its baseline in more than the method.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        if "top1_last" not in result:
            raise CrossresError(f"'{result.get('name')}' is no run of a classifier; tabulate it apart")
        key = (result["student"]["name"], str(result["lr_size"]), label(result))
        groups[key].append(result)
    for members in groups.values():
        require_one_experiment(members)
    gains = [f"gain over {baseline}" for baseline in baselines]
    titles = ["student", "LR size", "method", "top-1 last epoch", "top-1 best on val.", "top-5 last", *gains, "seeds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for key in sorted(groups, key=_order):
        student, size, method = key
        members = groups[key]
        cells = [student, f"{size}x{size}", method]
        cells += [_spread([r[key] for r in members]) for key in ("top1_last", "top1_best_val", "top5_last")]
        for baseline in baselines:
            base = groups.get((student, size, baseline), [])
            cells.append("" if method == baseline else _difference(members, base))
        cells.append(", ".join(str(seed) for seed in sorted(r["seed"] for r in members)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def require_one_experiment(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse results that are not one experiment with several seeds.

    Raises:
        CrossresError: two of one seed, or two that differ in more than the seed, by their names.
    """
    for i, result in enumerate(results):
        for other in results[:i]:
            if other["seed"] == result["seed"] or _experiment(other) != _experiment(result):
                raise CrossresError(
                    f"'{other.get('name')}' and '{result.get('name')}' are not one experiment with two seeds; "
                    "tabulate them apart"
                )


def paired_gain(
    results: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], key: str = "top1_last"
) -> tuple[float, float | None]:
    """Return the mean difference to the baseline's runs of the same seeds and half its 95 % interval.

    The interval is Student's t over the seeds, but never less than the test images allow, where the results say
    which of them were right: two seeds may agree by chance. It is None with fewer than two pairs; the difference is
    NaN with none.

    Args:
        results: one method's documents, a seed each.
        baseline: the other method's.
        key: what is compared; a value on the validation images has no part of the test images in its interval.

    Raises:
        CrossresError: the two differ in more than the method: in data, sizes, schedule or augmentation.
    """
    for result, other in zip(results[:1], baseline[:1], strict=False):
        if unlike := differences(result, other):
            raise CrossresError(
                f"'{result.get('name')}' and '{other.get('name')}' differ in {', '.join(unlike)} beside the method; "
                "tabulate them apart"
            )
    of_seed = {r["seed"]: r for r in baseline}
    pairs = [(r, of_seed[r["seed"]]) for r in results if r["seed"] in of_seed]
    gains = [ours[key] - theirs[key] for ours, theirs in pairs]
    if not gains:
        return float("nan"), None
    if len(gains) < 2:
        return gains[0], None
    quantile = _T95[len(gains) - 2] if len(gains) - 2 < len(_T95) else 1.96
    half = quantile * stdev(gains) / sqrt(len(gains))
    right = [] if key.startswith("val_") else right_answers(pairs)
    if right:
        of_images = np.mean([ours.astype(float) - theirs for ours, theirs in right], axis=0)
        half = max(half, 196 * float(np.std(of_images, ddof=1)) / sqrt(len(of_images)))
    return mean(gains), half


def right_answers(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Return which test images each of a pair of documents has right, two bool (N,); empty where one does not say."""
    if not all("right_last" in result for pair in pairs for result in pair):
        return []
    answers = []
    for ours, theirs in pairs:
        count = tests_of(ours)
        assert count is not None  # who says which were right says how many there were
        answers.append((unpack(ours["right_last"], count), unpack(theirs["right_last"], count)))
    return answers


def tests_of(result: Mapping[str, Any]) -> int | None:
    """Return how many images or pairs a run was tested on; None where its document does not say."""
    count: int | None = result.get("tests_last") or result.get("images", {}).get("test")
    return count


def label(result: Mapping[str, Any]) -> str:
    """Name the method as its grid does; else by its losses, and which of their weights fall to 0."""
    if named := result.get("grid", {}).get("method"):
        return str(named)
    losses = result.get("losses", {})
    names = result["method"].split("+")
    return "+".join(f"{name} (decays)" if losses.get(name, {}).get("decay") else name for name in names)


def differences(result: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return in what two runs differ beside the method and the options it brings along in its grid, by name."""
    brought = {name for one in (result, other) for name in one.get("grid", {}).get("options", ())}
    ours, theirs = _setting(result, brought), _setting(other, brought)
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def _experiment(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what seeds of one experiment have in common."""
    config = _config(result)
    method = {key: config.get(key) for key in _METHOD}
    return {**_setting(result), **_set(method), "teacher": (result.get("teacher") or {}).get("sha256")}


def _setting(result: Mapping[str, Any], brought: Collection[str] = ()) -> dict[str, Any]:
    """Return what compared methods have in common: everything but losses, teacher and what is ``brought``."""
    no_matter = ("name", "runs", "cache_dir", "data", "hr_size", *_METHOD)
    config = {k: v for k, v in _config(result).items() if k not in no_matter}
    for name in brought:
        *parts, leaf = name.split(".")
        part = config
        for key in parts:
            part = part.get(key, {})
        part.pop(leaf, None)
    # what it starts from counts by its digest
    config["model"] = {k: v for k, v in config.get("model", {}).items() if k != "weights"}
    train = {k: v for k, v in config.pop("train", {}).items() if k != "seed"}
    same = {key: result.get(key) for key in ("hr_size", "data_sha256", "precision", "start_sha256")}
    return {**_set(config), "train": _set(train), **same}


def _config(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options; one that a version did not know yet has its default."""
    known = _defaults(result.get("task"))
    given = {**known, **result.get("config", {})}
    parts = {key: {**known[key], **given[key]} for key in known if isinstance(known[key], Mapping) and given[key]}
    return {**given, **parts}


@cache
def _defaults(task: str | None) -> dict[str, Any]:
    return to_dict(Faces() if task == "faces distill" else Distill())


def _set(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is off: an option of a loss that a version did not know yet equals one that is not used."""
    inner = {key: _set(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in inner.items() if value not in (None, False, 0, {})}


def _difference(members: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> str:
    gain, half = paired_gain(members, base)
    if isnan(gain):
        return ""
    if half is None:
        return f"{gain:+.2f} (1 seed)"
    return f"{gain:+.2f} ± {half:.2f}{' (within noise)' if abs(gain) < half else ''}"


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def _order(key: tuple[str, str, str]) -> tuple[str, str, int, str]:
    student, size, method = key
    return student, size.rjust(12), len(method.split("+")), method


def transfer_table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table of what students are worth elsewhere: on other data, under unseen degradations.

    Linear probe and nearest neighbours for each data set, top-1 on the run's own test images and under each
    degradation; of the weights that were best on validation. The best on its own test images comes first.

    Args:
        results: ``result.json`` documents of a grid with ``transfer``, ``unseen`` or both.
    """
    rows = sorted(results, key=lambda r: -r["top1_best_val"])
    sets = list(dict.fromkeys(name for r in rows for name in r.get("transfer", {})))
    kinds = list(dict.fromkeys(name for r in rows for name in r.get("unseen", {}) if name != OTHER_SIZES))
    own = rows[0]["dataset"]
    head = ["method", *(f"{name}, {how}" for name in sets for how in ("probe", "kNN")), own, *kinds]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        judged = [r.get("transfer", {}).get(name, {}).get(key) for name in sets for key in ("probe_top1", "knn_top1")]
        values = [*judged, r["top1_best_val"], *(r.get("unseen", {}).get(kind, {}).get("top1") for kind in kinds)]
        shown = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append(f"| {label(r)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def sizes_table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table of students on test images of other sizes than they were trained on.

    Args:
        results: ``result.json`` documents of a grid with an ``unseen`` called "other sizes"; others are left out.
    """
    rows = sorted((r for r in results if OTHER_SIZES in r.get("unseen", {})), key=lambda r: -r["top1_best_val"])
    sizes = sorted({point["size"] for r in rows for point in r["unseen"][OTHER_SIZES]["curve"]})
    head = ["method", *(f"{size}x{size}" for size in sizes)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        values = {point["size"]: f"{point['top1']:.2f}" for point in r["unseen"][OTHER_SIZES]["curve"]}
        lines.append(f"| {label(r)} | {' | '.join(values.get(size, '') for size in sizes)} |")
    return "\n".join(lines)
