"""What a gallery knows beside its embeddings: which model makes them, and which similarity is enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossres.core.errors import CrossresError
from crossres.deploy.gallery_file import is_name


@dataclass(frozen=True)
class Model:
    """Which model makes embeddings.

    Attributes:
        name: for people.
        spaces: digests of the models whose space its embeddings lie in: its own first, then that of a teacher whose
            embeddings it was taught to hit.

    Raises:
        CrossresError: a name or a digest that a gallery's file would not take.
    """

    name: str
    spaces: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.spaces or not all(map(is_name, (self.name, *self.spaces))):
            raise CrossresError(f"the model {self.name!a:.80} has no printable name, or no digest; rename its folder")

    @property
    def digest(self) -> str:
        """Of the model itself."""
        return self.spaces[0]


@dataclass(frozen=True)
class Threshold:
    """Which similarity is enough.

    Attributes:
        similarity: at or above it a match counts.
        rate: share of false positives asked for: of strangers (FPIR), or of impostor pairs (FAR).
        count: strangers or impostor pairs that it was measured on.
        too_few: fewer than ten false positives are expected among them, so the rate is unsure.
        identities: in the gallery at that time; 0 for pairs, whose threshold does not depend on them.
        model: digest of the model of the probes; None where embeddings were given without one.
    """

    similarity: float
    rate: float
    count: int
    too_few: bool
    identities: int
    model: str | None


def read_model(tree: Mapping[str, Any] | None) -> Model | None:
    """Return what `dataclasses.asdict` made of a model; None for none.

    Raises:
        CrossresError, KeyError, TypeError: it is broken.
    """
    if tree is None:
        return None
    return Model(tree["name"], tuple(tree["spaces"]))


def read_threshold(tree: Mapping[str, Any] | None) -> Threshold | None:
    """Return what `dataclasses.asdict` made of a threshold; None for none.

    Raises:
        TypeError, ValueError: it is broken.
    """
    if tree is None:
        return None
    found = Threshold(**tree)
    numbers = (found.similarity, found.rate, found.count, found.identities)
    sound = all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers)
    if not sound or not isinstance(found.too_few, bool) or not (found.model is None or is_name(found.model)):
        raise ValueError
    return found
