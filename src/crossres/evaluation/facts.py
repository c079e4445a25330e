"""What an answer needs to know of a network, beside its weights; it travels in a model's folder or an ONNX file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from crossres.core.errors import CrossresError
from crossres.core.types import Pixels
from crossres.data.decode import Fit
from crossres.data.degradation import Kernel
from crossres.evaluation.statistics import Confidence, PairThreshold

#: Characters of a JSON text in a file that may come from anybody.
MAX_TEXT = 16 * 2**20

Purpose = Literal["classification", "faces"]


@dataclass(frozen=True)
class Facts:
    """Facts about a network; ValueError, TypeError or AttributeError where one is of another type or out of bounds.

    Attributes:
        task: classification, or faces.
        classes: in the order of the probabilities; empty for an encoder without a classifier.
        lr_size: smallest and largest side in pixels that it was trained at.
        hr_size: side of the images that those were made of.
        fit: how an image becomes square: crop, squash or pad.
        kernel: by which larger images are shrunk, as in training.
        embedding_dim: width of the embedding.
        range: values of black and white in images of more than 8 bits; None: by the bits that each takes.
        seen: of the training images at low resolution: ``contrast``, below which one in a thousand of them lies, and
            ``clipped``, a share of black and white that one in a thousand exceeds.
        confidence: which answers are sure, calibrated on validation images; None where that was not done.
        pairs: which similarity shows one person, calibrated on people held out, by rising false accept rate; empty
            where that was not done.
        about: all else that is known: degradation, versions, measured results, precision.
    """

    task: Purpose
    classes: tuple[str, ...]
    lr_size: tuple[int, int]
    hr_size: int
    fit: Fit
    kernel: Kernel
    embedding_dim: int
    range: tuple[float, float] | None = None
    seen: Mapping[str, float] = field(default_factory=dict)
    confidence: Confidence | None = None
    pairs: tuple[PairThreshold, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sound = (
            self.task in get_args(Purpose)
            and all(isinstance(name, str) and name.isprintable() for name in self.classes)
            and len(set(self.classes)) == len(self.classes)
            and all(type(side) is int and 1 <= side <= 4096 for side in (*self.lr_size, self.hr_size))
            and self.lr_size[0] <= self.lr_size[1]
            and self.fit in get_args(Fit)
            and self.kernel in get_args(Kernel)
            and type(self.embedding_dim) is int
            and 1 <= self.embedding_dim <= 2**20
            and (self.range is None or (len(self.range) == 2 and -1e9 <= self.range[0] < self.range[1] <= 1e9))
            and all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in self.seen.values())
            and isinstance(self.about, Mapping)
        )
        if not sound:
            raise ValueError("the facts are not sound")

    @property
    def side(self) -> int:
        """Side in pixels of what the network gets."""
        return self.lr_size[1]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs, in their order."""
        return ("embedding", *(("logits", "probabilities") if self.classes else ()), "quality")

    def side_of(self, photo: Pixels) -> int:
        """Return the side in pixels of what is read of a photo (H, W, 3): its shorter, or where padded its longer."""
        height, width = photo.shape[:2]
        return int(max(height, width) if self.fit == "pad" else min(height, width))

    def to_json(self) -> str:
        """Return it as the text that `from_json` reads."""
        return json.dumps(asdict(self), ensure_ascii=False)


def from_json(text: str, where: str) -> Facts:
    """Read facts from a file that may be anybody's; CrossresError where they are broken."""
    try:
        tree = json.loads(text if len(text) <= MAX_TEXT else "")
        low, high = tree["lr_size"]
        own = {"lr_size": (low, high), "classes": tuple(tree["classes"]), **_calibrated(tree)}
        return Facts(**{**tree, **own})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CrossresError(f"{where}: its metadata is damaged; export the model again") from None


def _calibrated(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tree says of confidence and pairs; an earlier version's says nothing, or has one threshold."""
    confidence, pairs = tree.get("confidence"), tree.get("pairs") or []
    thresholds = [PairThreshold(**each) for each in ([pairs] if isinstance(pairs, dict) else pairs)]
    return {
        "confidence": None if confidence is None else Confidence(**confidence),
        "pairs": tuple(sorted(thresholds, key=lambda each: each.rate)),
    }


def facts_of(info: Mapping[str, Any], classes: tuple[str, ...], embedding_dim: int, input_size: int | None) -> Facts:
    """Return the facts of a saved encoder, from what its config.json says beside the network itself.

    The ``input_size`` is the side that its network reads; None for any. CrossresError: no size, or broken facts.
    """
    trained = info.get("lr_size") or input_size
    if trained is None:
        raise CrossresError("the model does not say its lr_size; save it with info={'lr_size': ...}")
    own = ("task", "seen", "confidence", "pairs", "lr_size", "hr_size", "fit", "range")
    try:
        low, high = (trained, trained) if isinstance(trained, int) else trained
        return Facts(
            task="faces" if str(info.get("task")).startswith("faces") else "classification",
            classes=classes,
            lr_size=(low, high),
            hr_size=info.get("hr_size") or high,
            fit=cast(Fit, info.get("fit", "crop")),
            kernel=(info.get("degradation") or {}).get("kernel", "bicubic"),
            embedding_dim=embedding_dim,
            range=info.get("range"),
            seen=info.get("seen") or {},
            **_calibrated(info),
            about={key: value for key, value in info.items() if key not in own},
        )
    except (TypeError, ValueError, AttributeError):
        facts = "lr_size, hr_size, degradation, fit, seen, confidence, pairs or class names"
        raise CrossresError(f"the model's config.json has broken {facts}; save it again") from None
