"""The commands that judge a saved model on labelled images: parse, call, print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossres.commands.parser import CommandParser
from crossres.config.options import Train, base_name
from crossres.core.devices import Device, resolve_device
from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation, read_degradation
from crossres.data.images import ImageSet, left_out
from crossres.data.readers import NAMES, read
from crossres.data.splits import Split
from crossres.evaluation.classification import evaluate
from crossres.evaluation.transfer import transfer
from crossres.models.encoder import Encoder
from crossres.models.pretrained import from_pretrained


def _judging_options(parser: argparse.ArgumentParser) -> None:
    """Add what every judgement of a saved model on labelled images asks for."""
    parser.add_argument("model", help="a run's folder, a model's folder or a Hub name")
    parser.add_argument("data", help="a folder of class folders, of parquet files, a torchvision name or digits")
    parser.add_argument(
        "--trust_code", action="store_true", help="import the code that the model names for its network"
    )
    parser.add_argument("--image_column", help="column of the images in parquet files; found if left out")
    parser.add_argument("--label_column", help="column of the labels in parquet files; found if left out")
    parser.add_argument("--classes", help="use these classes of the data alone, e.g. cat,dog; all if left out")
    parser.add_argument(
        "--test_fraction", type=float, help="test share where the data has no split; the training's if left out"
    )
    parser.add_argument("--corrupt", choices=["refuse", "skip"], default="refuse", help="unreadable images")
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set")
    parser.add_argument("--root", help="folder of the torchvision data sets")
    parser.add_argument("--memory_mb", type=int, default=4096, help="budget of decoded images kept in memory")
    parser.add_argument(
        "--degradation", help="another than the training's, e.g. preset=realistic or kernel=area,blur=1"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], help="the training's if left out")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")


def _judged(chosen: argparse.Namespace) -> tuple[Encoder, Device, Degradation | None]:
    """Return the model, where it runs and the degradation that `_judging_options` asked for."""
    if chosen.test_fraction is not None and not 0 < chosen.test_fraction < 1:
        raise CrossresError(f"--test_fraction {chosen.test_fraction:g} is outside 0..1")
    degradation = None if chosen.degradation is None else read_degradation(chosen.degradation)
    encoder = from_pretrained(chosen.model, trust_code=chosen.trust_code)
    precision = chosen.precision or encoder.info.get("precision", "float32")
    return encoder, resolve_device(Train(device=chosen.device, precision=precision)), degradation


def _read(chosen: argparse.Namespace, split: Split, encoder: Encoder) -> ImageSet:
    images = read(
        chosen.data,
        split=split,
        image_column=chosen.image_column,
        label_column=chosen.label_column,
        test_fraction=chosen.test_fraction or encoder.info.get("test_fraction", 0.2),
        corrupt=chosen.corrupt,
        download=chosen.download,
        root=chosen.root,
        memory_mb=chosen.memory_mb,
    )
    return images if chosen.classes is None else images.of_classes(chosen.classes.split(","))


def evaluate_command(words: list[str]) -> None:
    """``crossres evaluate``."""
    parser = CommandParser(
        prog="crossres evaluate",
        description="Accuracy, confusion and accuracy against resolution of a model on labelled images.",
    )
    _judging_options(parser)
    parser.add_argument(
        "--split", choices=["test", "train", "all"], default="test", help="which split; all of a folder without any"
    )
    parser.add_argument("--sizes", type=sides, default=(), help="sides of the curve, e.g. 4,8,16; around training's")
    parser.add_argument(
        "--native", action="store_true", help="the images are low-resolution already: judge them as they are"
    )
    parser.add_argument("--png", help="draw the curve and the confusion matrix into this file")
    chosen = parser.parse_args(words)
    encoder, device, degradation = _judged(chosen)
    images = _read(chosen, chosen.split, encoder)
    for line in left_out({chosen.split: images}):
        print(line, file=sys.stderr)
    result = {"model": base_name(chosen.model)} | evaluate(
        encoder,
        images,
        sizes=chosen.sizes,
        native=chosen.native,
        degradation=degradation,
        device=device.torch,
        autocast=device.autocast,
        memory_mb=chosen.memory_mb,
    )
    result["precision"] = device.precision
    if result["enlarged"]:
        shrinks = result["lr_size"] != result["hr_size"] and not chosen.native
        print(
            f"{images.name}: {result['enlarged']} of {len(images)} images are smaller than {result['read_size']} "
            f"pixels: enlarged{', then degraded; --native judges low-resolution images as they are' * shrinks}",
            file=sys.stderr,
        )

    def draw(path: str) -> None:
        from crossres.evaluation.figures import draw_evaluation

        draw_evaluation(result, path)

    tell(result, chosen, _print_evaluation, draw)


def tell(
    result: dict[str, Any],
    chosen: argparse.Namespace,
    show: Callable[[dict[str, Any]], None],
    draw: Callable[[str], None],
) -> None:
    """Print a judgement, as JSON where that is asked for, and draw it where a file is named."""
    if chosen.json:
        print(json.dumps(result))
    else:
        show(result)
    if chosen.png:  # last: a figure that cannot be written costs no numbers
        draw(chosen.png)
        if not chosen.json:
            print(f"figure: {chosen.png}")


def _print_evaluation(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    trained = result["lr_size"]
    native = ", as they are" if result["native"] else ""
    console.print(f"{result['model']} on {result['dataset']}, {result['images']:,} images{native}", markup=False)
    table = Table()
    top5 = len(result["classes"]) > 5  # of five classes or less one of the five is always right
    for column in ("size", "top-1 %", *(["top-5 %"] if top5 else [])):
        table.add_column(column, justify="right")
    for point in result["curve"]:
        values = [f"{point['top1']:.2f}", *([f"{point['top5']:.2f}"] if top5 else [])]
        table.add_row(str(point["size"]), *values, style="bold" if point["size"] == trained else "")
    console.print(table)
    counts, classes = result["confusion"], result["classes"]
    mistakes = sorted(
        ((counts[t][p], classes[t], classes[p]) for t in range(len(counts)) for p in range(len(counts)) if t != p),
        reverse=True,
    )
    for count, true, predicted in mistakes[:5]:
        if count:
            console.print(f"{count:5} x {true} taken for {predicted}", markup=False)


def _transfer_parser() -> CommandParser:
    parser = CommandParser(
        prog="crossres transfer",
        description="What a model's embeddings are worth on other images: a linear probe and nearest neighbours.",
    )
    _judging_options(parser)
    return parser


def words_of(model: str, options: Mapping[str, Any], parser: CommandParser) -> list[str]:
    """Return a judging command's words for a model and options by name, ``data`` among them, checked.

    Raises:
        CrossresError: an unknown option, or a value it does not take.
    """
    words = [model, str(options["data"])]
    for name, value in options.items():
        if name == "data" or value is False or value is None:
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{name}"] if value is True else [f"--{name}", text]
    chosen = parser.parse_args(words)
    if chosen.degradation is not None:
        read_degradation(chosen.degradation)
    for name in ("pairs", "threshold_pairs", "gallery"):
        path = options.get(name)
        if path and "/" in str(path) and not Path(str(path)).exists():
            raise CrossresError(f"{name}: there is no {path}")
    if chosen.data not in NAMES and not Path(chosen.data).exists():
        remedy = "; set that environment variable" if "$" in chosen.data else ""
        raise CrossresError(f"there is no data set '{chosen.data}'{remedy}")
    return words


def transfer_words(model: str, options: Mapping[str, Any]) -> list[str]:
    """Return the words of ``crossres transfer``; see `words_of`."""
    return words_of(model, options, _transfer_parser())


def transfer_command(words: list[str]) -> None:
    """``crossres transfer``."""
    chosen = _transfer_parser().parse_args(words)
    encoder, device, degradation = _judged(chosen)
    train, test = (_read(chosen, split, encoder) for split in ("train", "test"))
    for line in left_out({"train": train, "test": test}):
        print(line, file=sys.stderr)
    result = {"model": base_name(chosen.model)} | transfer(
        encoder,
        train,
        test,
        degradation=degradation,
        device=device.torch,
        autocast=device.autocast,
        memory_mb=chosen.memory_mb,
    )
    result["precision"] = device.precision
    if chosen.json:
        print(json.dumps(result))
        return
    counts = result["images"]
    print(
        f"{result['model']} on {result['dataset']} at {result['lr_size']}: {result['classes']} classes, "
        f"{counts['train']:,} training and {counts['test']:,} test images\n"
        f"linear probe       {result['probe_top1']:6.2f} %  (C {result['probe_strength']:g})\n"
        f"nearest neighbours {result['knn_top1']:6.2f} %  (k {result['neighbours']})"
    )


def rates(text: str) -> tuple[float, ...]:
    """Read a list of rates such as 1e-1,1e-3 from the command line, each once."""
    try:
        asked = tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of rates such as 1e-1,1e-3") from None
    if not all(0 < rate < 1 for rate in asked):  # NaN neither
        raise argparse.ArgumentTypeError("a rate lies between 0 and 1")
    return asked


def sides(text: str) -> tuple[int, ...]:
    """Read a list of pixels such as 4,8,16 from the command line."""
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of pixels such as 4,8,16") from None
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError("an image has at least 1 pixel")
    return sizes
