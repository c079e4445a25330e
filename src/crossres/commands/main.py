"""The command line: find the command, read its options, call it; every error a user can mend is one line."""

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from crossres.core.errors import CrossresError, decoders_live, nearest, one_line, visible

#: command -> where its options and its function are: module and dataclass in config/, module in commands/
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("judging", "Demo", "demo"),
    "teach": ("experiment", "Teach", "train"),
    "distill": ("experiment", "Distill", "train"),
    "cache": ("experiment", "Cache", "cache"),
    "faces distill": ("experiment", "Faces", "train"),
    "faces cache": ("experiment", "FacesCache", "cache"),
    "faces evaluate": ("judging", "EvaluateFaces", "evaluate_faces"),
    "methods": ("judging", "Methods", "methods"),
    "evaluate": ("judging", "Evaluate", "evaluate"),
    "transfer": ("judging", "Transfer", "transfer"),
    "match": ("judging", "Match", "match"),
    "adapt": ("experiment", "Adapt", "adapt"),
    "bench": ("judging", "Bench", "bench"),
    "report": ("judging", "Report", "report"),
    "export": ("deployment", "Export", "export"),
    "speed": ("deployment", "Speed", "speed"),
    "predict": ("deployment", "Predict", "predict"),
    "embed": ("deployment", "Embed", "embed"),
    "models": ("deployment", "Models", "models"),
    "page": ("deployment", "Page", "page"),
    "enroll": ("deployment", "Enroll", "enroll"),
    "identify": ("deployment", "Identify", "identify"),
    "verify": ("deployment", "Verify", "verify"),
    "info": ("judging", "Info", "info"),
}

#: module -> the extra that brings it
EXTRAS = {
    **dict.fromkeys(("torch", "lightning_fabric", "safetensors", "huggingface_hub", "matplotlib", "jinja2"), "train"),
    **dict.fromkeys(("onnxruntime", "onnx", "onnx2torch", "onnxscript"), "onnx"),
    **dict.fromkeys(("filelock", "faiss"), "predict"),
    **dict.fromkeys(("scipy", "sklearn"), "bench"),
    **{name: name for name in ("timm", "torchvision", "tensorboard", "ray")},
    **{
        "pyarrow": "parquet",
        "mlxtend": "digits",
        "gradio": "page",
        "cv2": "align",
        "efficientnet_lite_pytorch": "efficientnet",
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: a bench stops its runs
    try:
        _end_with_parent()
        os.getcwd()  # a folder that is gone: libraries end the process without a word
        try:
            with decoders_live():
                return _run(words)
        finally:
            sys.stdout.flush()
    except CrossresError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        return _failed(f"{package} is missing: pip install 'crossres[{EXTRAS[package]}]'")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output went away; keep Python's own shutdown from complaining
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else ""
        where = f"{name[:200]}{'...' if len(name) > 200 else ''}: " if name else ""
        return _failed(f"{where}{error.strerror or error}")


def _end_with_parent() -> None:
    """Stop when the bench that started this process ends, however it ends (on Linux)."""
    parent = os.environ.pop("CROSSRES_PARENT", None)
    if parent is None or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if str(os.getppid()) != parent:
        raise KeyboardInterrupt


def _failed(message: str) -> int:
    """Print an error in one line, with the number of the process where there are several; return 2."""
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    print(f"crossres{f' (process {rank})' if rank != '0' else ''}: {visible(one_line(message))}", file=sys.stderr)
    return 2


def usage(family: str = "") -> str:
    """Return the list of commands, perhaps of a family such as ``faces`` alone, each with its first line."""
    lines = [
        "usage: crossres COMMAND [options]",
        "",
        "Recognise objects and faces in tiny images: distil a low-resolution student from a high-resolution teacher.",
        "",
        "commands:",
    ]
    for name in (name for name in COMMANDS if name.startswith(family)):
        about = (_options(name).__doc__ or "").partition("\n")[0].rstrip(".")
        lines.append(f"  {name:16}{about[0].lower()}{about[1:]}")
    return "\n".join([*lines, "", "crossres COMMAND --help shows what a first user needs, --help all every option."])


def _options(name: str) -> type[Any]:
    """Return the dataclass of a command's options."""
    module, kind, _ = COMMANDS[name]
    options: type[Any] = getattr(import_module(f"crossres.config.{module}"), kind)
    return options


def _run(words: list[str]) -> int:
    family = "faces" if words[:1] == ["faces"] else ""
    if (words[1:] if family else words)[:1] in ([], ["-h"], ["--help"], ["help"]):
        print(usage(family))
        return 0
    if words[0] == "--version":
        from crossres import __version__

        print(__version__)
        return 0
    name, rest = _command(words)
    kind = _options(name)
    if asks := [word for word in rest if word in ("-h", "--help")]:
        from crossres.commands.help import help_text

        every = rest[rest.index(asks[0]) + 1 :][:1] == ["all"]
        print(help_text(kind, every))
        return 0
    from crossres.commands.parsing import parse

    return _call(kind, parse(kind, rest), COMMANDS[name][2])


def _call(kind: type[Any], request: Any, module: str) -> int:
    from crossres.config.check import demand_trust
    from crossres.config.reading import of_run, read
    from crossres.config.record import to_yaml
    from crossres.config.yaml_file import load_yaml

    if request.resume:
        options = of_run(kind, request.resume)
        demand_trust(options, request.resume, request.words.get("trust_code") == "true")
    else:
        tree = load_yaml(request.config) if request.config else {}
        tree.pop("trust_code", None)  # a file does not vouch for itself
        other = _of_another_version(request.config)
        try:
            options = read(kind, tree, request.words, request.config or "")
        except CrossresError as error:
            if other:
                raise CrossresError(f"{error} ({other})") from None
            raise
        if request.config:
            if other:
                print(visible(f"{request.config}: {other}"), file=sys.stderr)
            demand_trust(options, request.config, getattr(options, "trust_code", False), request.words)
    if request.print_config:
        print(to_yaml(options), end="")
        return 0
    # each commands/X.py has run(options, request), which calls, prints and may return an exit code
    return import_module(f"crossres.commands.{module}").run(options, request) or 0


def _of_another_version(path: str | None) -> str:
    """Say whether a file of options is of crossres match, in another version; an empty text otherwise."""
    from crossres import __version__

    if not path:
        return ""
    with open(path, errors="replace") as file:
        words = file.readline().replace(";", " ").split()
    other = " ".join(words[5:6]) if words[1:5] == ["estimated", "by", "crossres", "match"] else __version__
    if other == __version__:
        return ""
    return f"crossres match {other} wrote it, this is {__version__}: match anew"


def _command(words: list[str]) -> tuple[str, list[str]]:
    """Return the command's name, of one word or two, and what follows it."""
    two = " ".join(words[:2])
    if two in COMMANDS:
        return two, words[2:]
    if words[0] in COMMANDS:
        return words[0], words[1:]
    if words[0] == "faces":
        inside = [name.split()[1] for name in COMMANDS if name.startswith("faces ")]
        raise CrossresError(f"unknown command '{two}'{nearest(words[1], inside)}")
    raise CrossresError(f"unknown command '{words[0]}'{nearest(words[0], COMMANDS)}")


if __name__ == "__main__":
    if sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]  # where python -m puts it, a file of the folder would stand for a library
    os.environ["PYTHONSAFEPATH"] = "1"  # of the other processes of a run, too
    sys.exit(main())
