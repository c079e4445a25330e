"""``crossres evaluate``: call, print."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crossres.commands.parsing import Request
from crossres.commands.printing import show_json
from crossres.config.judging import Evaluate
from crossres.core.errors import visible
from crossres.evaluation.accuracy import beside_top1
from crossres.evaluation.classification import evaluate
from crossres.evaluation.prepare import Unwritten


def run(options: Evaluate, request: Request) -> None:
    """Print the judgement."""
    show_judgement(lambda: evaluate(options), _show, {"figure": options.png}, request)


def show_judgement(
    judge: Callable[[], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    files: Mapping[str, str | None],
    request: Request,
) -> None:
    """Print a judgement, as JSON where that is requested, and which files it wrote.

    Raises:
        Unwritten: a file cannot be written; the numbers are printed before.
    """
    if request.json:
        show = show_json
    try:
        result = judge()
    except Unwritten as error:
        show(error.document)
        raise
    show(result)
    for what, path in files.items():
        if path and not request.json:
            print(f"{what}: {path}")


def _show(result: dict[str, Any]) -> None:
    console = Console(highlight=False, emoji=False)
    native = ", as they are" if result["native"] else ""
    head = f"{result['model']} on {result['dataset']}, {result['images']:,} images{native}"
    console.print(visible(head), markup=False)
    table = Table()
    top5 = len(result["classes"]) > 5  # of five classes or less one of the five is always right
    for column in ("size", "top-1 %", *(["top-5 %"] if top5 else [])):
        table.add_column(column, justify="right")
    for point in result["curve"]:
        values = [f"{point['top1']:.2f}", *([f"{point['top5']:.2f}"] if top5 else [])]
        table.add_row(str(point["size"]), *values, style="bold" if point["size"] == result["lr_size"] else "")
    console.print(table)
    if beside := beside_top1(result):
        console.print(beside)
    if "discrepancy" in result:
        console.print(_discrepancy(result["discrepancy"], result["lr_size"]))
        for row in result["discrepancy"]:
            if beside := beside_top1(row):
                console.print(visible(f"{row['name']}: {beside}"), markup=False)
    classes = result["classes"]
    mistakes = [
        (count, classes[true], classes[predicted])
        for true, row in enumerate(result["confusion"])
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    for count, name, other in sorted(mistakes, reverse=True)[:5]:
        console.print(visible(f"{count:5} x {name} taken for {other}"), markup=False)


def _discrepancy(rows: list[dict[str, Any]], size: int | list[int]) -> Table:
    """Lay out what is lost on images that are not as trained, at the size of the training."""
    table = Table(
        title=f"at {size if isinstance(size, int) else '-'.join(map(str, size))} pixels", title_justify="left"
    )
    for column in ("images", "number", "groups", "top-1 %", "lost", "95 % interval"):
        table.add_column(column, justify="left" if column == "images" else "right")
    for number, row in enumerate(rows):
        ends = "{:+.2f} to {:+.2f}".format(*row["interval"]) if row["interval"] else "none"
        lost = [f"{row['drop']:+.2f}", ends] if number else ["", ""]
        counts = (f"{row[name]:,}" for name in ("images", "groups"))
        table.add_row(escape(visible(row["name"])), *counts, f"{row['top1']:.2f}", *lost)
    return table
