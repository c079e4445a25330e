"""What an answer needs to know of a network, beside its weights; it travels in a model's folder or an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from crossres.core.errors import CrossresError
from crossres.data.decode import Fit

#: of a JSON text in a file that may come from anybody
LONGEST = 16 * 2**20
#: An image of less contrast is flat (standard deviation, 0..1), where the training images' own is not known.
FLAT = 0.02
#: An image of which a larger share is black or white is blown out, where the training images' own is not known.
BLOWN = 0.9

Task = Literal["classification", "faces"]


@dataclass(frozen=True)
class Facts:
    """Facts about a network.

    Attributes:
        task: classification, or faces.
        classes: in the order of the probabilities; empty for an encoder without a classifier.
        lr_size: smallest and largest side in pixels that it was trained at.
        hr_size: side of the images that those were made of.
        fit: how an image becomes square: crop, squash or pad.
        kernel: by which larger images are shrunk, as in training.
        embedding_dim: width of the embedding.
        seen: of the training images at low resolution: ``contrast``, below which one in a thousand of them lies, and
            ``clipped``, a share of black and white that one in a thousand exceeds.
        about: all else that is known: degradation, versions, measured results, precision.
    """

    task: Task
    classes: tuple[str, ...]
    lr_size: tuple[int, int]
    hr_size: int
    fit: Fit
    kernel: str
    embedding_dim: int
    seen: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """Side in pixels of what the network gets."""
        return self.lr_size[1]

    @property
    def flat(self) -> float:
        """Contrast below which an image is flat: half of what hardly any training image fell below."""
        return self.seen["contrast"] / 2 if "contrast" in self.seen else FLAT

    @property
    def blown(self) -> float:
        """Share of black and white above which an image is blown out: half-way from the training images' to all."""
        return (1 + self.seen["clipped"]) / 2 if "clipped" in self.seen else BLOWN

    def to_json(self) -> str:
        """Return it as the text that `from_json` reads."""
        return json.dumps(asdict(self), ensure_ascii=False)


def from_json(text: str, where: str) -> Facts:
    """Read facts from a file that may be anybody's.

    Raises:
        CrossresError: no facts, or not sound ones.
    """
    broken = CrossresError(f"{where}: its facts are broken; export the model again")
    if len(text) > LONGEST:
        raise broken
    try:
        tree = json.loads(text)
        low, high = tree["lr_size"]
        facts = Facts(**{**tree, "lr_size": (low, high), "classes": tuple(tree["classes"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        raise broken from None
    _check(facts, broken)
    return facts


def facts_of(info: Mapping[str, Any], classes: tuple[str, ...], embedding_dim: int, input_size: int | None) -> Facts:
    """Return the facts of a saved encoder.

    Args:
        info: what its config.json says beside the network itself.
        classes: its class names.
        embedding_dim: width of its embedding.
        input_size: side that its network reads; None for any.

    Raises:
        CrossresError: it does not say a size.
    """
    trained = info.get("lr_size") or input_size
    if trained is None:
        raise CrossresError("the model does not say its lr_size; save it with info={'lr_size': ...}")
    said = ("task", "seen", "lr_size", "hr_size", "fit")
    broken = CrossresError(
        "the model's config.json says lr_size, degradation, fit or seen in a wrong way, or names a class oddly"
    )
    try:
        low, high = (trained, trained) if isinstance(trained, int) else trained
        facts = Facts(
            task="faces" if str(info.get("task")).startswith("faces") else "classification",
            classes=classes,
            lr_size=(low, high),
            hr_size=info.get("hr_size") or high,
            fit=cast(Fit, info.get("fit", "crop")),
            kernel=(info.get("degradation") or {}).get("kernel", "bicubic"),
            embedding_dim=embedding_dim,
            seen=info.get("seen") or {},
            about={key: value for key, value in info.items() if key not in said},
        )
    except (TypeError, ValueError, AttributeError):
        raise broken from None
    _check(facts, broken)
    return facts


def _check(facts: Facts, broken: CrossresError) -> None:
    def whole(value: Any, most: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most

    sound = (
        facts.task in get_args(Task)
        and all(isinstance(name, str) and name.isprintable() for name in facts.classes)
        and len(set(facts.classes)) == len(facts.classes)
        and all(whole(side, 4096) for side in (*facts.lr_size, facts.hr_size))
        and facts.lr_size[0] <= facts.lr_size[1]
        and facts.fit in get_args(Fit)
        and facts.kernel in ("area", "bilinear", "bicubic", "lanczos", "nearest")
        and whole(facts.embedding_dim, 2**20)
        and isinstance(facts.seen, Mapping)
        and all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in facts.seen.values())
        and isinstance(facts.about, Mapping)
    )
    if not sound:
        raise broken
