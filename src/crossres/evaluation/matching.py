"""`crossres match`: a camera's degradation from its crops, as options that `crossres distill` takes."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from crossres import __version__
from crossres.config.judging import Match
from crossres.config.record import base_name
from crossres.core.errors import CrossresError, needs
from crossres.core.files import write_atomically
from crossres.core.types import Int64s
from crossres.data.degradation import Degradation, Size, check_size
from crossres.data.images import ImageSet
from crossres.data.readers import read_unlabelled
from crossres.evaluation.camera import BOUNDS, KERNELS, Camera, estimate_cameras, simulate
from crossres.evaluation.crop_features import SMALLEST, crop_features
from crossres.evaluation.prepare import note

#: Kernels of cameras that only shrink, the default first.
PLAIN = sorted(KERNELS, key=lambda kernel: kernel != Degradation().kernel)
#: Fewest crops that say something, and the most that are read, as of the HR images.
FEWEST, MOST = 20, 1000
#: Values of the HR images together at most: larger images are fewer.
VALUES = 2**28
#: Standard deviation of an image's grey values, 0..255, below which there is nothing to see.
FLAT = 1.0
#: What the ranges that are written reach beyond the estimate, as a share of it.
SPREADS = {"blur": 0.2, "noise": 0.2, "jpeg": 0.2, "brightness": 0.05, "contrast": 0.05, "saturation": 0.05}
#: Trees of the classifier that tells real from simulated crops.
TREES = 150
#: Largest HR size where none is chosen, as a multiple of the LR size.
FINEST = 4
#: Images of each row of the picture.
SHOWN = 12
#: Share of the crops' own sizes and qualities that are cut off at either end.
TAIL = 0.05


def match(options: Match) -> dict[str, Any]:
    """Estimate a camera, as ``crossres match`` does; notes go to stderr.

    Of the estimates, and of cameras that only shrink, the one is taken whose crops a classifier tells least from the
    real ones. Writes ``options.out`` and, beside it, a picture of real and of simulated crops.

    Returns:
        ``{hr, crops, images, hr_size, lr_size, kernel, jpeg_from_files, only_shrunk, degradation, auc_before,
        auc_after, out, png}`` and the estimates by name; only_shrunk: no estimate was better than shrinking. The AUC
        is that of the classifier, 0.5 where it cannot tell them apart: of crops that are only shrunk (bicubic), and
        of those of the estimate itself.

    Raises:
        CrossresError: too few images, crops all alike or too small, or HR images that are smaller than the crops.
    """
    _check(options)
    hr_set, crop_set = (_some(source, options) for source in (options.hr, options.crops))
    size, hr_size = _sizes(hr_set, crop_set, options)
    _, high = check_size(size)
    hr_set = _drawn(hr_set, max(FEWEST, VALUES // (3 * hr_size**2)), options.seed)
    hr, crops = hr_set.pixels(hr_size, options.fit).float() / 255, crop_set.pixels(high, options.fit).float() / 255
    _refuse_alike(crops, crop_set)
    qualities = crop_set.qualities()
    # most files say it; the ranges that are written are the files' own
    stated = 2 * len(qualities) > len(crop_set) and options.lr_size is None  # read at another size they say nothing
    known = np.quantile(qualities, [TAIL, 0.5, 1 - TAIL]).tolist() if stated else None
    # sizes are seldom spread evenly
    sides = None if isinstance(size, int) else torch.from_numpy(_sides(crop_set, options).clip(*size))
    cameras = estimate_cameras(hr, crops, size, sides=sides, jpeg=known and known[1], seed=options.seed)
    files: dict[str, Any] = {"jpeg": (known[0], known[2])} if known else {}
    tried = []
    for camera in (*map(Camera, PLAIN), *cameras):  # where all are equally far, the first
        how = replace(camera.degradation(), **files)
        simulated = simulate(hr, size, how, options.seed, sides)
        tried.append((_separability(crops, simulated, options.seed), camera, simulated))
    _, camera, matched = min(tried, key=lambda one: one[0])
    degradation = replace(camera.degradation(None if camera.distance is None else SPREADS), **files)
    shrunk = simulate(hr, size, Degradation(), options.seed, sides)
    # the estimate itself, as the ranges of the file reach beyond it; drawn anew, as the AUC that chose is a least one
    fresh = simulate(hr, size, replace(camera.degradation(), **files), options.seed + 1, sides)
    out, picture = Path(options.out), Path(options.out).with_suffix(".png")
    _draw(picture, {f"real, {high} pixels": crops, "HR": hr, "HR, matched": matched, "HR, shrunk": shrunk})
    _write(out, size, options, degradation)
    return {
        "hr": base_name(options.hr),
        "crops": base_name(options.crops),
        "images": {"hr": len(hr), "crops": len(crops)},
        "hr_size": hr_size,
        "lr_size": size if isinstance(size, int) else list(size),
        "kernel": camera.kernel,
        **camera.values,
        **({"jpeg": known[1]} if known else {}),
        "jpeg_from_files": known is not None,
        "only_shrunk": camera.distance is None,
        "degradation": asdict(degradation),
        "auc_before": _separability(crops, shrunk, options.seed),
        "auc_after": _separability(crops, fresh, options.seed + 1),
        "out": str(out),
        "png": str(picture),
    }


def _check(options: Match) -> None:
    with needs("crossres match", "bench"):
        import sklearn  # noqa: F401
    out = Path(options.out)
    if out.suffix not in (".yaml", ".yml") or out.is_dir():
        raise CrossresError(f"out: {out} is not a YAML file; name one, such as camera.yaml")
    if out.with_suffix(".png").is_dir():
        raise CrossresError(f"out: {out.with_suffix('.png')}, the picture beside it, is a folder; name another file")
    for name, value in (("hr_size", options.hr_size), ("seed", options.seed + 1)):
        if value is not None and value < 1:
            raise CrossresError(f"{name}: {getattr(options, name)} is too small")


def _some(source: str, options: Match) -> ImageSet:
    """Read images without labels, at most `MOST` of them drawn by the seed; those that are corrupt are left out."""
    images = read_unlabelled(source, image_column=options.image_column, range=options.range)
    drawn = _drawn(images, MOST, options.seed)
    corrupt = [i for i, _ in drawn.corrupt()]
    if corrupt:
        note(f"{images.name}: {len(corrupt)} unreadable images left out, first {drawn.where(corrupt[0])}")
        drawn = drawn.subset(np.setdiff1d(np.arange(len(drawn)), corrupt))
    if len(drawn) < FEWEST:
        count = "1 image" if len(drawn) == 1 else f"{len(drawn)} images"
        raise CrossresError(f"{source}: {count}; an estimate needs at least {FEWEST}")
    return drawn


def _drawn(images: ImageSet, most: int, seed: int) -> ImageSet:
    """Return so many of the images, drawn by the seed, in their order."""
    return images.subset(np.sort(np.random.default_rng(seed).permutation(len(images))[:most]))


def _sides(images: ImageSet, options: Match) -> Int64s:
    sides: Int64s = images.sides().max(1) if options.fit == "pad" else images.sides().min(1)
    return sides


def _sizes(hr: ImageSet, crops: ImageSet, options: Match) -> tuple[Size, int]:
    """Return LR and HR size: those of the options, else the images' own."""
    sides, own = (_sides(images, options) for images in (crops, hr))
    size = options.lr_size
    if size is None:
        low, high = (round(end) for end in np.quantile(sides, [TAIL, 1 - TAIL]).tolist())
        size = low if low == high else (low, high)
    low, high = check_size(size)
    if low < SMALLEST:
        raise CrossresError(f"lr_size {low}: a crop of fewer than {SMALLEST} pixels says nothing of its camera")
    if options.hr_size is not None:
        check_size(high, options.hr_size)
    # finer ones would cost memory and time, and tell no more
    hr_size = options.hr_size or min(FINEST * high, max(high, int(np.median(own))))
    if np.median(own) < high:
        raise CrossresError(
            f"{options.hr}: HR images of {int(np.median(own))} pixels are smaller than the crops' {high}; "
            "give larger ones, or a smaller --lr_size"
        )
    return size, hr_size


def _refuse_alike(crops: Tensor, images: ImageSet) -> None:
    values = 255 * crops.flatten(1)
    if float((values - values.mean(0)).std()) < FLAT:
        raise CrossresError(f"{images.name}: the crops are all alike; give crops of different scenes")
    if float(values.std(1).median()) < FLAT:
        raise CrossresError(f"{images.name}: most crops are of one colour; there is nothing to estimate from")


def _separability(real: Tensor, simulated: Tensor, seed: int) -> float:
    """Return the AUC of a random forest on `crop_features` that tells crops apart, by its trees' unseen images."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    features = np.concatenate([crop_features(real), crop_features(simulated)])
    label = np.repeat([1, 0], [len(real), len(simulated)])
    forest = RandomForestClassifier(TREES, class_weight="balanced", oob_score=True, random_state=seed, n_jobs=1)
    forest.fit(features, label)
    return float(roc_auc_score(label, forest.oob_decision_function_[:, 1]))


def _write(path: Path, size: Size, options: Match, degradation: Degradation) -> None:
    """Write the options as YAML."""
    ranges = {name: [round(end, 4) for end in getattr(degradation.resolved(), name)] for name in BOUNDS}
    tree = {
        "lr_size": size if isinstance(size, int) else list(size),
        "images": {"fit": options.fit} | ({"range": list(options.range)} if options.range else {}),
        "degradation": {"kernel": degradation.kernel, **ranges},
    }
    text = f"# estimated by crossres match {__version__}; crossres distill --config {path.name} takes it\n"
    text += yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)
    write_atomically(path, lambda file: file.write(text.encode()))


def _draw(path: Path, rows: dict[str, Tensor]) -> None:
    """Draw the first images of each row; simulated ones lie below the HR image they come from."""
    from crossres.evaluation.figures import png

    with png(path, (SHOWN * 0.8 + 1.8, len(rows) * 0.85)) as figure:
        for axes, (name, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
            axes.imshow(torch.cat([*images[:SHOWN]], 2).permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            axes.spines[:].set_visible(False)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
