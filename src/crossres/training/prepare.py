"""From a config to everything a run needs: images, networks, losses, the teacher's cache; checked before a step."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from crossres.config.experiment import Distill, Experiment
from crossres.config.record import base_name, sha256
from crossres.core.devices import Device, commit
from crossres.core.errors import CrossresError, one_line
from crossres.core.progress import Progress
from crossres.data.decode import extremes
from crossres.data.degradation import Degradation, Size, check_size
from crossres.data.images import understood
from crossres.data.loader import Loader
from crossres.data.natural import APART, NaturalPairs
from crossres.data.splits import SPLIT_SEED
from crossres.evaluation.prepare import BATCH, split_otherwise
from crossres.losses.base import Shape
from crossres.losses.maps import MapLoss
from crossres.losses.options import reads
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder
from crossres.models.filling import cached_outputs
from crossres.models.onnx_encoder import OnnxBackbone
from crossres.models.onnx_input import ONNX
from crossres.models.stages import capture_maps, paired_stages
from crossres.models.teachers import StoredBackbone, stored_outputs
from crossres.models.weights import weights_sha256
from crossres.training.distiller import Distiller, build_losses
from crossres.training.images import count_copies, say_enlarged, say_flat, say_small
from crossres.training.networks import build_student, build_teacher, check_networks, placed, shorter_sides
from crossres.training.processes import demand_same, share_batch_norm
from crossres.training.task import ImageSets, PreparedRun, Task, named_sets

#: hr_size of images that differ in size, where none is chosen.
MIXED = 32
#: hr_size above which a note warns that it is slow, where none was chosen.
LARGE = 256
#: Training images whose extremes go with the model.
SAMPLED = 2000


def prepare(
    config: Experiment,
    task: Task,
    fabric: Fabric,
    device: Device,
    progress: Progress,
    teacher: Encoder | None = None,
) -> PreparedRun:
    """Read, check and build everything a run needs.

    Args:
        config: a checked experiment.
        task: what it is for.
        fabric: of the run's processes.
        device: where the run computes.
        progress: says what the images lack and counts what is cached.
        teacher: one that is in memory; by default it is read from ``config.teacher``.

    Raises:
        CrossresError: bad input, in one line.
    """
    if config.distillation and config.distillation.teacher is None and config.task == "classification":
        progress.say("no teacher is given: the student learns from labels alone; --teacher RUN distils from one")
    # names and folders first: reading the images may take minutes
    teacher = check_networks(config, teacher)
    sets, hr_size, lr_size = read_images(config, task, teacher, progress)
    epochs, _ = config.train.course(len(sets.train))
    classes = task.classes(sets.train)
    teacher = build_teacher(config, teacher, sets.train, classes, hr_size, progress)
    if teacher is not None:
        teacher = placed(teacher, device, config.train.channels_last)
    train, natural, val, test = build_loaders(config, task, sets, (hr_size, lr_size), fabric, device, progress)
    say_enlarged(config.data, sets.train, train, teacher is not None, progress)
    say_flat(train, progress)
    if val is not None and epochs > 1:
        say_small(task.cases(val), progress)
    share = config.natural_share if isinstance(config, Distill) else 0.0
    pairs = NaturalPairs(train, natural, share, config.train.accumulate) if natural else None

    torch.manual_seed(config.train.seed)
    student = build_student(config, sets.train, classes, hr_size, lr_size)
    starts_from_file = config.model.weights or config.model.name.startswith(ONNX)
    start_sha256 = weights_sha256(student) if starts_from_file else None
    student = placed(student, device, config.train.channels_last)
    if fabric.world_size > 1:
        read: dict[str, Any] = {f"{part} images": images.fingerprint for part, images in named_sets(sets).items()}
        read |= {"options": sha256(config), "precision": device.precision, "model.weights": start_sha256}
        demand_same(read | {"teacher": None if teacher is None else weights_sha256(teacher)})
        share_batch_norm(student)
    _check_batch(student, train)
    distiller, paths = build_distiller(config, teacher, student, train, fabric)
    cache = _build_cache(config, teacher, distiller, paths, train, fabric, device, progress)
    facts = {
        "images_in_both": count_copies(train, None if sets.natural_val else val, test, progress),
        **_facts(config, sets, test, natural, device, teacher),
        "start_sha256": start_sha256,
        # an earlier version answered with those of the unmoved image
        "teacher_maps": "moved" if cache is not None and cache.maps else None,
    }
    return PreparedRun(config, epochs, task, student, teacher, cache, distiller, pairs or train, val, test, facts)


def read_images(
    config: Experiment, task: Task, teacher: Encoder | None, progress: Progress
) -> tuple[ImageSets, int, Size]:
    """Read the images that a task asks for; return them with the HR and the LR size that they are read at.

    Raises:
        CrossresError: too few images, or a low resolution above the high one.
    """
    sets = task.images(progress)
    train = sets.train
    if teacher is not None and teacher.info.get("dataset") == base_name(config.data):
        other = split_otherwise("teacher", teacher.info, config.data, sets.test, vars(config.images))
        if other:
            progress.say(other)
    progress.say(understood(config.data, named_sets(sets), people=config.faces is not None))
    if len(train) < 2:
        raise CrossresError(f"{config.data}: {len(train)} training image; training needs at least 2")
    chosen = config.hr_size
    enlarges = teacher.input_size if teacher is not None and teacher.info.get("enlarges") else None
    if teacher is not None and not chosen and not enlarges:
        chosen = teacher.info.get("hr_size") or teacher.input_size
    sides = [] if chosen else shorter_sides(train)
    own = sides[0] if sides and sides[0] == sides[-1] else None
    # a teacher that enlarges what it sees would miss what a small reading size leaves out
    mixed = min(enlarges, sides[len(sides) // 2]) if enlarges and sides else MIXED
    hr_size: int = chosen or own or mixed
    if not chosen and not own:
        progress.say(f"{config.data}: images differ in size; reading all at hr_size {hr_size} (--hr_size changes it)")
    elif own and own > LARGE:
        progress.say(f"{config.data}: read at the images' own hr_size {own}, which is slow (--hr_size changes it)")
    lr_size: Size = config.distillation.lr_size if config.distillation else hr_size
    check_size(lr_size, hr_size)
    return sets, hr_size, lr_size


def build_loaders(
    config: Experiment,
    task: Task,
    sets: ImageSets,
    sizes: tuple[int, Size],
    fabric: Fabric,
    device: Device,
    progress: Progress,
) -> tuple[Loader, Loader | None, Loader | None, Loader]:
    """Decode the images; return the batches of training, augmented, of natural ones, of validation and of test.

    Raises:
        CrossresError: images that cannot be decoded, or a batch that does not divide over the processes.
    """
    images = sets.train
    how: dict[str, Any] = {
        "hr_size": sizes[0],
        "lr_size": sizes[1],
        "batch_size": config.train.course(len(images))[1],
        "device": device.torch,
        "fit": config.images.fit,
        "memory_mb": config.images.memory_mb,
        "workers": config.images.workers,
        "buffer": config.images.buffer,
        "degradation": config.distillation.degradation if config.distillation else Degradation(),
        "rank": fabric.global_rank,
        "world_size": fabric.world_size,
    }
    trains = {**asdict(config.augment), "seed": config.train.seed}
    train = Loader(images, images_per_class=config.train.images_per_class, **{**how, **trains})
    if len(images) < fabric.world_size:
        raise CrossresError(f"{len(images)} training images for {fabric.world_size} processes; start fewer")
    if train.batch_size % fabric.world_size:
        raise CrossresError(
            f"train.batch_size {train.batch_size} does not divide over {fabric.world_size} processes; "
            f"choose a multiple of {fabric.world_size}"
        )
    if train.steps < config.train.accumulate:
        raise CrossresError(
            f"train.accumulate {config.train.accumulate}: an epoch has {train.steps} batches of {train.batch_size} "
            "images; choose a smaller one"
        )
    train = train.in_steps(train.steps - train.steps % config.train.accumulate, train.batch_size)
    # the degradation's draws on the judged images are the same for every training seed, as in `evaluate`
    judged = {**how, "seed": SPLIT_SEED}
    # natural ones are read at the LR size and shifted by as much of it
    _, high = check_size(sizes[1])
    by_nature = {"hr_size": high, "lr_size": high, "degradation": Degradation()}
    natural = val = None
    if sets.natural is not None:
        shift = round(config.augment.shift * high / sizes[0])
        seed = config.train.seed + APART
        natural = Loader(sets.natural, **{**how, **trains, **by_nature, "shift": shift, "seed": seed})
    if sets.val is not None and task.validates(progress):
        val = Loader(sets.val, **(judged | by_nature if sets.natural_val else judged))
    return train, natural, val, Loader(sets.test, **judged)


def build_distiller(
    config: Experiment, teacher: Encoder | None, student: Encoder, train: Loader, fabric: Fabric
) -> tuple[Distiller, list[str]]:
    """Return student and losses as one module, and the paths of the teacher's maps that losses compare."""
    terms = config.terms
    maps: tuple[list[Shape], list[Shape]] = ([], [])
    paths: list[str] = []
    if config.distillation and teacher is not None and any(reads(name) == "features" for name in terms):
        stages = config.distillation.stages
        paths, students = paired_stages(teacher, student, stages.teacher, stages.student)
        _, read_size = check_size(train.lr_size)
        maps = capture_maps(teacher, paths, train.hr_size), capture_maps(student, students, read_size)
    losses = build_losses(terms, teacher, student, maps)
    for loss in losses.values():
        loss.to(train.device).prepare(train.label)

    def gather(part: Tensor) -> Tensor:
        whole = fabric.all_gather(part, sync_grads=part.requires_grad)  # in the order of the ranks
        assert isinstance(whole, Tensor)
        return whole.flatten(0, 1)

    weights, warm_up = ({name: terms[name][option] for name in terms} for option in ("weight", "warm_up"))
    decaying = [name for name in terms if terms[name]["decay"]]
    return Distiller(student, losses, weights, decaying, warm_up, gather if fabric.world_size > 1 else None), paths


def _build_cache(
    config: Experiment,
    teacher: Encoder | None,
    distiller: Distiller,
    paths: Sequence[str],
    train: Loader,
    fabric: Fabric,
    device: Device,
    progress: Progress,
) -> TeacherCache | None:
    """Return the teacher's outputs on the training images, where they may be computed once; else None."""
    distillation = config.distillation
    if teacher is None or distillation is None:
        return None
    if distillation.teacher_top_k and distiller.needs_teacher and not teacher.classes:
        raise CrossresError(f"{distillation.teacher} gives no logits: leave teacher_top_k out")
    if isinstance(teacher.backbone, StoredBackbone):
        if not distillation.teacher_cache:
            raise CrossresError(
                f"{distillation.teacher}: stored embeddings cover unshifted images only; set teacher_cache to true"
            )
        return stored_outputs(teacher, train.images, device.torch, train.memory_mb)
    if not distillation.teacher_cache or not distiller.needs_teacher:
        return None
    mirrored, maps = distillation.teacher_views == "mirrored", {}
    if paths:
        losses = [loss for loss in distiller.losses.values() if isinstance(loss, MapLoss)]
        # the largest that any of them compares: the others average it further
        stages = zip(*(loss.sizes for loss in losses), strict=True)
        sizes = [(max(h for h, _ in stage), max(w for _, w in stage)) for stage in stages]
        maps = dict(zip(paths, sizes, strict=True))
    return cached_outputs(
        teacher,
        train,
        cache_folder(config),
        flip=config.augment.flip,
        mirrored=mirrored,
        top_k=distillation.teacher_top_k,
        autocast=device.autocast,
        precision=device.precision,
        maps=maps,
        progress=progress.count,
        agree=fabric.broadcast,
    )


def cache_folder(config: Experiment) -> Path:
    """Return the folder of the teacher's outputs."""
    given = config.distillation and config.distillation.cache_dir
    return Path(given) if given else Path(config.runs) / "cache"


def _check_batch(student: Encoder, train: Loader) -> None:
    """Refuse one image per step where batch norm is left with one value per channel."""
    if train.batch_size > train.world_size:
        return
    try:
        deepcopy(student).train()(next(train.ordered(batch_size=1)).lr)
    except ValueError as error:
        raise CrossresError(
            f"train.batch_size {train.batch_size}: the network's batch norm needs at least 2 images a step "
            f"of each process at this size ({one_line(error)})"
        ) from None


def _natural_of(config: Experiment) -> dict[str, str | None]:
    """Return by name ``natural``, part of which was kept for testing, or ``adapted``, all of which was trained on."""
    natural = getattr(config, "natural", None)
    name, taken = natural and base_name(natural), getattr(config, "natural_labels", None)
    return {"natural": None if taken else name, "adapted": name if taken else None}


def _facts(
    config: Experiment,
    sets: ImageSets,
    judged: Loader,
    natural: Loader | None,
    device: Device,
    teacher: Encoder | None,
) -> dict[str, Any]:
    """Return what a run's result and its model say of where they come from."""
    train = sets.train
    named = named_sets(sets)
    beside = _natural_of(config)
    # the training images at low resolution: a gate compares later images with their extremes
    # read as the judged images are
    batches = replace(judged, images=train.sampled(SAMPLED, SPLIT_SEED), batch_size=BATCH).ordered()
    if natural is not None:
        drawn = np.random.default_rng(SPLIT_SEED).permutation(len(natural.images))[:SAMPLED]
        batches = chain(batches, natural.ordered(np.sort(drawn).tolist()))
    facts: dict[str, Any] = {
        "task": config.command.removeprefix("crossres "),
        "hr_size": judged.hr_size,
        "lr_size": judged.lr_size,
        "teacher": None,
        "images": {part: len(named.get(part, ())) for part in ("train", "val", "test", *named)},
        **beside,
        # crops that a student labelled are those that it was sure of: another one's are others
        "data_sha256": {
            "adapted" if part == "natural" and beside["adapted"] else part: images.fingerprint
            for part, images in named.items()
        },
        "skipped": {part: images.skipped for part, images in named.items() if part != "val"},
        "seen": extremes((255 * batch.lr).round().byte().permute(0, 2, 3, 1).cpu().numpy() for batch in batches),
        "precision": device.precision,
        # now, not when the run ends: by then the checkout may have moved on
        "commit": commit(),
    }
    if teacher is not None and config.distillation:
        facts["teacher"] = {
            "name": teacher.architecture.get("name", config.distillation.teacher),
            "top1_hr": teacher.info.get("results", {}).get("top1_best_val"),
            "sha256": weights_sha256(teacher),
        }
        if isinstance(teacher.backbone, OnnxBackbone):
            expects = asdict(teacher.backbone.expects)
            facts["teacher"] |= {"file": teacher.architecture["file"], "onnx_input": expects}
    return facts
