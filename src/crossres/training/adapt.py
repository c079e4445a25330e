"""`crossres adapt`: a student is trained again with its camera's crops, which it labelled itself."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossres.config.check import demand_trust
from crossres.config.experiment import IN_MEMORY, Adapt, Distill
from crossres.config.judging import Evaluate
from crossres.config.options import as_trained, how_unlabelled
from crossres.config.record import base_name
from crossres.core.errors import CrossresError
from crossres.data.images import ImageSet
from crossres.data.natural import shares_group
from crossres.data.readers import read_unlabelled
from crossres.evaluation.classification import evaluate_encoder
from crossres.evaluation.discrepancy import natural_sets
from crossres.evaluation.prepare import device_of, note, read_run_on
from crossres.models.pretrained import from_pretrained
from crossres.training.images import copied
from crossres.training.prepare import cache_folder
from crossres.training.run import train


def adapt(options: Adapt, *, quiet: bool = False) -> dict[str, Any]:
    """Train a student again, on crops without labels beside its own images; the student itself stays as it is.

    The student labels the crops that it is sure of, a new one learns from them as natural pairs
    (`crossres.data.natural.NaturalPairs`) under the same options (self-training: Lee 2013; Xie et al. 2020, where the
    new student starts anew, too). It is trained in a folder ``RUNS/NAME.part``, from where an adaptation that was
    stopped goes on, and moved to ``RUNS/NAME`` when it is judged.

    Returns:
        ``{run, adapted, crops, test, labelled}``: name of the student's run, folder of the adapted one, number of
        crops that were trained on, and top-1 in percent, ``[before, after]``, on the run's test images as trained and
        on those labelled crops that are not trained on (None without any). Empty in all processes of a run but the
        first.

    Raises:
        CrossresError: no run of crossres distill, a folder that is there, what `train` raises, no labelled crop that
            is not trained on, or a student that is worse on them.
    """
    own = _run_of(options)
    folder = Path(own.runs) / (options.name or f"{own.name}-adapted")
    if folder.exists():
        raise CrossresError(f"{folder} is there already; remove it, or choose another --name")
    config = replace(own, name=folder.name, runs=f"{folder}.part", cache_dir=str(cache_folder(own)))
    config.natural, config.natural_labels = options.crops, options.run
    student = from_pretrained(options.run, trust_code=own.trust_code)
    natural, images = [options.labelled] if options.labelled else [], replace(as_trained(own.images), group=None)
    how = Evaluate(model=options.run, data=own.data, natural=natural, images=images, device=own.device)
    labelled = [_not_trained_on(each, config) for each in natural_sets(student, how)]
    native = replace(how, natural=[], native=True)
    # before the training: images that cannot be judged are told now
    before = [evaluate_encoder(student, each, native, device_of(how, student))["top1"] for each in labelled]
    begun = any((config.folder / name).exists() for name in ("state.pt", "result.json"))
    try:
        result = train(config, resume=begun, quiet=quiet)
    except CrossresError as error:
        raise CrossresError(_for_adapt(str(error), config.runs)) from None
    if not result:
        return {}
    top1 = None
    if labelled:
        adapted = from_pretrained(config.folder, trust_code=own.trust_code)
        top1 = [*before, evaluate_encoder(adapted, labelled[0], native, device_of(how, adapted))["top1"]]
        if top1[1] < top1[0]:
            shutil.rmtree(config.folder)
            _remove_empty(config.runs)
            raise CrossresError(
                f"{options.labelled}: the adapted student has {top1[1]:.2f} % right, {options.run} {top1[0]:.2f} %; "
                "the adapted one was not kept"
            )
    config.folder.rename(folder)
    _remove_empty(config.runs)
    return {
        "run": base_name(options.run),
        "adapted": str(folder),
        "crops": result["images"]["natural"],
        "test": [student.info.get("results", {}).get("top1_best_val"), result["top1_best_val"]],
        "labelled": top1,
    }


def _run_of(options: Adapt) -> Distill:
    own = replace(read_run_on(options.run, remedy=""), trust_code=options.trust_code)
    own = replace(own, device=options.device or own.device)
    demand_trust(own, options.run, options.trust_code)
    if not isinstance(own, Distill):
        raise CrossresError(f"{options.run} is a run of {own.command}; adapt takes one of crossres distill")
    if own.teacher == IN_MEMORY:
        raise CrossresError(
            f"{options.run}: its teacher was passed in Python; adapt takes one whose teacher is named"
        )
    if own.train.images_per_class:
        raise CrossresError(
            f"{options.run}: its batches are drawn by class (train.images_per_class); adapt another run"
        )
    if own.natural and not own.natural_labels:
        raise CrossresError(f"{options.run} learned from natural images, which adapt would drop; adapt another run")
    return own


def _for_adapt(message: str, part: str) -> str:
    """Return an error of a training with a remedy that crossres adapt has."""
    what, diverged, _ = message.partition(": lower train.learning_rate")
    if diverged:
        return f"{what}: remove {part}, train the student at a lower train.learning_rate and adapt that one"
    other = message.replace("use --overwrite or another --name", f"remove {part}, or choose another --name")
    return other.replace("use --overwrite", f"remove {part}")


def _remove_empty(folder: str) -> None:
    with suppress(OSError):  # something else lies there
        Path(folder).rmdir()


def _not_trained_on(labelled: ImageSet, config: Distill) -> ImageSet:
    """Return the labelled crops but for those whose pixels or groups are among ``config.natural``, with a note."""
    assert config.natural
    crops = read_unlabelled(config.natural, **how_unlabelled(config.images))
    seen = copied(labelled, crops, config) | shares_group(labelled, crops)
    if seen.all():
        raise CrossresError(f"{labelled.name}: all of its crops are in {config.natural}, too; keep some out of there")
    if seen.any():
        note(f"{labelled.name}: {seen.sum()} crops left out: they, or their groups, are in {config.natural}, too")
    return labelled.subset(~seen)
