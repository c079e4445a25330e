"""Results of runs: which are of one experiment, what a method gains over another, paired by seed."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from crossres.config.experiment import Distill, Faces
from crossres.config.methods import FACE_METHODS, METHODS, Losses
from crossres.config.old import RENAMED, upgraded
from crossres.config.reading import options_of_loss
from crossres.config.record import to_dict
from crossres.core.errors import CrossresError
from crossres.core.files import decode_bits, decode_codes, read_json
from crossres.core.types import Bools, Float64s
from crossres.evaluation.statistics import resampled_shares
from crossres.losses import LOSSES
from crossres.losses.options import reads

#: What a run wrote as ``result.json``; ``{name, error}`` where it failed.
Document = Mapping[str, Any]
Documents = Sequence[Document]

#: Options that a method is made of.
_METHOD = (
    "losses",
    "teacher",
    "teacher_name",
    "teacher_cache",
    "teacher_views",
    "teacher_top_k",
    "onnx_input",
    "stages",
)


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """Read every ``result.json`` document of the distillations in a folder, sorted by file name.

    Raises:
        CrossresError: no such folder, or a file that is not JSON, by name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CrossresError(f"no such folder: {folder}")
    results = []
    for path in sorted(folder.glob("*.json")):
        document = read_json(path)
        if document.get("task") in ("distill", "faces distill"):
            results.append(document)
    return results


def method_of(result: Document) -> str:
    """Name the method as its grid does, or as ``--method`` does; else by its losses, and which weights fall to 0."""
    if name := result.get("grid", {}).get("method"):
        return str(name)
    losses = _todays(result.get("losses", {}))
    for known, of_method in (FACE_METHODS if result.get("task") == "faces distill" else METHODS).items():
        if known != "labels" and _completed(of_method) == losses:  # labels alone are ce in every table
            return known
    names = [RENAMED.get(name, name) for name in result["method"].split("+")]
    return "+".join(f"{name} (decays)" if losses.get(name, {}).get("decay") else name for name in names)


def _completed(losses: Losses) -> Losses:
    """Add the options that a method leaves at their defaults."""
    return {
        name: {each.name: options.get(each.name, each.default) for each in options_of_loss(name)}
        for name, options in losses.items()
    }


def tests_of(result: Document) -> int | None:
    """Return how many images or pairs a run was tested on; None where its document does not say."""
    count: int | None = result.get("tests_last") or result.get("images", {}).get("test")
    return count


#: What a judgement of natural images calls what a result has of its test images.
_OF_NATURAL = {
    **{name: f"{name}_last" for name in ("top1", "class_mean", "commonest", "right")},
    "images": "tests_last",
    "test_groups": "test_groups",
}


def on_natural(results: Documents, name: str) -> list[Document]:
    """Return documents whose test images are those of a natural set, judged with the saved epoch.

    Those that were not judged there are left out.
    """
    judged: list[Document] = []
    for result in results:
        if row := result.get("natural", {}).get(name):
            own = {key: value for key, value in result.items() if key not in ("right_last", "test_groups")}
            judged.append(own | {key: row[given] for given, key in _OF_NATURAL.items() if given in row})
    return judged


def of_unmoved_maps(result: Document) -> bool:
    """Whether a run of losses on maps read stored maps of unshifted images, as an earlier version's did."""
    stored = result.get("config", {}).get("teacher_cache", True) and "teacher_maps" not in result
    return stored and any(reads(name) == "features" for name in result.get("losses", {}) if name in LOSSES)


def right_answers(pairs: Sequence[tuple[Document, Document]]) -> list[tuple[Bools, Bools]]:
    """Return which test images each of a pair of documents has right, two bool (N,); empty where one does not say."""
    if not all("right_last" in result for pair in pairs for result in pair):
        return []
    answers = []
    for ours, theirs in pairs:
        count = tests_of(ours)
        assert count is not None  # who says which were right says how many there were
        answers.append((decode_bits(ours["right_last"], count), decode_bits(theirs["right_last"], count)))
    return answers


def paired_by_seed(results: Documents, baseline: Documents) -> list[tuple[Document, Document]]:
    """Return each result with the baseline's of the same seed, where there is one."""
    of_seed = {result["seed"]: result for result in baseline}
    return [(result, of_seed[result["seed"]]) for result in results if result["seed"] in of_seed]


def paired_gain(results: Documents, baseline: Documents, key: str = "top1_last") -> tuple[float, float | None]:
    """Return the mean difference to the baseline's runs of the same seeds and half its 95 % interval.

    The interval is Student's t over the seeds, but never less than the test images, or whole groups of them, allow,
    where the results say which of them were right: two seeds may agree by chance. It is None with fewer than two
    pairs; the difference is NaN with none.

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
    pairs = paired_by_seed(results, baseline)
    gains = [ours[key] - theirs[key] for ours, theirs in pairs]
    if not gains:
        return float("nan"), None
    if len(gains) < 2:
        return gains[0], None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(gains) - 1)) * stdev(gains) / sqrt(len(gains))
    right = [] if key.startswith("val_") else right_answers(pairs)
    if right:
        of_images = np.mean([ours.astype(float) - theirs for ours, theirs in right], axis=0)
        half = max(half, _half_over(of_images, pairs[0][0].get("test_groups")))
    return mean(gains), half


def _half_over(gains: Float64s, groups: str | None) -> float:
    """Return half the 95 % interval, in points, of the mean of each test image's gain (N,), by their groups."""
    if groups is None:
        return 196 * float(np.std(gains, ddof=1)) / sqrt(len(gains))
    low, high = np.quantile(resampled_shares(gains, decode_codes(groups)), [0.025, 0.975])
    return 50 * float(high - low)


def require_one_experiment(results: Documents) -> None:
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


def differences(result: Document, other: Document) -> list[str]:
    """Return in what two runs differ beside the method and the options it brings along in its grid, by name."""
    brought = {name for one in (result, other) for name in one.get("grid", {}).get("options", ())}
    ours, theirs = _shared_options(result, brought), _shared_options(other, brought)
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def _experiment(result: Document) -> dict[str, Any]:
    """Return what seeds of one experiment have in common."""
    options = _options(result)
    method = {key: options.get(key) for key in _METHOD}
    taught = {"teacher": (result.get("teacher") or {}).get("sha256"), "teacher_maps": result.get("teacher_maps")}
    return {**_shared_options(result), **_used(method), **taught}


def _shared_options(result: Document, brought: Collection[str] = ()) -> dict[str, Any]:
    """Return what compared methods have in common: everything but losses, teacher and what is ``brought``."""
    no_matter = ("name", "runs", "cache_dir", "data", "hr_size", "natural_labels", *_METHOD)
    options = {key: value for key, value in _options(result).items() if key not in no_matter}
    for name in brought:
        *groups, leaf = name.split(".")
        group = options
        for key in groups:
            group = group.get(key, {})
        group.pop(leaf, None)
    options["model"].pop("weights", None)  # what it starts from counts by its digest
    options["train"].pop("seed", None)
    same = {key: result.get(key) for key in ("hr_size", "data_sha256", "precision", "start_sha256")}
    if same["data_sha256"]:  # each student is adapted on the crops that one of its method was sure of
        apart = {"adapted"}
        if "natural" in brought:  # HR images of groups that the natural set tests are left out of the training
            apart |= {"natural", "val", *(["train"] if options["images"].get("group") else [])}
        same["data_sha256"] = {part: digest for part, digest in same["data_sha256"].items() if part not in apart}
    return {**_used(options), "train": _used(options["train"]), **same}


def _options(result: Document) -> dict[str, Any]:
    """Return a run's options in today's names; one that a version did not know yet has its default."""
    defaults = _defaults(result.get("task"))
    config = dict(result.get("config", {}))
    losses = _todays(config.pop("losses", None))
    given = {**defaults, **upgraded(config), "losses": losses}
    groups = {
        key: {**defaults[key], **given[key]} for key in defaults if isinstance(defaults[key], dict) and given[key]
    }
    return {**given, **groups}


def _todays(losses: Any) -> Any:
    with suppress(CrossresError):  # an option that is gone, and was in use: it stays apart
        return upgraded({"losses": losses})["losses"]
    return losses


@cache
def _defaults(task: str | None) -> dict[str, Any]:
    return to_dict(Faces() if task == "faces distill" else Distill())


def _used(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is off: an option of a loss that a version did not know yet equals one that is not used."""
    inner = {key: _used(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in inner.items() if value not in (None, False, 0, {})}
