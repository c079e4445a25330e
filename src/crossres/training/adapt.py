"""`crossres adapt`: a trained student goes on with its camera's crops, which it labels by itself."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossres.config.experiment import Adapt, Distill
from crossres.config.judging import Evaluate
from crossres.config.options import as_trained
from crossres.config.reading import read_run
from crossres.config.record import base_name
from crossres.core.devices import resolve_device
from crossres.core.errors import CrossresError
from crossres.evaluation.accuracy import measure
from crossres.evaluation.classes import labels_of
from crossres.evaluation.discrepancy import natural_sets
from crossres.evaluation.prepare import loader_of, logits_of
from crossres.models.pretrained import from_pretrained
from crossres.training.run import train


def adapt(options: Adapt, *, overwrite: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train a student on, beside its own images, on crops without labels; the student itself stays as it is.

    Pseudo-labels (Lee 2013) of natural pairs (`crossres.data.natural.NaturalPairs`), under the student's own losses.

    Returns:
        ``{run, adapted, crops, test, labelled}``: name of the student's run, folder of the adapted one, number of
        crops that were trained on, and top-1 in percent, ``[before, after]``, on the run's test images as trained and
        on the labelled crops (None without any).

    Raises:
        CrossresError: no run of crossres distill, what `train` raises, or a student that is worse on labelled crops.
    """
    folder = Path(options.run)
    own = read_run(folder)
    if not isinstance(own, Distill):
        raise CrossresError(f"{options.run} is a run of {own.command}; adapt takes one of crossres distill")
    config = replace(
        own,
        name=options.name or f"{own.name}-adapted",
        natural=options.crops,
        natural_labels=options.run,
        model=replace(own.model, weights=str(folder / "model")),
        train=replace(own.train, epochs=options.epochs, learning_rate=options.learning_rate),
    )
    before = _top1(options.run, options, own)
    result = train(config, overwrite=overwrite, quiet=quiet)
    after = _top1(str(config.folder), options, own)
    if before is not None and after is not None and after < before:
        shutil.rmtree(config.folder / "model")
        raise CrossresError(
            f"{options.labelled}: the adapted student has {after:.2f} % right, {options.run} {before:.2f} %; "
            "the adapted one was not kept"
        )
    earlier = from_pretrained(options.run, trust_code=own.trust_code).info.get("results", {})
    return {
        "run": base_name(options.run),
        "adapted": str(config.folder),
        "crops": result["images"]["natural"],
        "test": [earlier.get("top1_best_val"), result["top1_best_val"]],
        "labelled": None if before is None else [before, after],
    }


def _top1(model: str, options: Adapt, own: Distill) -> float | None:
    """Return the top-1 in percent of a saved student on the labelled crops, as they are; None without any."""
    if options.labelled is None:
        return None
    encoder = from_pretrained(model, trust_code=own.trust_code)
    how = Evaluate(model=model, data=own.data, natural=[options.labelled], images=as_trained(own.images))
    [images] = natural_sets(encoder, how)
    device = resolve_device(own.device, own.precision)
    loader = loader_of(how, encoder, images, device, native=True)
    logits = logits_of(encoder.to(device.torch), loader, device.autocast)
    return float(measure(logits, labels_of(encoder, images).to(device.torch))["top1"])
