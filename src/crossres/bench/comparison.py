"""Methods side by side: what their results say, and what they do not."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from crossres.bench.results import (
    Document,
    Documents,
    differences,
    method_of,
    of_unmoved_maps,
    paired_by_seed,
    paired_gain,
    read_results,
    require_one_experiment,
    right_answers,
    tests_of,
)
from crossres.evaluation.accuracy import beside_top1
from crossres.evaluation.statistics import bootstrap_interval, mcnemar, mean_ranks, wilson

#: What methods are compared by: its name in tables, what it is counted over, and what chooses the epoch.
MEASURES = {"top1": ("top-1", "images", "top-1"), "accuracy": ("accuracy", "pairs", "AUC")}
#: Below this probability a difference on the test images counts as more than chance.
SIGNIFICANT = 0.05
#: Time of a training step by (student, LR size, method), in steps of labels alone.
Costs = Mapping[tuple[str, int, str], float]


@dataclass(frozen=True)
class MethodScore:
    """One method in one setting.

    Attributes:
        setting: student, teacher, size and degradation as far as they vary, as in ``resnet8x4 8x8``.
        size: side of the LR images, the largest of a range.
        method: its name.
        factor: of its weights, the best on validation of those tried; None where one was given.
        measure: what they are compared by, a key of `MEASURES`.
        score: its value by seed, in percent.
        pairs: how many of them the baseline has, too.
        gain: mean difference to the baseline's runs of the same seeds; None for the baseline itself, or without one.
        half: half the 95 % interval of the gain: Student's t over the seeds, but never less than the test images
            allow (two seeds may agree by chance); None with fewer than two pairs.
        p: the largest of McNemar's p over the seeds; None where the results do not say which images were right.
        cost: its step in steps of the baseline; None where it was not measured.
        epochs: what chooses the epoch, on the validation images after each, mean over the seeds; empty where not
            recorded.
        tests: how many images or pairs it was tested on; None where not recorded.
        beside: what classes of unequal size call for beside top-1.
    """

    setting: str
    size: int
    method: str
    factor: float | None
    measure: str
    score: Mapping[int, float]
    pairs: int
    gain: float | None
    half: float | None
    p: float | None
    cost: float | None
    epochs: Sequence[float]
    tests: int | None
    beside: str

    @property
    def mean(self) -> float:
        """Mean score over the seeds."""
        return mean(self.score.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the score over the seeds."""
        return stdev(self.score.values()) if len(self.score) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval: of the mean over the seeds by the bootstrap; with one seed of a share of the tests."""
        if len(self.score) > 1:
            return bootstrap_interval(list(self.score.values()))
        return wilson(round(self.mean * self.tests / 100), self.tests) if self.tests else None

    @property
    def is_noise(self) -> bool | None:
        """Whether the gain may be chance: over the seeds where there are two, else over the test images."""
        if self.gain is None:
            return None
        if self.half is not None:
            return abs(self.gain) <= self.half
        return None if self.p is None else self.p >= SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """What lies in a folder of results, beside a baseline.

    Attributes:
        baseline: the method that gains are counted from.
        scores: of `compare_methods`.
        results: the documents that they are of.
        left_out: a line for each result that cannot be compared.
    """

    baseline: str
    scores: Sequence[MethodScore]
    results: Documents
    left_out: Sequence[str]


def compare_folder(folder: Path, baseline: str, costs: Costs | None = None) -> Comparison:
    """Compare the methods whose results lie in a folder; grids that write into one folder are one comparison.

    A folder may hold runs of a grid that has been changed since, whose baseline was run anew: what differs from the
    baseline of its setting is left out. So are losses on maps of an earlier version, whose stored maps did not follow
    the images.
    """
    results = read_results(folder)
    base = {setting_of(result): result for result in results if method_of(result) == baseline}
    kept: list[Document] = []
    left_out = []
    for result in results:
        other = base.get(setting_of(result))
        if of_unmoved_maps(result):
            left_out.append(f"{result['name']}: left out, as its teacher's maps did not follow the images.")
            continue
        if unlike := differences(result, other) if other else []:
            left_out.append(f"{result['name']}: left out, as it differs from {baseline} in {', '.join(unlike)}.")
        else:
            kept.append(result)
    return Comparison(baseline, compare_methods(kept, baseline, costs), kept, left_out)


def compare_methods(results: Documents, baseline: str = "ce", costs: Costs | None = None) -> list[MethodScore]:
    """Set methods beside a baseline, setting by setting, the best first.

    Args:
        results: ``result.json`` documents, of a grid or not; of weights tried `best_factor` ones count.
        baseline: a method's name.
        costs: of steps; by default the runs' own speed, of runs of the same kind of machine.

    Raises:
        CrossresError: results of one row or setting that are not one experiment but for seed and method.
    """
    settings: dict[str, dict[str, list[Document]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        settings[setting_of(result)][method_of(result)].append(result)
    scores = []
    for setting, tried in settings.items():
        methods = {method: best_factor(members) for method, members in tried.items()}
        for members in methods.values():
            require_one_experiment(members)
        base = methods.get(baseline, [])
        rows = [_score(setting, method, members, base, costs) for method, members in methods.items()]
        scores += sorted(rows, key=lambda row: -row.mean)
    return scores


def best_factor(members: Documents) -> Documents:
    """Return the results of one method's weights that were best on the validation images, mean over the seeds."""
    factors: dict[float | None, list[Document]] = defaultdict(list)
    for result in members:
        factors[result.get("grid", {}).get("factor")].append(result)
    if len(factors) == 1:
        return members
    # of a grid that is not finished, only what all of them have
    seeds = set.intersection(*({result["seed"] for result in tried} for tried in factors.values()))
    if not seeds:
        return max(factors.values(), key=len)
    shared = [[result for result in tried if result["seed"] in seeds] for tried in factors.values()]
    return max(shared, key=lambda tried: mean(r[f"{r.get('chosen_by', 'val_top1')}_last"] for r in tried))


def _score(setting: str, method: str, members: Documents, base: Documents, costs: Costs | None) -> MethodScore:
    first, pairs = members[0], paired_by_seed(members, base)
    measure, size = first.get("compared_by", "top1"), first["lr_size"]
    side = size if isinstance(size, int) else max(size)
    gain = half = p = cost = None
    grouped = "test_groups" in first
    if pairs and first is not base[0]:
        gain, half = paired_gain(members, base, f"{measure}_last")
        if not grouped:  # McNemar's test is of independent images
            p = max((mcnemar(ours, theirs).p for ours, theirs in right_answers(pairs)), default=None)
    if costs is not None:
        cost = costs.get((first["student"]["name"], side, method))
    elif alike := [(ours, theirs) for ours, theirs in pairs if ours.get("machine") == theirs.get("machine")]:
        cost = mean(theirs["images_per_second"] / ours["images_per_second"] for ours, theirs in alike)
    uneven = {f"{name}_last" for name in ("top1", "class_mean", "commonest")}.intersection(*members)
    curves = [result.get(f"{first.get('chosen_by', 'val_top1')}_by_epoch") or [] for result in members]
    return MethodScore(
        setting=setting,
        size=side,
        method=method,
        factor=first.get("grid", {}).get("factor"),
        measure=measure,
        score={result["seed"]: result[f"{measure}_last"] for result in sorted(members, key=lambda r: r["seed"])},
        pairs=len(pairs),
        gain=gain,
        half=half,
        p=p,
        cost=cost,
        epochs=[mean(column) for column in zip(*curves, strict=False)],
        tests=None if grouped else tests_of(first),
        beside=beside_top1({name: mean(result[name] for result in members) for name in uneven}, "_last"),
    )


def setting_of(result: Document) -> str:
    """Return what a run is compared within: student, teacher, size and degradation, as far as they vary."""
    size, place = result["lr_size"], result.get("grid", {})
    lr = f"{size}x{size}" if isinstance(size, int) else "-".join(f"{side}x{side}" for side in size)
    teacher = [f"of {place['teacher']}"] if place.get("teacher") else []
    degradation = [place["degradation"]] if place.get("degradation") else []
    return " ".join([result["student"]["name"], *teacher, lr, *degradation])


def ranks(scores: Sequence[MethodScore]) -> dict[str, float]:
    """Return each method's mean rank over the settings, of the methods that all settings have, best first."""
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for row in scores:
        means[row.setting][row.method] = row.mean
    return mean_ranks(means)


def sentences(scores: Sequence[MethodScore], baseline: str) -> list[str]:
    """Return a sentence for each method beside the baseline, and the mean ranks where there are several settings."""
    lines = [sentence(row, baseline) for row in scores if row.method != baseline]
    lines += [f"{row.method} ({row.setting}): {row.beside}." for row in scores if row.beside]
    if len({row.setting for row in scores}) > 1 and (order := ranks(scores)):
        listed = ", ".join(f"{method} {rank:.1f}" for method, rank in order.items())
        lines.append(f"Mean rank over the settings, of the methods that all have (1 is best): {listed}.")
    return lines


def sentence(row: MethodScore, baseline: str) -> str:
    """Say in words what a method's gain is worth."""
    if row.gain is None:
        return f"{row.method} ({row.setting}): not compared with {baseline}."
    where = f"{row.method} ({row.setting}): {row.gain:+.2f} points against {baseline}"
    if row.half is not None:
        low, high = row.gain - row.half, row.gain + row.half
        verdict = "within noise" if row.is_noise else ("better" if row.gain > 0 else "worse")
        return f"{where}, {verdict}: 95 % interval {low:+.2f} to {high:+.2f} over {row.pairs} seeds."
    if row.p is None:
        return f"{where} with one seed: nothing says whether that is noise."
    verdict = "within noise" if row.is_noise else "more than chance on these test images"
    return f"{where}, {verdict} (McNemar p {probability(row.p)}); one seed says nothing of another training."


def probability(p: float) -> str:
    """Write a probability, also one that a float cannot hold."""
    return f"{p:.2g}" if p else "< 1e-300"
