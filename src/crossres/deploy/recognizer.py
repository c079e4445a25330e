"""Recognizer: point a trained student at photos and get answers, with or without torch installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.deploy.facts import Facts, from_json
from crossres.deploy.photos import Pixels, Source, flags, named, read_photo, reduced
from crossres.models.onnx_session import onnx_sha256, open_session

Floats = npt.NDArray[np.float32]
#: key of the facts in an ONNX file's metadata, and name of its input
FACTS, INPUT = "crossres", "photos"
#: Bytes of photos after which a batch is run, full or not.
MOST_WAITING = 2**26


class Engine(Protocol):
    """What runs a deployed network."""

    outputs: tuple[str, ...]

    def run(self, photos: Pixels) -> dict[str, Floats]:
        """Photos uint8 (B, H, W, 3) -> embedding (B, d), quality (B,); with classes probabilities (B, classes)."""


@dataclass(frozen=True)
class Answer:
    """What a recogniser says of one photo.

    Attributes:
        name: path of the photo, or ``image N``.
        flags: reasons why the answer is not to be trusted; empty for a sound photo.
        label: the most probable class; None without classes, or where the photo could not be read.
        probability: of that class.
        probabilities: of all classes, float32 (classes,), in the order of ``facts.classes``.
        embedding: float32 (d,).
        quality: the highest probability; without classes the embedding's length.
        error: why the photo could not be read; None for one that was.
    """

    name: str
    flags: tuple[str, ...] = ()
    label: str | None = None
    probability: float | None = None
    probabilities: Floats | None = None
    embedding: Floats | None = None
    quality: float | None = None
    error: str | None = None

    def top(self, facts: Facts, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` most probable classes with their probabilities, the first one first."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(facts.classes[i], float(self.probabilities[i])) for i in order]


class _Read(NamedTuple):
    """A photo that waits for its batch, as small as it may be; or why it could not be read."""

    name: str
    pixels: Pixels = np.zeros((0, 0, 3), np.uint8)
    flags: tuple[str, ...] = ()
    error: str | None = None


class Recognizer:
    """A student that answers.

    Attributes:
        facts: classes, sizes and what else is known of the network.
        source: where it was loaded from.
        digest: sha256 (hex) of its file or weights: two of one digest give the same embeddings.
    """

    def __init__(self, engine: Engine, facts: Facts, source: str, digest: str) -> None:
        self._engine = engine
        self.facts = facts
        self.source = source
        self.digest = digest

    @classmethod
    def load(
        cls, path: str | Path, *, threads: int = 0, trust_code: bool = False, onnx_input: str = ""
    ) -> Recognizer:
        """Read a model.

        Args:
            path: an ONNX file of ``crossres export``, which needs onnxruntime alone; a run's or model's folder or a
                Hub name, or an ONNX face model of others, which need torch.
            threads: of an ONNX file; 0: as many as there are cores.
            trust_code: import the code that a model's folder names for its network.
            onnx_input: what an ONNX file of others expects of its input, as ``highest=1,colours=bgr``.

        Raises:
            CrossresError: nothing there, a broken file, or a package that is missing.
        """
        if Path(path).suffix.lower() in (".xml", ".pt2"):
            raise CrossresError(f"{path}: openvino or torch.export.load reads this; crossres runs ONNX files")
        if Path(path).suffix.lower() == ".onnx" or Path(path).is_file():
            session = open_session(path, threads)
            if FACTS in session.get_modelmeta().custom_metadata_map:
                engine = OnnxEngine(path, threads, session)
                return cls(engine, engine.facts, str(path), engine.digest)
        from crossres.deploy.torch_engine import TorchEngine

        loaded = TorchEngine(path, trust_code=trust_code, onnx_input=onnx_input)
        return cls(loaded, loaded.facts, str(path), loaded.digest)

    def predict(self, images: Source | Iterable[Source], *, batch_size: int = 64) -> list[Answer]:
        """Answer for every photo, in order; see `stream`."""
        return list(self.stream(images, batch_size=batch_size))

    def stream(self, images: Source | Iterable[Source], *, batch_size: int = 64) -> Iterator[Answer]:
        """Yield an answer for every photo, in order, with no more than a batch of them in memory.

        A photo that cannot be read has an `Answer` with ``error`` in its place.

        Args:
            images: a path, a folder, bytes of a file, a Pillow image, uint8 pixels (H, W, 3) or (N, H, W, 3), or
                several of them.
            batch_size: photos that are run together, where their sizes agree.

        Raises:
            CrossresError: a folder without images, or a batch size below 1.
        """
        if batch_size < 1:
            raise CrossresError(f"batch_size {batch_size}: at least 1")
        waiting: list[_Read] = []
        pixels = 0
        for name, source in named(images):
            try:
                photo = read_photo(source, name)
                waiting.append(_Read(name, reduced(photo, self.facts), flags(photo, self.facts)))
                pixels += waiting[-1].pixels.size
            except CrossresError as error:
                waiting.append(_Read(name, error=str(error)))
            if len(waiting) == batch_size or pixels > MOST_WAITING:
                yield from self._answered(waiting)
                waiting, pixels = [], 0
        yield from self._answered(waiting)

    def embed(self, images: Source | Iterable[Source], *, batch_size: int = 64) -> Floats:
        """Return the embeddings of photos, float32 (N, d).

        Raises:
            CrossresError: a photo that cannot be read.
        """
        rows = []
        for answer in self.stream(images, batch_size=batch_size):
            if answer.embedding is None:
                raise CrossresError(answer.error or f"{answer.name}: no embedding")
            rows.append(answer.embedding)
        return np.stack(rows) if rows else np.zeros((0, self.facts.embedding_dim), np.float32)

    def _answered(self, photos: list[_Read]) -> Iterator[Answer]:
        answers: dict[int, Answer] = {}
        of_shape: dict[tuple[int, ...], list[int]] = {}
        for i, photo in enumerate(photos):
            if photo.error is None:
                of_shape.setdefault(photo.pixels.shape, []).append(i)
        for rows in of_shape.values():
            said = self._engine.run(np.stack([photos[i].pixels for i in rows]))
            for at, i in enumerate(rows):
                answers[i] = self._answer(photos[i], {key: value[at] for key, value in said.items()})
        for i, photo in enumerate(photos):
            yield answers.get(i) or Answer(photo.name, error=photo.error)

    def _answer(self, photo: _Read, said: dict[str, Any]) -> Answer:
        probabilities = said.get("probabilities")
        best = None if probabilities is None else int(np.argmax(probabilities))
        return Answer(
            name=photo.name,
            flags=photo.flags,
            label=None if best is None else self.facts.classes[best],
            probability=None if best is None or probabilities is None else float(probabilities[best]),
            probabilities=probabilities,
            embedding=said["embedding"],
            quality=float(said["quality"]),
        )


class OnnxEngine:
    """Runs a file of ``crossres export`` with onnxruntime, on the CPU.

    Args:
        path: of the file.
        threads: how many an operator may use; 0: as many as there are cores.
        session: of the file, where it is open already.

    Raises:
        CrossresError: no such file, not one of ours, or broken.
    """

    def __init__(self, path: str | Path, threads: int = 0, session: Any = None) -> None:
        self.session = session or open_session(path, threads)
        self.digest = onnx_sha256(path).hex()
        text = self.session.get_modelmeta().custom_metadata_map.get(FACTS)
        if text is None:
            raise CrossresError(
                f"{path}: not a file of crossres export (no preprocessing inside); export the student"
            )
        self.facts = from_json(text, str(path))
        self.outputs = tuple(output.name for output in self.session.get_outputs())
        inputs = [(given.name, given.type, len(given.shape)) for given in self.session.get_inputs()]
        wanted = ("embedding", *(("logits", "probabilities") if self.facts.classes else ()), "quality")
        if inputs != [(INPUT, "tensor(uint8)", 4)] or self.outputs != wanted:
            raise CrossresError(f"{path}: its inputs or outputs are not what its facts say; export the model again")
        said = self.run(np.zeros((1, self.facts.side, self.facts.side, 3), np.uint8))
        shapes = [said["embedding"].shape, said["quality"].shape]
        if self.facts.classes:
            shapes.append(said["probabilities"].shape)
        if shapes != [(1, self.facts.embedding_dim), (1,), (1, len(self.facts.classes))][: len(shapes)]:
            raise CrossresError(f"{path}: its answers have not the sizes that its facts say; export the model again")

    def run(self, photos: Pixels) -> dict[str, Floats]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        try:
            return dict(zip(self.outputs, self.session.run(None, {INPUT: photos}), strict=True))
        except Exception as error:  # onnxruntime has a class of its own for each of its errors
            raise CrossresError(f"onnxruntime cannot run the model ({' '.join(str(error).split())[:160]})") from None


def document_of(answer: Answer, recognizer: Recognizer, top: int) -> dict[str, Any]:
    """Return an answer as ``crossres predict --json`` and the page's API give it."""
    found = answer.top(recognizer.facts, top)
    return {
        "photo": answer.name,
        "label": answer.label,
        "probability": answer.probability,
        "top": [{"label": label, "probability": probability} for label, probability in found],
        "flags": list(answer.flags),
        "error": answer.error,
    }
