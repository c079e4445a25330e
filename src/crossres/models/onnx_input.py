"""ONNX files without torch: what a network expects of its input, and opening its file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossres.core.errors import CrossresError, demand_file, library_errors, needs

#: what the name of a trainable copy of an ONNX file begins with
ONNX = "onnx:"


@dataclass(frozen=True)
class OnnxInput:
    """What an ONNX network expects of its input; a file does not say it.

    Args:
        size: side in pixels; the file's own where that is fixed.
        highest: value of a white pixel before mean and std: 255, or 1.
        mean: subtracted from each channel, in units of ``highest``.
        std: each channel is divided by it.
        colours: order of the channels.
        layout: nchw or nhwc.
        output: name of the output that is the embedding; of a file with one output it may be left out.
    """

    size: int | None = None
    highest: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    colours: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    output: str | None = None


def open_session(path: str | Path, threads: int = 0) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a file, on the CPU.

    Nothing in it is executed but the operators that onnxruntime knows, each on ``threads`` threads, with 0 as many as
    there are cores. Weights may lie in files beside it (external data); onnxruntime refuses any elsewhere.

    Raises:
        CrossresError: onnxruntime is missing, there is no such file, or it cannot be read.
    """
    with needs(f"the ONNX file {path}", "predict"):
        import onnxruntime
    demand_file(path)
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror}") from None
    if threads < 0:
        raise CrossresError(f"threads {threads}: expected a number of threads, or 0 for as many as there are cores")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with library_errors(f"{path}: onnxruntime cannot read it"):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_sha256(path: str | Path) -> bytes:
    """Return the sha256 of an ONNX file, which must exist, and of the files with its weights beside it."""
    path = Path(path)
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content)
        for beside in sorted(path.parent.iterdir()):
            if beside != path and beside.is_file() and _location(beside.name) in content:
                with beside.open("rb") as file:
                    for piece in iter(lambda: file.read(2**20), b""):
                        digest.update(piece)
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror}") from None
    return digest.digest()


def _location(name: str) -> bytes:
    """Return how an ONNX file says that weights lie in a file beside it: two strings of protobuf."""
    value = name.encode(errors="surrogateescape")
    # a length of up to 255 bytes as a protobuf varint
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
    return b"\x0a\x08location\x12" + length + value
