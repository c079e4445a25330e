"""Comparisons as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from crossres.bench.comparison import (
    MEASURES,
    Comparison,
    MethodScore,
    compare_methods,
    probability,
    ranks,
    sentences,
    setting_of,
)
from crossres.bench.results import Document, method_of, on_natural
from crossres.core.files import write_atomically
from crossres.evaluation.statistics import mean_ranks

#: What the columns of a comparison are, in the order of `cells`.
LEGEND = (
    "{measure} in % on the test {tests} after the last epoch, mean ± standard deviation over the seeds; 95 % "
    "interval of that mean by the bootstrap over seeds (of three seeds it spans at most their range), with one seed "
    "Wilson's over the test {tests}, which says nothing of another training; gain over "
    "{baseline} paired by seed, over those that both "
    "have, ± half its 95 % interval (Student's t over the seeds, but never less than other test "
    "{tests} would move it); of many methods one in twenty leaves such an interval by chance; p: McNemar's exact "
    "test on the same test {tests}, the largest over the seeds; cost: a training step in steps of {baseline}."
)
#: Name in ``unseen`` of a grid whose curve over sizes is tabulated.
OTHER_SIZES = "other sizes"


def _measure(scores: Sequence[MethodScore]) -> str:
    return scores[0].measure if scores else "top1"


def legend(scores: Sequence[MethodScore], baseline: str) -> str:
    """Say what the columns of a comparison are."""
    measure, tests, _ = MEASURES[_measure(scores)]
    return LEGEND.format(baseline=baseline, measure=measure, tests=tests)


def titles(scores: Sequence[MethodScore], baseline: str) -> list[str]:
    """Return the names of a comparison's columns."""
    measure, *_ = MEASURES[_measure(scores)]
    return ["setting", "method", measure, "95 % interval", f"gain over {baseline}", "p", "cost", "seeds"]


def cells(row: MethodScore, decimals: int = 2) -> list[str]:
    """Return what a table says of a method, a cell for each of `titles`; percentages have so many ``decimals``."""
    interval, gain = row.interval, ""
    if row.gain is not None:
        half = f" ± {row.half:.{decimals}f}" if row.half is not None else ""
        gain = f"{row.gain:+.{decimals}f}{half}{' (within noise)' if row.is_noise else ''}"
    return [
        row.setting,
        row.method + (f" (weight x {row.factor:g})" if row.factor is not None else ""),
        spread(list(row.score.values()), decimals),
        f"{interval[0]:.{decimals}f} to {interval[1]:.{decimals}f}" if interval else "",
        gain,
        "" if row.p is None else probability(row.p),
        "" if row.cost is None else f"{row.cost:.2f}",
        ", ".join(map(str, row.score)),
    ]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    head, *lines = [f"| {' | '.join(row)} |" for row in (heads, *escaped)]
    return "\n".join([head, "|---" * len(heads) + "|", *lines])


def markdown(scores: Sequence[MethodScore], baseline: str) -> str:
    """Return a comparison as a Markdown table."""
    return table(titles(scores, baseline), map(cells, scores))


def latex(scores: Sequence[MethodScore], baseline: str) -> str:
    """Return a comparison as a LaTeX table for the package booktabs, a rule between two settings."""
    lines = [r"\begin{tabular}{llrlrrrl}", r"\toprule", _latex_line(titles(scores, baseline)), r"\midrule"]
    for before, row in zip([None, *scores], scores, strict=False):
        if before is not None and before.setting != row.setting:
            lines.append(r"\midrule")
        lines.append(_latex_line(cells(row)))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_line(texts: Sequence[str]) -> str:
    special = {letter: f"\\{letter}" for letter in "%_&#${}"} | {letter: f"${letter}$" for letter in "<>|"}
    special |= {"±": r"$\pm$", "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    return " & ".join("".join(special.get(letter, letter) for letter in text) for text in texts) + r" \\"


def comma_separated(scores: Sequence[MethodScore], baseline: str) -> str:  # noqa: ARG001
    """Return a comparison as CSV with a line for each method and plain numbers, for a spreadsheet or pandas."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    measure = _measure(scores)
    names = ["setting", "lr_size", "method", "factor", "seeds", measure, f"{measure}_std"]
    names += ["interval_low", "interval_high"]
    writer.writerow([*names, "gain", "gain_half_interval", "mcnemar_p", "cost", "within_noise"])
    for row in scores:
        low, high = row.interval or (None, None)
        first = [row.setting, row.size, row.method, row.factor, len(row.score), row.mean, row.deviation, low, high]
        writer.writerow([*first, row.gain, row.half, row.p, row.cost, row.is_noise])
    return file.getvalue()


#: How a comparison is written, by the ending of its file.
FORMATS: dict[str, Callable[[Sequence[MethodScore], str], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
}


def rank_table(scores: Sequence[MethodScore]) -> str:
    """Return a Markdown table of the methods that all settings have: rank among them in each, mean rank, best first.

    Empty where there is one setting alone.
    """
    settings = list(dict.fromkeys(row.setting for row in scores))
    order = ranks(scores) if len(settings) > 1 else {}
    if not order:
        return ""
    means = {name: {r.method: r.mean for r in scores if r.setting == name and r.method in order} for name in settings}
    each = [mean_ranks({name: means[name]}) for name in settings]
    rows = [[method, *(f"{own[method]:g}" for own in each), f"{rank:.2f}"] for method, rank in order.items()]
    return table(["method", *settings, "mean rank"], rows)


def transfer_table(results: Iterable[Document]) -> str:
    """Return a Markdown table of what students are worth elsewhere: on other data, natural or degraded in other ways.

    Linear probe and nearest neighbours for each data set, top-1 on the run's own test images, on natural ones, with
    the drop from its own in points, and under each degradation; of the weights that were best on validation, mean ±
    standard deviation over the seeds. In each setting the best on its own test images comes first.

    Args:
        results: ``result.json`` documents of a grid with ``transfer``, ``natural`` or ``unseen``.
    """
    documents = list(results)
    sets = list(dict.fromkeys(name for r in documents for name in r.get("transfer", {})))
    parts = ("natural", "unseen")
    kinds = dict.fromkeys((part, name) for part in parts for r in documents for name in r.get(part, {}))
    kinds.pop(("unseen", OTHER_SIZES), None)
    values = [("transfer", name, key) for name in sets for key in ("probe_top1", "knn_top1")]
    values.append(("", "", "top1_best_val"))
    columns = [(*kind, key) for kind in kinds for key in ("top1", "drop")[: 1 + (kind[0] == "natural")]]
    values += columns

    def value(result: Document, part: str, name: str, key: str) -> float | None:
        judged = result.get(part, {}).get(name, {}) if part else result
        return judged.get(key)

    rows = [
        [*row, *(spread([v for r in seeds if (v := value(r, *what)) is not None]) for what in values)]
        for row, seeds in _by_setting(documents)
    ]
    of_sets = [f"{name}, {how}" for name in sets for how in ("probe", "kNN")]
    others = [name if key == "top1" else f"drop to {name}" for _, name, key in columns]
    return table(["setting", "method", *of_sets, documents[0]["dataset"], *others], rows)


def natural_tables(comparison: Comparison) -> str:
    """Return Markdown that compares the methods on each set of natural images; "" where none was judged."""
    parts = []
    for name in dict.fromkeys(name for result in comparison.results for name in result.get("natural", {})):
        scores = compare_methods(on_natural(comparison.results, name), comparison.baseline, costs={})
        parts.append(f"## {name}\n\nThe saved epoch.\n\n{markdown(scores, comparison.baseline)}")
    return "\n\n".join(parts)


def sizes_table(results: Iterable[Document]) -> str:
    """Return a Markdown table of students on test images of other sizes than they were trained on.

    Rows are those of `transfer_table`.

    Args:
        results: ``result.json`` documents of a grid with an ``unseen`` called "other sizes"; others are left out.
    """
    documents = [r for r in results if OTHER_SIZES in r.get("unseen", {})]

    def curve(result: Document) -> dict[int, float]:
        return {point["size"]: point["top1"] for point in result["unseen"][OTHER_SIZES]["curve"]}

    sizes = sorted({size for r in documents for size in curve(r)})
    rows = [
        [*row, *(spread([at[size] for r in seeds if size in (at := curve(r))]) for size in sizes)]
        for row, seeds in _by_setting(documents)
    ]
    return table(["setting", "method", *(f"{size}x{size}" for size in sizes)], rows)


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """Return mean ± standard deviation of several numbers, one number as it is, nothing of none."""
    if not values:
        return ""
    return f"{mean(values):.{decimals}f}" + (f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else "")


def _by_setting(results: Sequence[Document]) -> list[tuple[tuple[str, str], list[Document]]]:
    """Return setting and method with their seeds' results; in each setting the best on its own test images first."""
    groups: dict[tuple[str, str], list[Document]] = {}
    for result in results:
        groups.setdefault((setting_of(result), method_of(result)), []).append(result)
    settings = list(dict.fromkeys(setting for setting, _ in groups))
    return sorted(
        groups.items(),
        key=lambda item: (settings.index(item[0][0]), -mean(r["top1_best_val"] for r in item[1])),
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.md``, ``.tex``, ``.csv``, what they say in words (``.txt``) and the figures into a folder.

    Beside them ``ranks.md`` of several settings, and of students that were judged elsewhere ``transfer.md``,
    ``natural.md`` and ``sizes.md``.
    """
    from crossres.bench.figures import draw_comparison

    scores, baseline = comparison.scores, comparison.baseline
    texts = {f"comparison.{ending}": render(scores, baseline) for ending, render in FORMATS.items()}
    words = [legend(scores, baseline), *sentences(scores, baseline), *comparison.left_out]
    texts |= {"comparison.txt": "\n".join(words), "ranks.md": rank_table(scores)}
    parts = ("transfer", "natural", "unseen")
    judged = [r for r in comparison.results if any(map(r.get, parts)) and "top1_best_val" in r]
    texts["transfer.md"] = transfer_table(judged) if judged else ""
    texts["sizes.md"] = sizes_table(judged) if any(OTHER_SIZES in r.get("unseen", {}) for r in judged) else ""
    texts["natural.md"] = natural_tables(comparison)
    for name, text in texts.items():
        if text:
            _write(folder / name, text)
        else:  # of an earlier grid
            (folder / name).unlink(missing_ok=True)
    draw_comparison(scores, baseline, folder)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(f"{text.rstrip()}\n".encode()))
