"""Recognizer: point a trained student at photos and get answers, with or without torch installed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.errors import CrossresError
from crossres.core.types import Float32s, Pixels
from crossres.deploy.photos import TOO_SMALL, Source, flags, named, read_photo, reduced
from crossres.evaluation.facts import Facts
from crossres.evaluation.onnx_engine import Engine, open_export
from crossres.evaluation.statistics import uncalibrated_doubt
from crossres.models.onnx_input import OnnxInput
from crossres.models.zoo import model_file

#: Bytes of photos after which a batch is run, full or not.
MAX_WAITING = 2**26


@dataclass(frozen=True)
class Answer:
    """What a recognizer makes of one photo.

    Attributes:
        name: path of the photo, or ``image N``.
        photo_flags: reasons why nothing that is read of the photo is to be trusted; empty for a sound photo.
        doubt: why its class is unsure, by the model's calibrated confidence, without one up to a probability of 50 %;
            empty where it is not.
        label: the most probable class; None without classes, or where the photo could not be read.
        probability: of that class.
        probabilities: of all classes, float32 (classes,), in the order of ``facts.classes``.
        embedding: float32 (d,).
        quality: the highest probability; without classes the embedding's length.
        error: why the photo could not be read; None for one that was.
        side: in pixels, of what is read of the photo; 0 where it could not be read.
    """

    name: str
    photo_flags: tuple[str, ...] = ()
    doubt: str = ""
    label: str | None = None
    probability: float | None = None
    probabilities: Float32s | None = None
    embedding: Float32s | None = None
    quality: float | None = None
    error: str | None = None
    side: int = 0

    @property
    def flags(self) -> tuple[str, ...]:
        """All reasons why its class is not to be trusted; none where it may be."""
        return (self.doubt, *self.photo_flags) if self.doubt else self.photo_flags

    @property
    def flags_but_size(self) -> tuple[str, ...]:
        """Its ``photo_flags``, but not that it is too small."""
        return tuple(flag for flag in self.photo_flags if not flag.startswith(TOO_SMALL))

    @property
    def sentence(self) -> str:
        """The class and its probability in words; unsure where it is flagged."""
        if self.probability is None:
            return self.reason
        percent = "over 99 %" if self.probability >= 0.995 else f"{100 * self.probability:.0f} %"
        return f"{self.label}, {percent}{': unsure' if self.flags else ''}"

    def top(self, facts: Facts, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` most probable classes with their probabilities, the first one first."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(facts.classes[i], float(self.probabilities[i])) for i in order]

    def document(self, facts: Facts, top: int) -> dict[str, Any]:
        """Return it as ``crossres predict --json`` and the page's API give it, with so many classes."""
        return {
            "photo": self.name,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": share} for label, share in self.top(facts, top)],
            "flags": list(self.flags),
            "error": self.error,
        }

    @property
    def reason(self) -> str:
        """Why the photo was not read, else why nothing that is read of it is to be trusted, without its name."""
        return self.error.removeprefix(f"{self.name}: ") if self.error else "; ".join(self.photo_flags)


class Recognizer:
    """A student that answers, with an `Engine` that runs its network.

    Attributes:
        facts: classes, sizes and what else is known of the network.
        source: where it was loaded from.
        digest: sha256 (hex) of its file or weights: two of one digest give the same embeddings.
        flip: an embedding is the mean over the photo and its mirror image.
    """

    def __init__(self, engine: Engine, source: str, flip: bool = False) -> None:
        self._engine = engine
        self._load: Callable[[], Recognizer] | None = None
        self.facts = engine.facts
        self.source = source
        self.digest = engine.digest
        self.flip = flip

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int = 0,
        flip: bool = False,
        trust_code: bool = False,
        onnx_input: OnnxInput | None = None,
    ) -> Recognizer:
        """Read a model.

        Args:
            path: a ready model's name, or an ONNX file of ``crossres export``, which need onnxruntime alone; a run's
                or model's folder, a Hub name, or an ONNX face model from elsewhere, which need torch.
            threads: of an ONNX file; 0: as many as there are cores.
            flip: make each embedding the mean over the photo and its mirror image; classes are those of the photo.
            trust_code: import the code that a model's folder names for its network.
            onnx_input: what an ONNX file from elsewhere expects of its input.

        Raises:
            CrossresError: nothing there, a broken file, or a package that is missing.
        """
        engine: Engine | None = None
        source, path = str(path), model_file(path)
        if Path(path).suffix.lower() == ".onnx" or Path(path).is_file():
            engine = open_export(path, threads)
        if engine is None:
            from crossres.deploy.deployed import TorchEngine

            engine = TorchEngine(path, trust_code=trust_code, onnx_input=onnx_input)
        loaded = cls(engine, source, flip)
        # a ready model by its name
        place = os.path.abspath(path) if source == str(path) and os.path.exists(path) else source
        how: dict[str, Any] = {"threads": threads, "flip": flip, "trust_code": trust_code, "onnx_input": onnx_input}
        loaded._load = partial(cls.load, place, **how)
        return loaded

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where it was loaded from, not the network: what unpickles it opens the file again."""
        if self._load is None:
            raise pickle.PicklingError("this Recognizer was not loaded from a file; load it in each process")
        return self._load, ()

    def predict(self, images: Source | Iterable[Source], *, batch_size: int = 64) -> list[Answer]:
        """Answer for every photo, in order; see `stream`."""
        return list(self.stream(images, batch_size=batch_size))

    def stream(self, images: Source | Iterable[Source], *, batch_size: int = 64) -> Iterator[Answer]:
        """Yield an answer for every photo, in order, with no more than a batch of them in memory.

        A photo that cannot be read has an `Answer` with ``error`` in its place.

        Args:
            images: a path, a folder, an open file or its bytes, a Pillow image, uint8 pixels (H, W, 3) or
                (N, H, W, 3), or several of them.
            batch_size: photos that are run together, where their sizes agree.

        Raises:
            CrossresError: a folder without images, or a batch size below 1.
        """
        if batch_size < 1:
            raise CrossresError(f"batch_size is {batch_size}; give at least 1")
        waiting: list[tuple[Answer, Pixels | None]] = []
        size = 0
        for name, source in named(images):
            try:
                photo = read_photo(source, name, self.facts.range)
                answer = Answer(name, flags(photo, self.facts), side=self.facts.side_of(photo))
                waiting.append((answer, small := reduced(photo, self.facts)))
                size += small.size
            except CrossresError as error:
                waiting.append((Answer(name, error=str(error)), None))
            if len(waiting) == batch_size or size > MAX_WAITING:
                yield from self._answered(waiting)
                waiting, size = [], 0
        yield from self._answered(waiting)

    def embed(self, images: Source | Iterable[Source], *, batch_size: int = 64) -> Float32s:
        """Return the embeddings of photos, float32 (N, d); CrossresError for a photo that cannot be read."""
        rows = []
        for answer in self.stream(images, batch_size=batch_size):
            if answer.embedding is None:
                raise CrossresError(answer.error or f"{answer.name}: no embedding")
            rows.append(answer.embedding)
        return np.stack(rows) if rows else np.zeros((0, self.facts.embedding_dim), np.float32)

    def _run(self, photos: Pixels) -> dict[str, Float32s]:
        """Photos uint8 (B, H, W, 3) -> what `Engine.run` returns of them, averaged where that is asked for."""
        outputs = self._engine.run(photos)
        if self.flip:
            mirrored = self._engine.run(np.ascontiguousarray(photos[:, :, ::-1]))
            mean = ((outputs["embedding"] + mirrored["embedding"]) / 2).astype(np.float32)
            outputs["embedding"] = mean
            if not self.facts.classes:
                outputs["quality"] = np.linalg.norm(mean, axis=1).astype(np.float32)
        return outputs

    def _answered(self, photos: list[tuple[Answer, Pixels | None]]) -> list[Answer]:
        """Return the answers to photos; one without pixels keeps its error."""
        answers = [answer for answer, _ in photos]
        of_shape: dict[tuple[int, ...], list[tuple[int, Pixels]]] = {}
        for i, (_, pixels) in enumerate(photos):
            if pixels is not None:
                of_shape.setdefault(pixels.shape, []).append((i, pixels))
        for group in of_shape.values():
            outputs = self._run(np.stack([pixels for _, pixels in group]))
            probabilities = outputs.get("probabilities")
            for row, (i, _) in enumerate(group):
                embedding, quality = outputs["embedding"][row], float(outputs["quality"][row])
                if not all(np.isfinite(output[row]).all() for output in outputs.values()):
                    error = f"{answers[i].name}: the model's answer is not finite; its file may be damaged"
                    answers[i] = Answer(answers[i].name, error=error)
                    continue
                answers[i] = replace(answers[i], embedding=embedding, quality=quality)
                if probabilities is not None:
                    shares, best = probabilities[row], int(np.argmax(probabilities[row]))
                    label, probability = self.facts.classes[best], float(shares[best])
                    confidence = self.facts.confidence
                    doubt = (confidence.doubt if confidence else uncalibrated_doubt)(probability)
                    known = {"label": label, "probability": probability, "probabilities": shares, "doubt": doubt}
                    answers[i] = replace(answers[i], **known)
        return answers
