"""``crossres faces evaluate``: call, print."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from crossres.commands.evaluate import show_judgement
from crossres.commands.parsing import Request
from crossres.config.judging import EvaluateFaces
from crossres.evaluation.faces import evaluate_faces
from crossres.evaluation.identification import FPIRS
from crossres.evaluation.verification import FARS

UNSURE = "* uncertain: fewer than ten false matches are expected at this rate"
OVER_FOLDS = "over folds, as insightface: each at the threshold of the others, with the standard deviation"
INTERVALS = "±: half the 95 % interval (accuracy over folds: standard error); --json has both ends"


def run(options: EvaluateFaces, request: Request) -> None:
    """Print the judgement."""
    # by default the table has the rates that fit
    fars, fpirs = (tuple(dict.fromkeys(rates)) for rates in (options.far or FARS[1:3], options.fpir or FPIRS))
    show = partial(_show, fars=fars, fpirs=fpirs, over_images=options.layout == "tinyface")
    files = {"figure": options.png, "scores": options.scores}
    show_judgement(lambda: evaluate_faces(options), show, files, request)


def _show(result: dict[str, Any], fars: Sequence[float], fpirs: Sequence[float], over_images: bool) -> None:
    """Print the tables; ranks over gallery images, as TinyFace's protocol counts, or over identities."""
    console = Console(highlight=False)
    gallery = f", gallery by {result['gallery']}" if result["gallery"] else ""
    people = f" of {result['people']:,} people" if result["people"] else ""  # a list of pairs may name none
    templates = f" in {result['templates']:,} templates" if result["templates"] else ""
    images = f"{result['images']:,} images{people}{templates}"
    console.print(f"{result['model']} on {result['dataset']}, {images}{gallery}", markup=False)
    verified, identified = (
        [row[part] for row in result["rows"] if part in row] for part in ("verification", "identification")
    )
    cells: list[list[str]] = []
    notes: list[str] = []
    if verified:
        cells += [_verification(row, fars) for row in verified]
        rates = [np.format_float_scientific(far, trim="-", exp_digits=1) for far in fars]
        console.print(_table(result, ["accuracy %", "AUC %", "EER %", f"TAR@FAR {rates[0]}", *rates[1:]], cells))
        counts = verified[0]["pairs"]
        if verified[0]["folds"]:
            console.print(_table(result, [f"TAR@FAR {rates[0]} over folds", *rates[1:]], _over_folds(verified, fars)))
            notes.append(OVER_FOLDS)
        notes.append(f"{counts['genuine']:,} genuine and {counts['impostor']:,} impostor pairs")
    if identified:
        searched = [_identification(row, fpirs, over_images) for row in identified]
        rates = [f"{fpir:g}" for fpir in fpirs]
        heads = ["rank-1 %", "rank-5", "rank-20", f"TPIR at FPIR {rates[0]}", *rates[1:], "mAP %"]
        console.print(_table(result, heads, searched))
        cells += searched
        first = identified[0]
        notes.append(
            f"{first['gallery']:,} gallery {'templates' if templates else 'images'}, "
            f"{first['mated_probes']:,} probes of them, {first['strangers']:,} of strangers"
        )
        if over_images:
            notes.append("rank-k over gallery images, as TinyFace counts; over identities in --json")
    if verified and verified[0]["accuracy_chosen"] is not None:
        notes.append("accuracy at the threshold that is best on the threshold pairs")
    elif verified and verified[0]["accuracy"] is None:
        others = "; --threshold_pairs chooses it on others" if result["people"] else ""  # not of own lists
        notes.append(f"† at the threshold that is best on these very pairs{others}")
    if result["flip"]:
        stored = "; those of the gallery are as they were stored" if result["gallery_stored"] else ""
        notes.append(f"each embedding is the mean over the image and its mirror image{stored}")
    notes += [INTERVALS] if any("intervals" in row for row in (*verified, *identified)) else []
    notes += [UNSURE] if any("*" in cell for row in cells for cell in row) else []
    console.print("\n".join(notes))


def _table(result: dict[str, Any], heads: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    columns = [Column(head, justify="right") for head in ["sides", "size", *heads]]
    table = Table(*columns, collapse_padding=True)  # or 80 columns would cut numbers off
    for row, texts in zip(result["rows"], cells, strict=True):
        table.add_row(row["sides"], str(row["size"] or result["hr_size"]), *texts)
    return table


def _verification(row: dict[str, Any], fars: Sequence[float]) -> list[str]:
    if row["accuracy_chosen"] is not None:
        accuracy = f"{row['accuracy_chosen']:.2f}"
    elif row["accuracy"] is not None:
        accuracy = f"{row['accuracy']:.2f} ±{row['accuracy_error']:.2f}"
    else:
        accuracy = f"{row['accuracy_best']:.2f}†"
    points = [_point(point, "tar") for point in row["tar_at_far"] if point["far"] in fars]
    return [accuracy, *(_measured(row, name, row[name]) for name in ("auc", "eer")), *points]


def _over_folds(rows: Sequence[dict[str, Any]], fars: Sequence[float]) -> list[list[str]]:
    over = [[point["folds"] for point in row["tar_at_far"] if point["far"] in fars] for row in rows]
    return [[f"{folds['tar']:.2f} ±{folds['std']:.2f}" for folds in row] for row in over]


def _identification(row: dict[str, Any], fpirs: Sequence[float], over_images: bool) -> list[str]:
    points = [_point(point, "tpir") for point in row["open_set"] or []]
    ranks = row["retrieval"] if over_images else row
    # the nearest image is of the nearest identity: rank-1, and its interval, are the same over both
    first = _measured(row, "rank1", ranks["rank1"])
    others = [f"{ranks[f'rank{k}']:.2f}" for k in (5, 20)]
    return [first, *others, *(points or [""] * len(fpirs)), _measured(row, "map", row["retrieval"]["map"])]


def _point(point: dict[str, Any], name: str) -> str:
    return f"{point[name]:.2f}{_within(point.get('interval'))}{'*' * point['too_few']}"


def _measured(row: dict[str, Any], name: str, value: float) -> str:
    return f"{value:.2f}{_within(row.get('intervals', {}).get(name))}"


def _within(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ±{(interval[1] - interval[0]) / 2:.1f}"
