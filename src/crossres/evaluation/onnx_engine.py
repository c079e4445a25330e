"""A file of ``crossres export``, run without torch."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from crossres.core.errors import CrossresError, library_errors
from crossres.core.types import Float32s, Pixels
from crossres.evaluation.facts import Facts, from_json
from crossres.models.onnx_input import onnx_sha256, open_session

#: key of the facts in an ONNX file's metadata, and name of its input
FACTS, INPUT = "crossres", "photos"
#: Key of the sha256 (hex) of the whole file, computed with 64 zeros in the digest's place; and the bytes before it.
SHA256 = "crossres_sha256"
_BEFORE = SHA256.encode() + b"\x12\x40"


class Engine(Protocol):
    """What runs a deployed network: its facts, and sha256 (hex) of its file or weights."""

    facts: Facts
    digest: str

    def run(self, photos: Pixels) -> dict[str, Float32s]:
        """Photos uint8 (B, H, W, 3) -> embedding (B, d), quality (B,); with classes probabilities (B, classes)."""


class OnnxEngine:
    """Runs a file of ``crossres export`` with onnxruntime, on the CPU; ``session`` is of the file, where it is open.

    An operator may use so many threads; 0: as many as there are cores. CrossresError: no such file, not written by
    ``crossres export``, or broken.
    """

    def __init__(self, path: str | Path, threads: int = 0, session: Any = None) -> None:
        self.session = session or _open(path, threads)
        self.digest = onnx_sha256(path).hex()
        metadata = _metadata(self.session, path)
        if FACTS not in metadata:
            raise CrossresError(f"{path}: not written by crossres export; export the student")
        self.facts = from_json(metadata[FACTS], str(path))
        side, width, classes = self.facts.side, self.facts.embedding_dim, len(self.facts.classes)
        names = tuple(output.name for output in self.session.get_outputs())
        inputs = [(each.name, each.type, len(each.shape)) for each in self.session.get_inputs()]
        if inputs != [(INPUT, "tensor(uint8)", 4)] or names != self.facts.outputs:
            raise CrossresError(f"{path}: its inputs or outputs do not match its facts; export the model again")
        outputs = self.run(np.zeros((1, side, side, 3), np.uint8))
        shapes = {"embedding": (1, width), "quality": (1,)} | dict.fromkeys(("logits", "probabilities"), (1, classes))
        if any(outputs[name].shape != shapes[name] for name in outputs):
            raise CrossresError(f"{path}: its outputs do not have the sizes in its facts; export the model again")
        if not all(np.isfinite(output).all() for output in outputs.values()):
            raise CrossresError(f"{path}: its answers are not finite, as of a damaged file; export the model again")

    def run(self, photos: Pixels) -> dict[str, Float32s]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        with library_errors("onnxruntime cannot run the model"):
            return dict(zip(self.facts.outputs, self.session.run(None, {INPUT: photos}), strict=True))


def open_export(path: str | Path, threads: int = 0) -> OnnxEngine | None:
    """Open a file of ``crossres export``; None for an ONNX file from elsewhere. Arguments and errors as above."""
    session = _open(path, threads)
    return OnnxEngine(path, threads, session) if FACTS in _metadata(session, path) else None


def _metadata(session: Any, path: str | Path) -> dict[str, str]:
    """Return the texts in an ONNX file's metadata; CrossresError where they are none."""
    with library_errors(f"{path}: its metadata is damaged; export the model again"):
        return dict(session.get_modelmeta().custom_metadata_map)


def with_sha256(content: bytes) -> bytes:
    """Return the bytes of an ONNX file with its sha256 in its place; an earlier version's has none for it."""
    before, mark, after = content.rpartition(_BEFORE)
    zeros = before + mark + b"0" * 64 + after[64:]
    return before + mark + hashlib.sha256(zeros).hexdigest().encode() + after[64:] if mark else content


def _open(path: str | Path, threads: int) -> Any:
    """Open an ONNX file; refuse a damaged export before onnxruntime sees it."""
    if Path(path).is_file() and with_sha256(content := Path(path).read_bytes()) != content:
        raise CrossresError(f"{path} was changed or damaged after its export; export the model again")
    return open_session(path, threads)
