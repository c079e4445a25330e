"""The commands: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from crossres.commands.parser import CommandParser
from crossres.core.errors import CrossresError, nearest

USAGE = """usage: crossres COMMAND [options]

Recognise objects and faces in tiny images: distil a low-resolution student from a high-resolution teacher.

commands:
  demo      the whole story on 5,000 digits that need no download
  teach     train a teacher on high-resolution images
  distill   train a student that reads low-resolution images
  faces     distill and evaluate low-resolution face encoders
  evaluate  accuracy, confusion and accuracy against resolution of a model
  transfer  what a model's embeddings are worth on other images: linear probe and nearest neighbours
  bench     a grid of distillations: methods x pairs x sizes x degradations x seeds
  report    finished runs as one HTML page: curves, results, worst errors, embeddings, speed
  export    one file that reads photos, checked against the trained network
  predict   what a model says of photos
  embed     embeddings of many photos, as parquet files
  page      a web page on this machine, to ask a model about photos
  enroll    put people or classes into a gallery, and set its thresholds
  identify  who of a gallery is on these photos, or nobody
  verify    do two photos show the same
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


#: module -> the extra that brings it
_EXTRA = {
    "torch": "train",
    "lightning_fabric": "train",
    "safetensors": "train",
    "filelock": "predict",
    "huggingface_hub": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "pyarrow": "parquet",
    "timm": "timm",
    "torchvision": "torchvision",
    "mlxtend": "digits",
    "tensorboard": "tensorboard",
    "scipy": "bench",
    "sklearn": "bench",
    "onnxruntime": "onnx",
    "onnx": "onnx",
    "onnx2torch": "onnx",
    "onnxscript": "onnx",
    "faiss": "predict",
    "gradio": "page",
    "openvino": "openvino",
    "ray": "ray",
}


def _train(command: str, words: list[str]) -> None:
    from crossres.config import options as configs
    from crossres.config.reading import parse

    kind: type[Any] = {"teach": configs.Teach, "distill": configs.Distill, "faces distill": configs.Faces}[command]
    asked = parse(kind, words, prog=f"crossres {command}")
    if asked.print_config:
        print(configs.to_yaml(asked.config), end="")
        return
    from crossres.training.run import run

    run(asked.config, resume=asked.resume, overwrite=asked.overwrite)


def _teach(words: list[str]) -> None:
    _train("teach", words)


def _distill(words: list[str]) -> None:
    _train("distill", words)


FACES = """usage: crossres faces COMMAND [options]

commands:
  distill   train a face encoder that reads low-resolution images, from a teacher, from people's names or both
  evaluate  verification, identification and retrieval by a face model, at HR-HR, HR-LR and LR-LR

crossres faces COMMAND --help shows every option of a command with its default."""


def _faces(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(FACES)
        return
    if words[0] == "distill":
        _train("faces distill", words[1:])
    elif words[0] == "evaluate":
        from crossres.commands.evaluate_faces import evaluate_faces_command

        evaluate_faces_command(words[1:])
    else:
        raise CrossresError(f"unknown command 'faces {words[0]}'{nearest(words[0], ['distill', 'evaluate'])}")


def _bench(words: list[str]) -> int:
    parser = CommandParser(
        prog="crossres bench",
        description="Do what is missing of a grid of distillations and tabulate it.",
    )
    parser.add_argument("grid", help="YAML file: name, methods, pairs, lr_sizes, degradations, seeds, base...")
    parser.add_argument("--data", help="the images; what the grid's base says if left out")
    parser.add_argument("--runs", help="folder of the runs; what the grid's base says if left out")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="where the runs go")
    parser.add_argument("--parallel", type=int, default=1, help="local runs side by side, each on its own cores")
    chosen = parser.parse_args(words)
    if chosen.parallel < 1:
        raise CrossresError("--parallel: at least 1 run at a time")
    from crossres.bench.bench import bench, said_of, summarise
    from crossres.bench.grid import read_grid

    grid = read_grid(chosen.grid)
    documents = bench(grid, engine=chosen.engine, parallel=chosen.parallel, data=chosen.data, runs=chosen.runs)
    failed = [document["name"] for document in documents if "error" in document]
    if len(failed) < len(documents):
        rows = summarise(grid)
        print((grid.folder / "comparison.md").read_text())
        print("\n".join(said_of(rows, grid)))
        print(f"tables and figures: {grid.folder}")
    if failed:
        raise CrossresError(f"{len(failed)} of {len(documents)} runs failed, first {failed[0]}; see {grid.folder}")
    return 0


def _report(words: list[str]) -> None:
    from crossres.commands.report import report_command

    report_command(words)


def _info(words: list[str]) -> None:
    parser = CommandParser(prog="crossres info", description="Versions, devices and what is installed.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(words)
    from crossres.commands.info import information, table

    if chosen.json:
        import json

        print(json.dumps(information()))
    else:
        print(table(information()))


def _demo(words: list[str]) -> None:
    parser = CommandParser(
        prog="crossres demo",
        description="Teacher at 28x28 on 5,000 digits, students at 7x7 and 4x4 without and with distillation.",
    )
    parser.add_argument("--runs", default="runs/demo", help="folder of the runs and the report")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs")
    chosen = parser.parse_args(words)
    if chosen.seeds < 1:
        raise CrossresError("--seeds: a comparison needs at least 1")
    from crossres.commands.demo import demo

    demo(chosen.runs, seeds=chosen.seeds, device=chosen.device)


def _evaluate(words: list[str]) -> None:
    from crossres.commands.evaluate import evaluate_command

    evaluate_command(words)


def _transfer(words: list[str]) -> None:
    from crossres.commands.evaluate import transfer_command

    transfer_command(words)


def _export(words: list[str]) -> None:
    from crossres.commands.export import export_command

    export_command(words)


def _predict(words: list[str]) -> None:
    from crossres.commands.predict import predict_command

    predict_command(words)


def _embed(words: list[str]) -> None:
    from crossres.commands.predict import embed_command

    embed_command(words)


def _enroll(words: list[str]) -> None:
    from crossres.commands.gallery import enroll_command

    enroll_command(words)


def _identify(words: list[str]) -> None:
    from crossres.commands.gallery import identify_command

    identify_command(words)


def _verify(words: list[str]) -> None:
    from crossres.commands.gallery import verify_command

    verify_command(words)


def _page(words: list[str]) -> None:
    from crossres.commands.page import page_command

    page_command(words)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "demo": _demo,
    "teach": _teach,
    "distill": _distill,
    "faces": _faces,
    "evaluate": _evaluate,
    "transfer": _transfer,
    "bench": _bench,
    "report": _report,
    "export": _export,
    "predict": _predict,
    "embed": _embed,
    "page": _page,
    "enroll": _enroll,
    "identify": _identify,
    "verify": _verify,
    "info": _info,
}

if __name__ == "__main__":
    sys.exit(main())
