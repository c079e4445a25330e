"""Transfer: what a frozen encoder's embeddings are worth on images it was not trained for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.splits import stratified_split
from crossres.evaluation.embedding import embed, sizes_of
from crossres.models.encoder import Encoder

#: Inverse strengths of the probe's regularisation that validation chooses from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Neighbours that validation chooses from.
NEIGHBOURS = (1, 5, 10, 20, 50)
#: Share of the training images that chooses, class by class.
VAL_FRACTION = 0.2

Array = npt.NDArray[np.float32]


def transfer(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    *,
    degradation: Degradation | None = None,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_mb: int = 4096,
) -> dict[str, Any]:
    """Judge a frozen encoder on another labelled set: a linear probe and nearest neighbours on its embeddings.

    The images are brought to the encoder's low resolution as in its training. The probe is multinomial logistic
    regression on standardised embeddings, the neighbours vote with the inverse of their cosine distance; a fifth of
    the training images chooses the probe's regularisation and the number of neighbours, then all are learnt from.

    Args:
        encoder: ``encoder.info`` says hr_size, lr_size, degradation and fit.
        train: images that the probe learns and the neighbours come from, with classes of their own.
        test: the same classes.
        degradation: another one than the training's.
        device: where the encoder computes.
        autocast: context of the forward pass.
        memory_mb: budget for decoded images.

    Returns:
        ``{dataset, images, classes, hr_size, lr_size, degradation, probe_top1, probe_strength, knn_top1, neighbours,
        chosen_on}``; accuracies in percent on ``test``.

    Raises:
        CrossresError: no scikit-learn, a model that does not say its sizes, classes that differ, or too few images
            to choose on.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise CrossresError("transfer needs scikit-learn: pip install 'crossres[bench]'") from None
    if train.classes != test.classes:
        raise CrossresError(f"{train.name}: the test images have other classes than the training images")
    kept, held_out = stratified_split(train.labels, VAL_FRACTION, 0)
    if not len(held_out):
        raise CrossresError(f"{train.name}: too few training images to choose on; each class needs at least 2")
    hr_size, low, high = sizes_of(encoder)
    degradation = degradation or Degradation(**(encoder.info.get("degradation") or {}))
    embeddings = []
    for images in (train, test):
        loader = Loader(
            images,
            hr_size=hr_size,
            lr_size=high if low == high else (low, high),
            degradation=degradation,
            device=device,
            fit=encoder.info.get("fit", "crop"),
            memory_mb=memory_mb,
        )
        embeddings.append(embed(encoder.to(device), loader, autocast))
    x, x_test = embeddings

    def probe(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))

    def neighbours(count: int) -> Any:
        return KNeighborsClassifier(min(count, len(kept)), metric="cosine", weights="distance")

    best: dict[str, Any] = {}
    scores: dict[str, float] = {}
    methods: tuple[tuple[str, Callable[[Any], Any], tuple[float, ...]], ...]
    methods = (("probe", probe, STRENGTHS), ("knn", neighbours, NEIGHBOURS))
    for name, build, choices in methods:
        on_val = {
            choice: build(choice).fit(x[kept], train.labels[kept]).score(x[held_out], train.labels[held_out])
            for choice in choices
        }
        best[name] = max(on_val, key=lambda choice: on_val[choice])
        scores[name] = 100 * float(build(best[name]).fit(x, train.labels).score(x_test, test.labels))
    return {
        "dataset": train.name,
        "images": {"train": len(train), "test": len(test)},
        "classes": len(train.classes),
        "hr_size": hr_size,
        "lr_size": high if low == high else [low, high],
        "degradation": {"preset": degradation.preset, "kernel": degradation.kernel},
        "probe_top1": scores["probe"],
        "probe_strength": best["probe"],
        "knn_top1": scores["knn"],
        "neighbours": best["knn"],
        "chosen_on": len(held_out),
    }
