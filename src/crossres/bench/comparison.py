"""Methods side by side: what their results say, and what they do not."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from crossres.bench.tables import differences, label, paired_gain, require_one_experiment, right_answers, tests_of
from crossres.evaluation.statistics import bootstrap_interval, mcnemar, mean_ranks, wilson

#: What the columns of a comparison are, in the order of its cells.
LEGEND = (
    "{measure} in % on the test {tests} after the last epoch, mean ± standard deviation over the seeds; 95 % "
    "interval of that mean by the bootstrap over seeds (of three seeds it spans at most their range), with one seed "
    "Wilson's over the test {tests}, which says nothing of another training; gain over "
    "{baseline} paired by seed, over those that both "
    "have, ± half its 95 % interval (Student's t over the seeds, but never less than other test "
    "{tests} would move it); of many methods one in twenty leaves such an interval by chance; p: McNemar's exact "
    "test on the same test {tests}, the largest over the seeds; cost: a training step in steps of {baseline}."
)
#: What methods are compared by, as tables call it, what it is counted over, and what chooses the epoch.
MEASURES = {"top1": ("top-1", "images", "top-1"), "accuracy": ("accuracy", "pairs", "AUC")}
#: Below this probability a difference on the test images counts as more than chance.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Row:
    """One method in one setting.

    Attributes:
        setting: student, teacher, size and degradation as far as they vary, as in ``resnet8x4 8x8``.
        panel: the setting without its size.
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
        cost: its step in steps of the baseline; None where nobody measured it.
        epochs: what chooses the epoch, on the validation images after each, mean over the seeds; empty where not
            recorded.
        tests: how many images or pairs it was tested on; None where not recorded.
    """

    setting: str
    panel: str
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
    tests: int | None = None

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


def compare(
    results: Sequence[Mapping[str, Any]],
    baseline: str = "ce",
    costs: Mapping[tuple[str, int, str], float] | None = None,
) -> list[Row]:
    """Set methods beside a baseline, setting by setting, the best first.

    Args:
        results: ``result.json`` documents, of a grid or not; of weights tried `tuned` ones count.
        baseline: a method's name.
        costs: step time by (student, size, method) relative to the bare step; the runs' own speed by default.

    Raises:
        CrossresError: results of one row or setting that are not one experiment but for seed and method.
    """
    settings: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        settings[_setting(result)][label(result)].append(result)
    rows = []
    for place, tried in settings.items():
        methods = {method: tuned(members) for method, members in tried.items()}
        for members in methods.values():
            require_one_experiment(members)
        base = methods.get(baseline, [])
        found = [_row(place, method, members, base, costs) for method, members in methods.items()]
        rows += sorted(found, key=lambda row: -row.mean)
    return rows


def current(results: Sequence[Mapping[str, Any]], baseline: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the results that can be compared with the baseline of their setting, and a line for each other one.

    A folder may hold runs of a grid that has been changed since; the baseline's were run anew with it.
    """
    base = {_setting(result): result for result in results if label(result) == baseline}
    kept, lines = [], []
    for result in results:
        other = base.get(_setting(result))
        unlike = differences(result, other) if other is not None else []
        if unlike:
            lines.append(f"{result.get('name')}: left out, as it differs from {baseline} in {', '.join(unlike)}.")
        else:
            kept.append(result)
    return kept, lines


def tuned(members: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the results of one method's weights that were best on the validation images, mean over the seeds."""
    factors: dict[float | None, list[Mapping[str, Any]]] = defaultdict(list)
    for result in members:
        factors[result.get("grid", {}).get("factor")].append(result)
    if len(factors) == 1:
        return members
    # of a grid that is not finished, only what all of them have
    seeds = set.intersection(*({result["seed"] for result in tried} for tried in factors.values()))
    if not seeds:
        return max(factors.values(), key=len)
    factors = {factor: [r for r in tried if r["seed"] in seeds] for factor, tried in factors.items()}
    return max(factors.values(), key=lambda tried: mean(_of_validation(result) for result in tried))


def _of_validation(result: Mapping[str, Any]) -> float:
    return float(result[f"{result.get('chosen_by', 'val_top1')}_last"])


def _row(
    place: tuple[str, str],
    method: str,
    members: Sequence[Mapping[str, Any]],
    base: Sequence[Mapping[str, Any]],
    costs: Mapping[tuple[str, int, str], float] | None,
) -> Row:
    of_seed = {result["seed"]: result for result in base}
    pairs = [(result, of_seed[result["seed"]]) for result in members if result["seed"] in of_seed]
    gain = half = p = None
    measure = members[0].get("compared_by", "top1")
    chosen_by = members[0].get("chosen_by", "val_top1")
    if pairs and members[0] is not base[0]:
        gain, half = paired_gain(members, base, f"{measure}_last")
        p = max((mcnemar(ours, theirs).p for ours, theirs in right_answers(pairs)), default=None)
    size = _largest(members[0]["lr_size"])
    student = members[0]["student"]["name"]
    if costs is None:
        cost = mean(b["images_per_second"] / a["images_per_second"] for a, b in pairs) if pairs else None
    else:
        cost = costs.get((student, size, method))
    curves = [result.get(f"{chosen_by}_by_epoch") or [] for result in members]
    epochs = [mean(column) for column in zip(*curves, strict=False)]
    score = {result["seed"]: result[f"{measure}_last"] for result in sorted(members, key=lambda r: r["seed"])}
    factor = members[0].get("grid", {}).get("factor")
    panel, setting = place
    tests = tests_of(members[0])
    return Row(setting, panel, size, method, factor, measure, score, len(pairs), gain, half, p, cost, epochs, tests)


def _largest(size: Any) -> int:
    return size if isinstance(size, int) else max(size)


def _setting(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the setting without and with its size."""
    size, place = result["lr_size"], result.get("grid", {})
    lr = f"{size}x{size}" if isinstance(size, int) else "-".join(f"{side}x{side}" for side in size)
    teacher = [f"of {place['teacher']}"] if place.get("teacher") else []
    degradation = [place["degradation"]] if place.get("degradation") else []
    student = result["student"]["name"]
    return " ".join([student, *teacher, *degradation]), " ".join([student, *teacher, lr, *degradation])


def sentence(row: Row, baseline: str) -> str:
    """Say in words what a row's gain is worth."""
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
    return f"{where}, {verdict} (McNemar p {_probability(row.p)}); one seed says nothing of another training."


def _probability(p: float) -> str:
    return f"{p:.2g}" if p else "< 1e-300"


def ranks(rows: Sequence[Row]) -> dict[str, float]:
    """Return each method's mean rank over the settings, of the methods that all settings have."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        scores[row.setting][row.method] = row.mean
    return mean_ranks(scores)


def cells(row: Row) -> list[str]:
    """Return what a table says of a row, a cell for each of `titles`."""
    interval, gain = row.interval, ""
    if row.gain is not None:
        spread = f" ± {row.half:.2f}" if row.half is not None else ""
        gain = f"{row.gain:+.2f}{spread}{' (within noise)' if row.is_noise else ''}"
    return [
        row.setting,
        row.method + (f" (weight x {row.factor:g})" if row.factor is not None else ""),
        f"{row.mean:.2f}" + (f" ± {row.deviation:.2f}" if row.deviation is not None else ""),
        f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "",
        gain,
        "" if row.p is None else _probability(row.p),
        "" if row.cost is None else f"{row.cost:.2f}",
        ", ".join(map(str, row.score)),
    ]


def _measure(rows: Sequence[Row]) -> str:
    return rows[0].measure if rows else "top1"


def legend(rows: Sequence[Row], baseline: str) -> str:
    """Say what the columns of a comparison are."""
    measure, tests, _ = MEASURES[_measure(rows)]
    return LEGEND.format(baseline=baseline, measure=measure, tests=tests)


def titles(rows: Sequence[Row], baseline: str) -> list[str]:
    """Return the names of the columns."""
    measure, *_ = MEASURES[_measure(rows)]
    return ["setting", "method", measure, "95 % interval", f"gain over {baseline}", "p", "cost", "seeds"]


def markdown(rows: Sequence[Row], baseline: str) -> str:
    """Return a Markdown table."""
    head = titles(rows, baseline)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    table = [[cell.replace("|", "\\|") for cell in cells(row)] for row in rows]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table)])


def latex(rows: Sequence[Row], baseline: str) -> str:
    """Return a LaTeX table for the package booktabs, a rule between two settings."""
    lines = [r"\begin{tabular}{llrlrrrl}", r"\toprule", _latex_line(titles(rows, baseline)), r"\midrule"]
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.setting != row.setting:
            lines.append(r"\midrule")
        lines.append(_latex_line(cells(row)))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_line(texts: Sequence[str]) -> str:
    special = {letter: f"\\{letter}" for letter in "%_&#${}"} | {letter: f"${letter}$" for letter in "<>|"}
    special |= {"±": r"$\pm$", "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    escaped = ["".join(special.get(letter, letter) for letter in text) for text in texts]
    return " & ".join(escaped) + r" \\"


def comma_separated(rows: Sequence[Row], baseline: str) -> str:  # noqa: ARG001
    """Return CSV with a line for each row and plain numbers, for a spreadsheet or pandas."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    measure = _measure(rows)
    names = ["setting", "lr_size", "method", "factor", "seeds", measure, f"{measure}_std"]
    names += ["interval_low", "interval_high"]
    writer.writerow([*names, "gain", "gain_half_interval", "mcnemar_p", "cost", "within_noise"])
    for row in rows:
        low, high = row.interval or (None, None)
        first = [row.setting, row.size, row.method, row.factor, len(row.score), row.mean, row.deviation, low, high]
        writer.writerow([*first, row.gain, row.half, row.p, row.cost, row.is_noise])
    return file.getvalue()


#: How a comparison is written, by the ending of its file.
FORMATS: dict[str, Callable[[Sequence[Row], str], str]] = {"md": markdown, "tex": latex, "csv": comma_separated}


def rank_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the methods that all settings have: rank among them in each, mean rank, best first.

    Empty where there is one setting alone.
    """
    settings = list(dict.fromkeys(row.setting for row in rows))
    found = ranks(rows) if len(settings) > 1 else {}
    if not found:
        return ""
    shared = [row for row in rows if row.method in found]
    each = {name: mean_ranks({name: {r.method: r.mean for r in shared if r.setting == name}}) for name in settings}
    lines = [f"| {' | '.join(['method', *settings, 'mean rank'])} |", "|---" * (len(settings) + 2) + "|"]
    for method, rank in sorted(found.items(), key=lambda item: item[1]):
        cells = [method.replace("|", "\\|"), *(f"{each[name][method]:g}" for name in settings), f"{rank:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
