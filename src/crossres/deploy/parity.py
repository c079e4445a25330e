"""Does an exported file say what the network says? Both are asked about the same real photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.deploy.facts import Facts
from crossres.deploy.photos import Pixels, reduced
from crossres.deploy.recognizer import Engine, Floats

#: Photos that are run together.
BATCH = 64
#: By precision: the lowest mean cosine between embeddings, and the lowest share of equal first answers, in percent.
BOUNDS = {"float32": (0.99999, 99.9), "float16": (0.9995, 99.0), "int8": (0.97, 90.0)}
#: How much accuracy an export may lose, in points, or in images where those are few.
POINTS, IMAGES = 1.0, 2


@dataclass(frozen=True)
class Parity:
    """A file beside the network it was made of.

    Attributes:
        images: photos that both answered.
        largest_difference: of any number of the embeddings, in units of their root mean square.
        cosine: mean over the photos between the two embeddings.
        agreement: share of the photos with the same first answer, in percent; None without classes.
        accuracy: of the file on these photos, in percent: top-1, or of pairs for faces; None where it is not known.
        accuracy_before: of the network on the same.
    """

    images: int
    largest_difference: float
    cosine: float
    agreement: float | None
    accuracy: float | None
    accuracy_before: float | None

    @property
    def facts(self) -> dict[str, Any]:
        """The same, as a file's metadata holds it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it in sentences."""
        said = [
            f"{self.images:,} images: embeddings differ by {self.largest_difference:.1e} of their size at most, mean "
            f"cosine {self.cosine:.6f}"
        ]
        if self.agreement is not None:
            said.append(f"the same first answer for {self.agreement:.2f} %")
        if self.accuracy is not None:
            said.append(f"accuracy {self.accuracy:.2f} %, before the export {self.accuracy_before:.2f} %")
        return said


def run_all(engine: Engine, facts: Facts, photos: Sequence[Pixels] | Iterator[Pixels]) -> dict[str, Floats]:
    """Return the outputs for photos of any sizes, (N, ...), in their order."""
    parts: list[dict[str, Floats]] = []
    waiting: list[Pixels] = []

    def run() -> None:
        if waiting:
            parts.append(engine.run(np.stack(waiting)))
            waiting.clear()

    for photo in photos:
        small = reduced(photo, facts)
        if len(waiting) == BATCH or (waiting and waiting[0].shape != small.shape):
            run()
        waiting.append(small)
    run()
    return {name: np.concatenate([part[name] for part in parts]) for name in engine.outputs}


def compare(
    before: dict[str, Floats],
    after: dict[str, Floats],
    right: npt.ArrayLike | None = None,
    accuracies: tuple[float, float] | None = None,
) -> Parity:
    """Compare the outputs of a network and of its export.

    Args:
        before: of the network, as `run_all` gives them.
        after: of the file.
        right: class of each photo, (N,), -1 where the network does not know it; None for encoders without classes.
        accuracies: before and after, where they are not those of the classes.
    """
    ours, theirs = (said["embedding"].astype(np.float64) for said in (before, after))
    size = np.sqrt((ours**2).mean()) or 1.0
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(1) / np.maximum(lengths, 1e-12)
    agreement = None
    if "logits" in before:
        first, second = (said["logits"].argmax(1) for said in (before, after))
        agreement = 100 * float((first == second).mean())
        if right is not None:
            truth = np.asarray(right)
            accuracies = 100 * float((first == truth).mean()), 100 * float((second == truth).mean())
    return Parity(
        images=len(ours),
        largest_difference=float(np.abs(ours - theirs).max() / size),
        cosine=float(cosine.mean()),
        agreement=agreement,
        accuracy=accuracies[1] if accuracies else None,
        accuracy_before=accuracies[0] if accuracies else None,
    )


def demand(parity: Parity, precision: str) -> None:
    """Refuse an export that does not say what the network says.

    Raises:
        CrossresError: with what differs and by how much.
    """
    cosine, agreement = BOUNDS[precision]
    exact = precision == "float32"
    remedy = "one of this network's operators is not exported exactly" if exact else "try another precision"
    if not parity.cosine >= cosine:
        raise CrossresError(f"the export failed: mean cosine {parity.cosine:.5f}, at least {cosine} asked; {remedy}")
    few = 100 * IMAGES / parity.images
    if parity.agreement is not None and parity.agreement < agreement - few:
        share = f"{parity.agreement:.2f} % of the images, at least {agreement} asked"
        raise CrossresError(f"the export failed: the same first answer for {share}; {remedy}")
    if parity.accuracy is not None and parity.accuracy_before is not None:
        lost = parity.accuracy_before - parity.accuracy
        if lost > max(POINTS, few):
            raise CrossresError(f"the export failed: it loses {lost:.2f} points of accuracy; {remedy}")
