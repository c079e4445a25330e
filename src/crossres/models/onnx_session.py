"""Opening an ONNX file; nothing in it is executed but the operators that onnxruntime knows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from crossres.core.errors import CrossresError


def open_session(path: str | Path, threads: int = 0) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a file, on the CPU.

    Weights may lie in files beside it (external data); onnxruntime refuses any elsewhere.

    Args:
        path: of the file.
        threads: how many an operator may use; 0: as many as there are cores.

    Raises:
        CrossresError: onnxruntime is missing, there is no such file, or it cannot be read.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CrossresError(f"{path}: ONNX files need onnxruntime: pip install 'crossres[predict]'") from None
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror}") from None
    if threads < 0:
        raise CrossresError(f"threads {threads}: 0 for as many as there are cores, or how many")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each of its errors
        why = " ".join(str(error).split())[:160]
        raise CrossresError(f"{path}: onnxruntime cannot read it ({why})") from None


def _location(name: str) -> bytes:
    """Return how an ONNX file says that weights lie in a file beside it: two strings of protobuf."""
    value = name.encode(errors="surrogateescape")
    # a length of up to 255 bytes as a protobuf varint
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
    return b"\x0a\x08location\x12" + length + value


def onnx_sha256(path: str | Path) -> bytes:
    """Return the sha256 of an ONNX file and of the files beside it that it names, where its weights may be.

    Raises:
        CrossresError: no such file.
    """
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
