"""``crossres faces evaluate``: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossres.commands.evaluate import rates, sides, tell, words_of
from crossres.commands.parser import CommandParser
from crossres.config.options import Train, base_name
from crossres.core.devices import resolve_device
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.degradation import Degradation, read_degradation
from crossres.evaluation.embedding import sizes_of
from crossres.evaluation.face_protocols import DRAWN, HELD_OUT, read_protocols, read_threshold_pairs
from crossres.evaluation.faces import Scored, evaluate_faces, write_scores
from crossres.evaluation.protocols import FARS, FPIRS
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput, read_onnx_input
from crossres.models.stored import StoredBackbone, is_stored
from crossres.models.teachers import read_teacher
from crossres.models.weights import weights_sha256


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="crossres faces evaluate",
        description="Verification, identification and retrieval by a face model, at HR-HR, HR-LR and LR-LR.",
    )
    parser.add_argument("model", help="a run's folder, a model's folder, a Hub name or an ONNX file")
    parser.add_argument(
        "data", help="a folder of a folder for each person, of parquet files, or a .bin of insightface"
    )
    parser.add_argument(
        "--pairs", help=f"list of pairs: LFW's text format or CSV; {DRAWN:,} are drawn from the people if left out"
    )
    parser.add_argument(
        "--threshold_pairs",
        help="list of pairs to choose the threshold on, of the training split (of all images where there are none); "
        f"{HELD_OUT}: pairs drawn among the people whom the model's training held out",
    )
    parser.add_argument(
        "--pairs_only", action="store_true", help="verification only: nobody is looked for in a gallery"
    )
    parser.add_argument(
        "--gallery",
        help="another model for the HR side, such as the teacher in whose space the model was trained, or its stored "
        "embeddings",
    )
    parser.add_argument("--sizes", type=sides, default=(), help="LR sides, e.g. 8,16; else the training's")
    parser.add_argument(
        "--hr_size", type=int, help="side the images are read at; the model's or gallery's if left out"
    )
    parser.add_argument(
        "--split",
        choices=["test", "train", "all"],
        help="which split (of a source without any the people that `distill` holds out, or the others); left out: "
        "test, or all of a source without any",
    )
    parser.add_argument(
        "--onnx_input",
        type=str,
        default="",
        help="what ONNX files expect, e.g. highest=1,mean=0.5:0.5:0.5,colours=bgr",
    )
    parser.add_argument(
        "--layout", help="data is a set in its own layout: tinyface, scface (scface-1 to -3: one distance) or uccs"
    )
    parser.add_argument(
        "--native", action="store_true", help="the images are low-resolution already: judge them as they are"
    )
    parser.add_argument("--image_column", help="column of the images in parquet files; found if left out")
    parser.add_argument("--label_column", help="column of the people in parquet files; found if left out")
    parser.add_argument("--corrupt", choices=["refuse", "skip"], default="refuse", help="unreadable images")
    parser.add_argument(
        "--degradation", help="another than the training's, e.g. preset=realistic or kernel=area,blur=1"
    )
    parser.add_argument("--trust_code", action="store_true", help="import the code that a model names")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs")
    parser.add_argument("--memory_mb", type=int, default=4096, help="budget of decoded images kept in memory")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap; 0 leaves intervals out")
    parser.add_argument(
        "--far", type=rates, help="false accept rates that TAR is given at, e.g. 1e-1,1e-3; else 1e-1 to 1e-4"
    )
    parser.add_argument(
        "--fpir",
        type=rates,
        default=FPIRS,
        help="false positive identification rates that TPIR is given at; else 0.01,0.1,0.3",
    )
    parser.add_argument("--cache_dir", help="keep the gallery model's embeddings here, for the next model")
    parser.add_argument("--png", help="draw the curves into this file")
    parser.add_argument(
        "--scores", help="write the similarity of each pair, at all sides and sizes, into this CSV file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    return parser


def protocol_words(model: str, options: Mapping[str, Any]) -> list[str]:
    """Return the words of ``crossres faces evaluate``; see `words_of`."""
    return words_of(model, options, _parser())


def evaluate_faces_command(words: list[str]) -> None:
    """``crossres faces evaluate``."""
    chosen = _parser().parse_args(words)
    if chosen.resamples < 0:
        raise CrossresError("--resamples: 0 or more")
    wanted = read_onnx_input(chosen.onnx_input) if chosen.onnx_input else None
    if chosen.hr_size is not None and chosen.hr_size < 1:
        raise CrossresError("--hr_size: an image has at least 1 pixel")
    if is_stored(chosen.model):
        raise CrossresError(f"{chosen.model}: stored embeddings know no other images; give the model they come from")
    # people's own folders may hold good images to make smaller ones of; the published sets are small as they are
    native = chosen.native or (bool(chosen.layout) and not (chosen.layout == "folders" and chosen.sizes))
    for option in ("sizes", "degradation"):
        if native and getattr(chosen, option):
            raise CrossresError(f"--{option}: images that are judged as they are have none; leave it out")
    encoder = read_teacher(chosen.model, wanted or OnnxInput(), trust_code=chosen.trust_code)
    gallery = _gallery(chosen, encoder, wanted)
    hr_size, low, high = sizes_of(encoder)
    if gallery is not None and not isinstance(gallery.backbone, StoredBackbone):
        hr_size = max(hr_size, sizes_of(gallery)[0])
    hr_size = chosen.hr_size or hr_size
    sizes = chosen.sizes or tuple(size for size in dict.fromkeys((low, high)) if size < hr_size)
    if chosen.degradation is not None:
        degradation = read_degradation(chosen.degradation)
    else:
        degradation = Degradation(**(encoder.info.get("degradation") or {}))
    images, pairs, search = read_protocols(chosen, encoder.info)
    lists = {Path(given).absolute() for given in (chosen.pairs, chosen.threshold_pairs, chosen.data) if given}
    if chosen.scores and Path(chosen.scores).absolute() in lists:
        raise CrossresError(f"--scores: {chosen.scores} is what is read; name another file")
    if chosen.scores and pairs is None:
        raise CrossresError(f"--scores: {chosen.data} has its own gallery and probes, no pairs; leave it out")
    scored: list[Scored] = []
    chooses = read_threshold_pairs(chosen, encoder.info, images, pairs) if chosen.threshold_pairs else None
    device = resolve_device(Train(device=chosen.device, precision=encoder.info.get("precision", "float32")))
    result = {"model": base_name(chosen.model), "gallery": base_name(chosen.gallery) if chosen.gallery else None}
    result |= evaluate_faces(
        encoder,
        images,
        hr_size=hr_size,
        sizes=sizes,
        pairs=pairs,
        search=search,
        chooses=chooses,
        gallery=gallery,
        gallery_cache=Path(chosen.cache_dir) if chosen.cache_dir else None,
        native=native,
        degradation=degradation,
        fit=encoder.info.get("fit", "crop"),
        device=device.torch,
        autocast=device.autocast,
        memory_mb=chosen.memory_mb,
        resamples=chosen.resamples,
        fars=chosen.far or FARS,
        fpirs=chosen.fpir,
        keep=(lambda *row: scored.append(row)) if chosen.scores else None,
        progress=Progress().count,
    )
    result["precision"] = device.precision

    def draw(path: str) -> None:
        from crossres.evaluation.figures import draw_faces

        draw_faces(result, path)

    # by default the table has what fits
    show = partial(_print, over_images=chosen.layout == "tinyface", fars=chosen.far or FARS[1:3], fpirs=chosen.fpir)
    tell(result, chosen, show, draw)
    if chosen.scores:
        assert pairs is not None
        write_scores(chosen.scores, images, pairs, scored)
        if not chosen.json:
            print(f"scores: {chosen.scores}")


def _gallery(chosen: argparse.Namespace, encoder: Encoder, wanted: OnnxInput | None) -> Encoder | None:
    """Read the gallery's model; of a student's own teacher the student knows what it expects of its input."""
    if not chosen.gallery:
        return None
    taught_by = encoder.info.get("teacher") or {}
    known = taught_by.get("onnx_input")
    gallery = read_teacher(
        chosen.gallery,
        wanted or (OnnxInput(**known) if known else OnnxInput()),
        trust_code=chosen.trust_code,
    )
    same_width = gallery.embedding_dim == encoder.embedding_dim  # where not, it is refused
    if same_width and taught_by.get("sha256") != weights_sha256(gallery):
        name = taught_by.get("name")
        print(
            f"{chosen.gallery} is not the model that {chosen.model} was trained with"
            f"{f' ({name})' if name else ''}: unless both share a space, what is compared means nothing",
            file=sys.stderr,
        )
    return gallery


def _within(interval: list[float] | None) -> str:
    return "" if interval is None else f" ±{(interval[1] - interval[0]) / 2:.1f}"


def _print(result: dict[str, Any], over_images: bool, fars: Sequence[float], fpirs: Sequence[float]) -> None:
    """Print the tables; ranks over gallery images, as TinyFace's protocol counts, or over identities.

    Args:
        result: of `evaluate_faces`.
        over_images: ranks are over images.
        fars: those of the false accept rates that are shown.
        fpirs: the false positive identification rates.
    """
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    gallery = f", gallery by {result['gallery']}" if result["gallery"] else ""
    people = f" of {result['people']:,} people" if result["people"] else ""  # a list of pairs may name none
    console.print(
        f"{result['model']} on {result['dataset']}, {result['images']:,} images{people}{gallery}", markup=False
    )
    unsure = False

    def table(heads: list[str], cells: Callable[[dict[str, Any]], list[str]]) -> None:
        columns = [Column(head, justify="right") for head in ["sides", "size", *heads]]
        shown = Table(*columns, collapse_padding=True)  # or 80 columns would cut numbers off
        for row in result["rows"]:
            shown.add_row(row["sides"], str(row["size"] or result["hr_size"]), *cells(row))
        console.print(shown)

    def share(point: dict[str, Any], name: str) -> str:
        nonlocal unsure
        unsure |= point["too_few"]
        return f"{point[name]:.2f}{_within(point.get('interval'))}{'*' * point['too_few']}"

    def measured(found: dict[str, Any], name: str, value: float) -> str:
        return f"{value:.2f}{_within(found.get('intervals', {}).get(name))}"

    def verified(row: dict[str, Any]) -> list[str]:
        found = row["verification"]
        if found["accuracy_chosen"] is not None:
            accuracy = f"{found['accuracy_chosen']:.2f}"
        elif found["accuracy"] is not None:
            accuracy = f"{found['accuracy']:.2f} ±{found['accuracy_error']:.2f}"
        else:
            accuracy = f"{found['accuracy_best']:.2f}†"
        points = [share(point, "tar") for point in found["tar_at_far"] if point["far"] in fars]
        return [accuracy, *(measured(found, name, found[name]) for name in ("auc", "eer")), *points]

    def identified(row: dict[str, Any]) -> list[str]:
        found = row["identification"]
        points = [share(point, "tpir") for point in found["open_set"] or []]
        of = found["retrieval"] if over_images else found
        # the nearest image is of the nearest identity: rank-1, and its interval, are the same over both
        ranks = [measured(found, "rank1", of["rank1"]), *(f"{of[f'rank{k}']:.2f}" for k in (5, 20))]
        return [*ranks, *(points or [""] * len(fpirs)), measured(found, "map", found["retrieval"]["map"])]

    if "verification" in result["rows"][0]:
        shown = [np.format_float_scientific(far, trim="-", exp_digits=1) for far in fars]
        table(["accuracy %", "AUC %", "EER %", f"TAR@FAR {shown[0]}", *shown[1:]], verified)
    searched = any("identification" in row for row in result["rows"])
    if searched:
        asked = [f"{fpir:g}" for fpir in fpirs]
        table(["rank-1 %", "rank-5", "rank-20", f"TPIR at FPIR {asked[0]}", *asked[1:], "mAP %"], identified)
    first = result["rows"][0]
    if "verification" in first:
        counts = first["verification"]["pairs"]
        console.print(f"{counts['genuine']:,} genuine and {counts['impostor']:,} impostor pairs")
    if searched:
        found = first["identification"]
        console.print(
            f"{found['gallery']:,} gallery images, {found['mated_probes']:,} probes of them, "
            f"{found['strangers']:,} of strangers"
        )
        if over_images:
            console.print("rank-k over gallery images, as TinyFace counts; over identities in --json")
    if "verification" in first and first["verification"]["accuracy_chosen"] is not None:
        console.print("accuracy at the threshold that is best on the threshold pairs")
    elif "verification" in first and first["verification"]["accuracy"] is None:
        console.print("† at the threshold that is best on these very pairs; --threshold_pairs chooses it on others")
    if (searched and "intervals" in first["identification"]) or "intervals" in first.get("verification", {}):
        console.print("± half the 95 % interval, of the accuracy over folds its standard error; --json has both ends")
    if unsure:
        console.print("* fewer than ten false matches are expected at this rate: too few to know it")
