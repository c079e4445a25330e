"""Classification: accuracy, confusion and accuracy against resolution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation, Size
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.accuracy import confusion_matrix, topk_accuracy
from crossres.evaluation.embedding import sizes_of
from crossres.models.encoder import Encoder

#: The curve's sizes, as multiples of the size the model was trained at.
AROUND = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)


def predict(
    encoder: Encoder,
    loader: Loader,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch_size: int = 250,
) -> Tensor:
    """Return the logits of every image at its low resolution, float32 (N, classes), in the loader's order."""
    training = encoder.training
    encoder.eval()
    logits = []
    for batch in loader.ordered(batch_size=batch_size):
        with torch.inference_mode(), autocast():
            logits.append(encoder(batch.lr).logits.float())
    encoder.train(training)
    return torch.cat(logits)


def evaluate(
    encoder: Encoder,
    images: ImageSet,
    *,
    sizes: tuple[int, ...] = (),
    native: bool = False,
    degradation: Degradation | None = None,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_mb: int = 4096,
) -> dict[str, Any]:
    """Judge an encoder on labelled images at the size it was trained at and at sizes around it.

    An image is degraded from HR to each size as in training (kernel, blur, noise, JPEG) and the encoder
    brings it to its own input size, as it would a crop of that size. An encoder trained on a range of sizes
    is judged on that range; its curve has single sizes.

    Images that are small by themselves would be enlarged to HR and shrunk again, which blurs them: ``native``
    hands them over as they are, only brought to the training size where they have another; the curve is then
    that one size.

    Args:
        encoder: with classes; ``encoder.info`` says hr_size, lr_size, degradation and fit.
        images: its classes must all be known to the encoder; they are matched by name.
        sizes: sides in pixels of the curve; those around the training size if left out.
        native: the images are low-resolution already.
        degradation: another one than the training's; the same if left out.
        device: where the encoder lies.
        autocast: context of the forward pass.
        memory_mb: budget for decoded images.

    Returns:
        ``{dataset, images, skipped, native, read_size, enlarged, hr_size, lr_size, degradation, top1, top5,
        classes, confusion, curve}``; skipped names the unreadable images, enlarged counts those smaller than
        read_size, at which they were read, curve is a list of ``{size, top1, top5}``; accuracies in percent.

    Raises:
        CrossresError: a class the encoder does not know, a size larger than HR, or sizes of native images.
    """
    info = encoder.info
    hr_size, low, high = sizes_of(encoder)
    unknown = [name for name in images.classes if name not in encoder.classes]
    if unknown:
        raise CrossresError(
            f"{images.name}: class '{unknown[0]}' is unknown to the model ({len(unknown)} of {len(images.classes)} "
            f"classes are); it knows {', '.join(encoder.classes[:5])}{'...' if len(encoder.classes) > 5 else ''}"
        )
    if native and degradation is not None:
        raise CrossresError("native images are judged as they are; leave the degradation out")
    if sizes and native:
        raise CrossresError("native images have their own size; leave sizes out")
    for size in sizes:
        if not 1 <= size <= hr_size:
            raise CrossresError(f"sizes: {size} is not within 1 and the model's hr_size {hr_size}")
    said = None if native else info.get("degradation")
    if degradation is None:
        degradation = Degradation(**(said or {}))
    else:
        said = asdict(degradation.resolved())
    fit = info.get("fit", "crop")
    column = torch.tensor([encoder.classes.index(name) for name in images.classes])
    label = column[torch.from_numpy(images.labels)].to(device)
    encoder = encoder.to(device)
    own: Size = high if native or low == high else (low, high)
    loader = Loader(
        images,
        hr_size=high if native else hr_size,
        lr_size=own,
        degradation=degradation,
        device=device,
        fit=fit,
        memory_mb=memory_mb,
    )

    def at(size: Size) -> Tensor:
        loader.lr_size = size
        return predict(encoder, loader, autocast)

    chosen = sizes or ((high,) if native else _around(low, high, hr_size))
    curve, logits = [], at(own)
    for size in chosen:
        scores = logits if size == own else at(size)
        curve.append({"size": size, "top1": topk_accuracy(scores, label), "top5": topk_accuracy(scores, label, 5)})
    return {
        "dataset": images.name,
        "images": len(images),
        "skipped": images.skipped,
        "native": native,
        "read_size": loader.hr_size,
        "enlarged": images.enlarged(loader.hr_size, fit),
        "hr_size": hr_size,
        "lr_size": high if low == high else [low, high],
        "degradation": said,
        "top1": topk_accuracy(logits, label),
        "top5": topk_accuracy(logits, label, 5),
        "classes": list(encoder.classes),
        "confusion": confusion_matrix(logits.argmax(1), label, len(encoder.classes)).tolist(),
        "curve": curve,
    }


def _around(low: int, high: int, hr_size: int) -> tuple[int, ...]:
    around = {round(low * f) for f in AROUND if f < 1} | {round(high * f) for f in AROUND}
    return tuple(sorted(size for size in around | {low, hr_size} if min(2, low) <= size <= hr_size))
