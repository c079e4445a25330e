"""What a model loses on images that are not what its training made them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossres.config.judging import Evaluate
from crossres.config.record import base_name
from crossres.core.devices import Device
from crossres.core.files import encode_bits
from crossres.core.types import Float64s
from crossres.data.degradation import Degradation
from crossres.data.groups import encoded_groups, groups_in_both
from crossres.data.images import ImageSet, left_out
from crossres.data.loader import Loader
from crossres.data.splits import OwnSplits, Split
from crossres.evaluation.accuracy import class_mean_accuracy, commonest_share, right_at_k
from crossres.evaluation.classes import labels_of
from crossres.evaluation.prepare import loader_of, logits_of, note, read_in_groups
from crossres.evaluation.statistics import resampled_shares
from crossres.models.encoder import Encoder

#: Degradations that a model is judged under beside its own, but for its own.
OTHERS = {"blur, noise, JPEG": Degradation(preset="realistic"), "nearest": Degradation(kernel="nearest")}
#: Name of the images that are degraded as in the training.
MATCHED = "as trained"


def natural_sets(encoder: Encoder, options: Evaluate) -> list[ImageSet]:
    """Read the sets that ``options.natural`` names: all of each; the split of the options where it has splits.

    Of a set without splits that was trained on, the share that was held out is read; sets are known by their names. A
    set that does not have the groups of the options, or of the training, is read without. A note says where training
    images have its groups.

    Raises:
        CrossresError: no such set, or a class that the encoder does not know.
    """

    def read_of(data: str, split: Split) -> ImageSet:
        return read_in_groups(options, split, options.images.group or encoder.info.get("group"), encoder, data=data)

    sets: list[ImageSet] = []
    own = base_name(options.data) == encoder.info.get("dataset")  # its training images are known
    for data in options.natural:
        trained = base_name(data) in (encoder.info.get("dataset"), encoder.info.get("natural"))
        try:
            sets.append(read_of(data, "test" if trained else "all"))
            if trained:
                note(f"{data}: the model was trained on a set of this name; its test split is judged")
        except OwnSplits:
            sets.append(read_of(data, options.split))
        if sets[-1].name in (each.name for each in sets[:-1]):  # the folder above tells two of one name apart
            sets[-1].name = f"{Path(data).absolute().parent.name}/{sets[-1].name}"
        if sets[-1].groups is not None and own and not trained:
            note(*filter(None, [groups_in_both(read_of(options.data, "train"), sets[-1])]))
        note(*left_out({options.split: sets[-1]}))
        labels_of(encoder, sets[-1])
        if base_name(data) == encoder.info.get("adapted"):
            note(f"{data}: the model was adapted on images of this name, without their labels")
    return sets


def discrepancy(
    encoder: Encoder, images: ImageSet, natural: Sequence[ImageSet], options: Evaluate, device: Device
) -> list[dict[str, Any]]:
    """Judge an encoder on test images as its training made them, and on others.

    Args:
        encoder: with classes; ``encoder.info`` says hr_size, lr_size, degradation and fit.
        images: high-resolution images, which are degraded.
        natural: sets of images that are small by nature.
        options: another degradation than the training's, and the memory for decoded images.
        device: where it runs, in which precision.

    Returns:
        ``[{name, images, groups, top1, class_mean, commonest, drop, interval, right}]``: first the images as trained,
        whose drop is 0, then each of the natural sets, then the same images under `OTHERS`; top1, the mean over
        classes and the share of the commonest class in percent, drop of top1 from the first in points with its 95 %
        bootstrap interval [low, high] over groups of images (over images where there are none; None where either set
        is of one group). A group that both have is drawn for both. right says which images were, as `encode_bits`
        writes them, and where there are groups, test_groups the number of each image's, as `encode_codes` does.

    Raises:
        CrossresError: a class the encoder does not know.
    """
    rows: list[dict[str, Any]] = []
    first: Float64s | None = None
    named = [each.groups for each in (images, *natural) if each.groups is not None]
    alone = [each.name for each in (images, *natural) if each.groups is not None and len(np.unique(each.groups)) == 1]
    note(*(f"{name}: all its images are of one group, so nothing is drawn for an interval" for name in alone))
    among = np.concatenate(named) if named else None
    for name, loader in _loaders(encoder, images, natural, options, device):
        judged = loader.images
        logits = logits_of(encoder.to(device.torch), loader, device.autocast)
        label = labels_of(encoder, judged).to(device.torch)
        right = right_at_k(logits, label).cpu().numpy()
        # the same draws for the same images, or groups of them: their difference is then of pairs
        grouped = judged.groups is not None
        seed = int(judged is not images and not (grouped and images.groups is not None))
        shares = 100 * resampled_shares(right, judged.groups, among if grouped else None, seed)
        top1 = 100 * float(right.mean())
        first = shares if first is None else first
        drop = rows[0]["top1"] - top1 if rows else 0.0
        groups = len(judged) if judged.groups is None else len(np.unique(judged.groups))
        one = 1 in (groups, rows[0]["groups"] if rows else groups)
        ends = None if one else np.nanquantile(first - shares, [0.025, 0.975]).tolist()
        row = {"name": name, "images": len(judged), "groups": groups, "top1": top1, "drop": drop, "interval": ends}
        row |= {"class_mean": class_mean_accuracy(logits, label), "commonest": commonest_share(label)}
        rows.append({**row, "right": encode_bits(right), **encoded_groups(judged)})
    return rows


def _loaders(
    encoder: Encoder, images: ImageSet, natural: Sequence[ImageSet], options: Evaluate, device: Device
) -> Iterator[tuple[str, Loader]]:
    """Yield a name and the batches of each set of images."""
    own = loader_of(options, encoder, images, device)
    yield MATCHED if options.degradation is None else "as given", own
    yield from ((each.name, loader_of(options, encoder, each, device, native=True)) for each in natural)
    for name, degradation in OTHERS.items():
        if degradation.resolved() != own.degradation.resolved():
            yield name, own.at(own.lr_size, degradation)
