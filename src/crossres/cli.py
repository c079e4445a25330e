"""The commands: parse, call, print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from crossres.errors import CrossresError, nearest

USAGE = """usage: crossres COMMAND [options]

Recognise objects and faces in tiny images: distil a low-resolution student from a high-resolution teacher.

commands:
  demo      the whole story on 5,000 digits that need no download
  teach     train a teacher on high-resolution images
  distill   train a student that reads low-resolution images
  evaluate  accuracy, confusion and accuracy against resolution of a model
  bench     a grid of distillations: methods x pairs x sizes x degradations x seeds
  info      versions, devices and what is installed

crossres COMMAND --help shows every option of a command with its default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # package.module:callable may lie where the command is given
        try:
            return _run(words)
        finally:
            sys.stdout.flush()
    except CrossresError as error:
        # one line, whatever a library's message held
        return _say(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRA:
            raise
        return _say(f"{package} is missing: pip install 'crossres[{_EXTRA[package]}]'")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output went away; keep Python's own shutdown from complaining
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else ""
        where = f"{name[:200]}{'...' if len(name) > 200 else ''}: " if name else ""
        return _say(" ".join(f"{where}{error.strerror or error}".split()))
    except RuntimeError as error:
        if "closed by peer" not in str(error):  # gloo, where another process of the run is gone
            raise
        return _say("another process of the run stopped; its own line says why")


def _say(message: str) -> int:
    """Print an error in one line, with the number of the process where there are several; return 2."""
    rank = int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
    print(f"crossres{f' (process {rank})' if rank else ''}: {message}", file=sys.stderr)
    return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        from crossres import __version__

        print(__version__)
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        raise CrossresError(f"unknown command '{words[0]}'{nearest(words[0], COMMANDS)}")
    return command(words[1:]) or 0


_EXTRA = {
    "torch": "train",
    "lightning_fabric": "train",
    "safetensors": "train",
    "huggingface_hub": "train",
    "pyarrow": "train",
    "matplotlib": "train",
    "timm": "timm",
    "torchvision": "torchvision",
    "mlxtend": "digits",
    "tensorboard": "tensorboard",
}


def _train(command: str, words: list[str]) -> None:
    from crossres import config as configs
    from crossres.parsing import parse

    kind: type[Any] = configs.Distill if command == "distill" else configs.Teach
    asked = parse(kind, words, prog=f"crossres {command}")
    if asked.print_config:
        print(configs.to_yaml(asked.config), end="")
        return
    from crossres.experiment import run

    run(asked.config, resume=asked.resume, overwrite=asked.overwrite)


def _teach(words: list[str]) -> None:
    _train("teach", words)


def _distill(words: list[str]) -> None:
    _train("distill", words)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        word = message.rpartition("unrecognized arguments: ")[2].split(maxsplit=1)[0].split("=")[0]
        if "unrecognized" in message and word.startswith("--"):
            known = [option for action in self._actions for option in action.option_strings if option[:2] == "--"]
            raise CrossresError(f"unknown option {word}{nearest(word, known)}")
        raise CrossresError(f"{message}; see {self.prog} --help")


def _evaluate(words: list[str]) -> None:
    parser = _Parser(
        prog="crossres evaluate",
        description="Accuracy, confusion and accuracy against resolution of a model on labelled images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", help="a run's folder, a model's folder or a Hub name")
    parser.add_argument("data", help="a folder of class folders, of parquet files, a torchvision name or digits")
    parser.add_argument(
        "--split", choices=["test", "train", "all"], default="test", help="which split; all of a folder without any"
    )
    parser.add_argument("--sizes", type=_sizes, default=(), help="sides of the curve, e.g. 4,8,16; around training's")
    parser.add_argument(
        "--native", action="store_true", help="the images are low-resolution already: judge them as they are"
    )
    parser.add_argument(
        "--trust_code", action="store_true", help="import the code that the model names for its network"
    )
    parser.add_argument("--image_column", help="column of the images in parquet files; found if left out")
    parser.add_argument("--label_column", help="column of the labels in parquet files; found if left out")
    parser.add_argument(
        "--test_fraction", type=float, help="test share where the data has no split; the training's if left out"
    )
    parser.add_argument("--corrupt", choices=["refuse", "skip"], default="refuse", help="unreadable images")
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set")
    parser.add_argument("--root", help="folder of the torchvision data sets")
    parser.add_argument("--memory_mb", type=int, default=4096, help="budget of decoded images kept in memory")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], help="the training's if left out")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    parser.add_argument("--png", help="draw the curve and the confusion matrix into this file")
    chosen = parser.parse_args(words)
    if chosen.test_fraction is not None and not 0 < chosen.test_fraction < 1:
        raise CrossresError(f"--test_fraction {chosen.test_fraction:g} is outside 0..1")
    import json

    from crossres.config import Train, base_name
    from crossres.data.images import left_out
    from crossres.data.readers import read
    from crossres.devices import resolve_device
    from crossres.evaluate.classification import evaluate
    from crossres.models.pretrained import from_pretrained

    encoder = from_pretrained(chosen.model, trust_code=chosen.trust_code)
    device = resolve_device(
        Train(device=chosen.device, precision=chosen.precision or encoder.info.get("precision", "float32"))
    )
    images = read(
        chosen.data,
        split=chosen.split,
        image_column=chosen.image_column,
        label_column=chosen.label_column,
        test_fraction=chosen.test_fraction or encoder.info.get("test_fraction", 0.2),
        corrupt=chosen.corrupt,
        download=chosen.download,
        root=chosen.root,
        memory_mb=chosen.memory_mb,
    )
    for line in left_out({chosen.split: images}):
        print(line, file=sys.stderr)
    result = {"model": base_name(chosen.model)} | evaluate(
        encoder,
        images,
        sizes=chosen.sizes,
        native=chosen.native,
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
    if chosen.json:
        print(json.dumps(result))
    else:
        _print_evaluation(result)
    if chosen.png:  # last: a figure that cannot be written costs no numbers
        from crossres.evaluate.figures import draw_evaluation

        draw_evaluation(result, chosen.png)
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


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of pixels such as 4,8,16") from None
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError("an image has at least 1 pixel")
    return sizes


def _bench(words: list[str]) -> int:
    parser = _Parser(
        prog="crossres bench",
        description="Do what is missing of a grid of distillations and tabulate it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("grid", help="YAML file: name, methods, pairs, lr_sizes, degradations, seeds, base, out")
    parser.add_argument("--data", help="the images; what the grid's base says if left out")
    parser.add_argument("--runs", help="folder of the runs; what the grid's base says if left out")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="where the runs go")
    parser.add_argument("--parallel", type=int, default=1, help="local runs side by side, each on its own cores")
    parser.add_argument("--baseline", default="ce", help="method that the table's gains are counted from")
    chosen = parser.parse_args(words)
    if chosen.parallel < 1:
        raise CrossresError("--parallel: at least 1 run at a time")
    from crossres.bench import bench, read_grid
    from crossres.tables import SPREAD, method_table

    grid = read_grid(chosen.grid)
    documents = bench(grid, engine=chosen.engine, parallel=chosen.parallel, data=chosen.data, runs=chosen.runs)
    results = [document for document in documents if "error" not in document]
    if results:
        print(f"{method_table(results, baselines=(chosen.baseline,))}\n\n{SPREAD}")
    if len(results) < len(documents):
        failed = [document["name"] for document in documents if "error" in document]
        raise CrossresError(f"{len(failed)} of {len(documents)} runs failed, first {failed[0]}; see {grid.folder}")
    return 0


def _info(words: list[str]) -> None:
    parser = _Parser(prog="crossres info", description="Versions, devices and what is installed.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(words)
    from crossres.info import information, table

    if chosen.json:
        import json

        print(json.dumps(information()))
    else:
        print(table(information()))


def _demo(words: list[str]) -> None:
    parser = _Parser(
        prog="crossres demo",
        description="Teacher at 28x28 on 5,000 digits, students at 7x7 and 4x4 without and with distillation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--runs", default="runs/demo", help="folder of the runs and the report")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs")
    chosen = parser.parse_args(words)
    if chosen.seeds < 1:
        raise CrossresError("--seeds: a comparison needs at least 1")
    from crossres.demo import demo

    demo(chosen.runs, seeds=chosen.seeds, device=chosen.device)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "demo": _demo,
    "teach": _teach,
    "distill": _distill,
    "evaluate": _evaluate,
    "bench": _bench,
    "info": _info,
}

if __name__ == "__main__":
    sys.exit(main())
