"""Classification: accuracy, confusion and accuracy against resolution."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from crossres.config.judging import Evaluate
from crossres.config.record import base_name
from crossres.core.devices import Device
from crossres.core.errors import CrossresError
from crossres.data.images import ImageSet, left_out, understood
from crossres.evaluation.accuracy import commonest_share, confusion_matrix, measure
from crossres.evaluation.classes import labels_of
from crossres.evaluation.discrepancy import discrepancy, natural_sets
from crossres.evaluation.exported import exported_encoder
from crossres.evaluation.prepare import CPU, check, device_of, kept, loader_of, logits_of, note, read_split, sizes_of
from crossres.models.encoder import Encoder
from crossres.models.pretrained import from_pretrained

#: The curve's sizes, as multiples of the size the model was trained at.
AROUND = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)


def evaluate(options: Evaluate) -> dict[str, Any]:
    """Judge a saved model on labelled images, as ``crossres evaluate`` does; notes go to stderr.

    Returns:
        What `evaluate_encoder` returns, the name of the model and the precision.

    Raises:
        CrossresError: options out of range, no such model or images, or what `evaluate_encoder` raises.
        Unwritten: the figure cannot be written.
    """
    check(options)
    encoder = exported_encoder(options.model) or from_pretrained(options.model, trust_code=options.trust_code)
    device = device_of(options, encoder)
    images = read_split(options, options.split, encoder)
    parts = {str(options.split): images}
    note(*left_out(parts), understood(options.data, parts))
    natural = natural_sets(encoder, options)  # a set that is not there is refused before the rest is judged
    result = {"model": base_name(options.model), **evaluate_encoder(encoder, images, options, device)}
    result["precision"] = device.precision
    if natural:
        result["discrepancy"] = discrepancy(encoder, images, natural, options, device)
    if result["enlarged"]:
        shrinks = result["lr_size"] != result["hr_size"] and not options.native
        note(
            f"{images.name}: {result['enlarged']} of {len(images)} images are smaller than {result['read_size']} "
            f"pixels: enlarged{', then degraded; --native judges low-resolution images as they are' * shrinks}"
        )
    if options.png:
        from crossres.evaluation.figures import draw_evaluation

        with kept(result):
            draw_evaluation(result, options.png)
    return result


def evaluate_encoder(encoder: Encoder, images: ImageSet, options: Evaluate, device: Device = CPU) -> dict[str, Any]:
    """Judge an encoder on labelled images at the size it was trained at and at sizes around it.

    An image is degraded from HR to each size as in training, and the encoder brings it to its own input size, as it
    would a crop of that size. An encoder trained on a range of sizes is judged on that range; its curve has single
    sizes. Native images would be blurred by that: they are only brought to the training size, the curve's only one.

    Args:
        encoder: with classes; ``encoder.info`` says hr_size, lr_size, degradation and fit.
        images: its classes must all be known to the encoder; they are matched by name.
        options: sizes, native, degradation and the memory for decoded images.
        device: where it runs, in which precision.

    Returns:
        ``{dataset, images, skipped, native, read_size, enlarged, hr_size, lr_size, degradation, top1, top5,
        class_mean, commonest, classes, confusion, curve}``; skipped names the unreadable images, enlarged counts
        those smaller than read_size, at which they were read, curve is a list of ``{size, top1, ...}``; in percent.

    Raises:
        CrossresError: a class the encoder does not know, or a size larger than HR.
    """
    label = labels_of(encoder, images).to(device.torch)
    hr_size, low, high = sizes_of(encoder)
    sizes = _sizes(options, hr_size, low, high)
    loader = loader_of(options, encoder, images, device, native=options.native)
    logits = logits_of(encoder.to(device.torch), loader, device.autocast)
    curve = []
    for size in sizes:
        scores = logits if size == loader.lr_size else logits_of(encoder, loader.at(size), device.autocast)
        curve.append({"size": size, **measure(scores, label)})
    trained = None if options.native else encoder.info.get("degradation")
    return {
        "dataset": images.name,
        "images": len(images),
        "skipped": images.skipped,
        "native": options.native,
        "read_size": loader.hr_size,
        "enlarged": images.enlarged(loader.hr_size, loader.fit),
        "hr_size": hr_size,
        "lr_size": high if low == high else [low, high],
        "degradation": asdict(options.degradation.resolved()) if options.degradation else trained,
        **measure(logits, label),
        "commonest": commonest_share(label),
        "classes": list(encoder.classes),
        "confusion": confusion_matrix(logits.argmax(1), label, len(encoder.classes)).tolist(),
        "curve": curve,
    }


def _sizes(options: Evaluate, hr_size: int, low: int, high: int) -> Sequence[int]:
    """Return the sizes of the curve, in pixels; refuse those that cannot be."""
    for size in options.sizes:
        if not 1 <= size <= hr_size:
            raise CrossresError(f"sizes: {size} is outside 1..{hr_size} (the model's hr_size)")
    if options.sizes or options.native:
        return options.sizes or [high]
    around = {round(low * f) for f in AROUND if f < 1} | {round(high * f) for f in AROUND}
    # of a range the sizes that students of one size are often made for, too
    inside = {2**power for power in range(1, 16) if low < 2**power < high}
    return sorted(size for size in around | inside | {low, hr_size} if min(2, low) <= size <= hr_size)
