"""``crossres page``."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from crossres.commands.parser import CommandParser
from crossres.core.errors import CrossresError
from crossres.deploy.answers import load
from crossres.deploy.page import serve
from crossres.deploy.samples import samples


def page_command(words: list[str]) -> None:
    """``crossres page``."""
    parser = CommandParser(
        prog="crossres page",
        description="A web page on this machine that asks a model about photos: drop one, or pick a sample.",
    )
    parser.add_argument("model", help="an ONNX file of crossres export, a run's or model's folder, a Hub name")
    parser.add_argument("--teacher", help="shown beside the student; the one that the run's folder names if left out")
    parser.add_argument("--samples", help="folder of photos to begin with; test images of the run's data if left out")
    parser.add_argument("--gallery", help="file of crossres enroll, to search in; it brings its thresholds")
    parser.add_argument("--threshold", type=float, help="similarity from which on two photos show the same")
    parser.add_argument(
        "--same_space", action="store_true", help="the model shares the gallery's space, although no record says so"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets everybody in")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at")
    parser.add_argument("--threads", type=int, default=0, help="of an ONNX file; 0: as many as there are cores")
    parser.add_argument("--trust_code", action="store_true", help="import the code that the models name")
    chosen = vars(parser.parse_args(words))
    host, port, folder_of_samples = (chosen.pop(option) for option in ("host", "port", "samples"))
    if find_spec("gradio") is None:
        raise CrossresError("the page needs gradio: pip install 'crossres[page]'")
    if not 0 < port < 2**16:
        raise CrossresError(f"--port {port}: a port is a number from 1 to {2**16 - 1}")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise CrossresError(f"cannot listen at {host}, port {port}: {why}; --host and --port take others") from None
    answers = load(**chosen)
    # a stop from outside takes the uploads along, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="crossres-page-") as folder:
        first = samples(chosen["model"], folder_of_samples, Path(folder))
        serve(answers, first, Path(folder) / "uploads", host, port)
