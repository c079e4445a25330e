"""From a config to everything a run needs: images, networks, losses, the teacher's cache; checked before a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from crossres.config.options import Distill, Model, Teach
from crossres.core.devices import Device, commit
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.decode import Fit as FitTo
from crossres.data.degradation import Size, check_size
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.look import extremes
from crossres.data.splits import SPLIT_SEED
from crossres.losses import LOSSES, Loss, MapLoss
from crossres.losses.base import Shape
from crossres.models.cache import CachedMaps, cached_outputs
from crossres.models.encoder import ONNX, Encoder, build_encoder, check_name
from crossres.models.onnx_copy import onnx_copy
from crossres.models.onnx_teacher import OnnxBackbone
from crossres.models.pretrained import from_pretrained
from crossres.models.stages import capture_maps, paired_stages
from crossres.models.stored import StoredBackbone, stored_outputs
from crossres.models.teachers import frozen_teacher, order_classes, read_teacher
from crossres.models.weights import fit_weights, load_weights, weights_sha256
from crossres.training.distiller import Distiller, build_losses
from crossres.training.processes import Gather
from crossres.training.run_state import Experiment
from crossres.training.task import Task

#: hr_size of images that differ in size, where nobody chooses one.
MIXED = 32
#: hr_size from which on the user is told, where nobody chose it.
LARGE = 256
#: Training images whose extremes go with the model.
LOOKED_AT = 2000


def prepare(
    config: Teach, task: Task, fabric: Fabric, device: Device, progress: Progress, teacher: Encoder | None = None
) -> Experiment:
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
    # names and folders first: reading the images may take minutes
    check_name(config.model.name)
    if config.model.weights and not Path(config.model.weights).exists():
        raise CrossresError(f"there is no checkpoint {config.model.weights}")
    if isinstance(config, Distill) and config.teacher_name:
        check_name(config.teacher_name)
    elif isinstance(config, Distill) and config.teacher and teacher is None:
        teacher = read_teacher(config.teacher, config.onnx_input, trust_code=config.trust_code)
    train_set, val_set, test_set = task.images(config, progress)
    if len(train_set) < 2:
        raise CrossresError(f"{config.data}: {len(train_set)} training image; training needs at least 2")
    images = config.images
    hr_size = config.hr_size or _teachers_size(teacher) or _own_size(train_set)
    if hr_size is None:
        hr_size = MIXED
        progress.say(f"{config.data}: images of several sizes, read at hr_size {hr_size}; --hr_size takes another")
    elif not config.hr_size and not _teachers_size(teacher) and hr_size > LARGE:
        progress.say(
            f"{config.data}: read at the images' own hr_size {hr_size}, which is slow; --hr_size takes another"
        )
    lr_size = config.lr_size if isinstance(config, Distill) else hr_size
    classes = task.classes(config, train_set)
    if isinstance(config, Distill) and config.teacher is not None:
        teacher = teacher or plain_teacher(config, train_set, hr_size)
        if more := len(teacher.classes) - len(train_set.classes) if images.classes else 0:
            progress.say(f"the teacher knows {more} classes more than images.classes: their logits are left out")
        teacher = frozen_teacher(
            teacher, classes, f"the teacher {config.teacher}", may_know_more=bool(images.classes)
        )
        teacher = _placed(teacher, device, config.train.channels_last)
    shared: dict[str, Any] = {
        "hr_size": hr_size,
        "lr_size": lr_size,
        "batch_size": config.train.batch_size,
        "device": device.torch,
        "fit": images.fit,
        "seed": config.train.seed,
        "memory_mb": images.memory_mb,
        "workers": images.workers,
    }
    if isinstance(config, Distill):
        check_size(config.lr_size, hr_size)
        shared["degradation"] = config.degradation
    train = Loader(
        train_set,
        shift=config.augment.shift,
        flip=config.augment.flip,
        zoom=config.augment.zoom,
        colour=config.augment.colour,
        images_per_class=config.train.images_per_class,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        **shared,
    )
    # decoding has measured them; of a larger set every header would have to be read
    few = train_set.enlarged(hr_size, images.fit) if train.pixels is not None else 0
    if few:
        progress.say(f"{config.data}: {few} of {len(train_set)} images are smaller than {hr_size} pixels: enlarged")
    if len(train_set) < fabric.world_size:
        raise CrossresError(f"{len(train_set)} training images for {fabric.world_size} processes; start fewer")
    if train.batch_size % fabric.world_size:
        raise CrossresError(
            f"train.batch_size {train.batch_size} does not divide over {fabric.world_size} processes; "
            f"choose a multiple of {fabric.world_size}"
        )
    # the degradation's draws on the judged images are the same for every training seed, as in `evaluate`
    judged = {**shared, "seed": SPLIT_SEED}
    validates = val_set is not None and task.validates(config.losses, progress)
    val = Loader(val_set, **judged) if val_set is not None and validates else None
    test = Loader(test_set, **judged)

    torch.manual_seed(config.train.seed)
    student = _build_student(config, train_set, classes, hr_size, lr_size)
    given = config.model.weights or config.model.name.startswith(ONNX)
    start_sha256 = weights_sha256(student) if given else None
    student = _placed(student, device, config.train.channels_last)
    _check_batch(student, train)
    maps: tuple[list[Shape], list[Shape]] = ([], [])
    compares_maps = any(LOSSES[name].reads == "features" for name in config.losses)
    if compares_maps and teacher is not None and isinstance(config, Distill):
        paths = paired_stages(teacher, student, config.stages.teacher, config.stages.student)
        read_size = lr_size if isinstance(lr_size, int) else lr_size[1]
        maps = capture_maps(teacher, paths[0], hr_size), capture_maps(student, paths[1], read_size)
    losses = build_losses(config.losses, teacher, student, maps)
    for loss in losses.values():
        loss.to(device.torch).prepare(train.label)
    weights = {name: float(options.get("weight", 1.0)) for name, options in config.losses.items()}
    decaying = [name for name, options in config.losses.items() if options.get("decay")]
    gather = Gather(fabric) if fabric.world_size > 1 else None
    warm_up = {name: float(options.get("warm_up", 0.0)) for name, options in config.losses.items()}
    distiller = Distiller(student, losses, weights, decaying, warm_up, gather)

    cache = None
    kept = _kept_maps(losses, paths[0], train, config, progress) if compares_maps and teacher is not None else None
    cached = distiller.needs_teacher and (kept is not None or not compares_maps)
    if teacher is not None and isinstance(teacher.backbone, StoredBackbone):
        if isinstance(config, Distill) and not config.teacher_cache:
            raise CrossresError(f"{config.teacher}: stored embeddings know no other views; leave teacher_cache on")
        cache = stored_outputs(teacher, train_set, device.torch)
    elif teacher is not None and isinstance(config, Distill) and config.teacher_cache and cached:
        cache_dir = Path(config.cache_dir) if config.cache_dir else Path(config.runs) / "cache"
        cache = cached_outputs(
            teacher,
            train,
            cache_dir,
            flip=config.augment.flip,
            mirrored=config.teacher_views == "mirrored",
            autocast=device.autocast,
            precision=device.precision,
            maps=kept,
            progress=progress.count,
        )
    facts: dict[str, Any] = {
        "task": config.command.removeprefix("crossres "),
        "hr_size": hr_size,
        "lr_size": lr_size,
        "teacher": None,
        "start_sha256": start_sha256,
        "images": {"train": len(train_set), "val": len(val_set or ()), "test": len(test_set)},
        "data_sha256": {
            part: images.fingerprint
            for part, images in (("train", train_set), ("val", val_set), ("test", test_set))
            if images is not None
        },
        "skipped": {"train": train_set.skipped, "test": test_set.skipped},
        "seen": _seen(train_set, judged),
        "precision": device.precision,
        # now, not when the run ends: by then the checkout may have moved on
        "commit": commit(),
    }
    if teacher is not None and isinstance(config, Distill):
        facts["teacher"] = {
            "name": teacher.architecture.get("name", config.teacher),
            "top1_hr": teacher.info.get("results", {}).get("top1_best_val"),
            "sha256": weights_sha256(teacher),
        }
        if isinstance(teacher.backbone, OnnxBackbone):
            facts["teacher"] |= {"file": teacher.architecture["file"], "onnx_input": asdict(teacher.backbone.wanted)}
    return Experiment(config, task, student, teacher, cache, distiller, train, val, test, facts)


def plain_teacher(config: Distill, images: ImageSet, size: int) -> Encoder:
    """Build the network ``config.teacher_name`` and fill it from the plain checkpoint ``config.teacher``.

    Args:
        config: of the distillation.
        images: training images, whose classes it knows and whose pixels it is normalised by.
        size: side in pixels of the images it reads.

    Raises:
        CrossresError: the checkpoint does not fit.
    """
    assert config.teacher is not None
    assert config.teacher_name is not None
    mean, std = _normalisation(config.teacher_name, images, size, config.images.fit)
    teacher = build_encoder(config.teacher_name, classes=images.classes, input_size=size, mean=mean, std=std)
    load_weights(teacher, config.teacher)
    return teacher


def _normalisation(
    name: str, images: ImageSet, size: int, fit: FitTo
) -> tuple[list[float] | None, list[float] | None]:
    """Return the mean and deviation a network is built with: a timm model brings its own."""
    return (None, None) if name.startswith("timm:") else _channel_statistics(images, size, fit)


def _build_student(config: Teach, images: ImageSet, classes: Sequence[str], hr_size: int, lr_size: Size) -> Encoder:
    size = lr_size if isinstance(lr_size, int) else lr_size[1]
    model, weights = config.model, config.model.weights
    if model.name.startswith(ONNX):
        return _copied_student(config, classes)
    mean: list[float] | None
    std: list[float] | None
    start = None
    if weights and Path(weights).is_dir():
        start = from_pretrained(weights, trust_code=config.trust_code)
        # a saved model brings its classes' order and its normalisation
        if classes:
            order_classes(start, classes, f"model.weights {weights}")
        mean, std = start.mean.flatten().tolist(), start.std.flatten().tolist()
    else:
        mean, std = _normalisation(model.name, images, hr_size, config.images.fit)
    student = build_encoder(
        model.name,
        classes=classes,
        input_size=model.input_size or size,
        mean=mean,
        std=std,
        embedding_dim=model.embedding_dim,
        small_input=model.small_input,
        pretrained=model.pretrained,
    )
    if start is not None:
        fit_weights(student, start.state_dict(), f"model.weights {weights}")
    elif weights:
        load_weights(student, weights)
    return student


def _copied_student(config: Teach, classes: Sequence[str]) -> Encoder:
    """Return a student that starts from an ONNX file, which decides its widths, its size and its weights."""
    if not isinstance(config, Distill):
        raise CrossresError(f"model.name {config.model.name}: {config.command} cannot declare what the file expects")
    plain = Model(name=config.model.name)
    for option in fields(plain):
        if option.name != "input_size" and getattr(config.model, option.name) != getattr(plain, option.name):
            raise CrossresError(f"model.{option.name}: the file of {config.model.name} decides it; leave it out")
    return onnx_copy(config.model.name.removeprefix(ONNX), config.onnx_input, classes, config.model.input_size)


def _kept_maps(
    losses: Mapping[str, Loss], paths: Sequence[str], train: Loader, config: Teach, progress: Progress
) -> CachedMaps | None:
    """Return the teacher's maps as all losses compare them; None where they do not agree or fill the memory."""
    compared = [loss for loss in losses.values() if isinstance(loss, MapLoss)]
    if len({loss.match for loss in compared}) != 1:
        return None
    first = compared[0]
    numbers = sum(t[0] * h * w for t, (h, w) in zip(first.teacher_shapes, first.sizes, strict=True))
    both = config.augment.flip or getattr(config, "teacher_views", "own") == "mirrored"
    megabytes = numbers * 2 * len(train.images) * (2 if both else 1) / 2**20
    if megabytes > config.images.memory_mb:
        progress.say(
            f"the teacher's maps take {megabytes:,.0f} MB, more than images.memory_mb: it runs along at every step"
        )
        return None
    return CachedMaps(dict(zip(paths, first.sizes, strict=True)), first.match)


def _check_batch(student: Encoder, train: Loader) -> None:
    """Refuse one image per step where batch norm is left with one value per channel."""
    if train.batch_size > train.world_size:
        return
    try:
        deepcopy(student).train()(next(train.ordered(batch_size=1)).lr)
    except ValueError as error:
        raise CrossresError(
            f"train.batch_size {train.batch_size}: the network's batch norm needs at least 2 images a step "
            f"of each process at this size ({' '.join(str(error).split())})"
        ) from None


def _seen(images: ImageSet, how: dict[str, Any]) -> dict[str, float]:
    """Return what a gate compares later images with: extremes of the training images at low resolution."""
    drawn = np.random.default_rng(SPLIT_SEED).permutation(len(images))[:LOOKED_AT]
    loader = Loader(images.subset(np.sort(drawn)), **how)
    return extremes((255 * batch.lr).round().byte().permute(0, 2, 3, 1).cpu().numpy() for batch in loader.ordered())


def _channel_statistics(images: ImageSet, size: int, fit: FitTo) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, from at most 4,000 images spread over the set."""
    positions = torch.linspace(0, len(images) - 1, min(4000, len(images))).long().tolist()
    pixels = torch.stack([images.sample(i, size, fit) for i in positions]).transpose(0, 1).flatten(1).double() / 255
    return pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-2).tolist()


def _teachers_size(teacher: Encoder | None) -> int | None:
    """Return the side the teacher was trained at, or the one it reads."""
    return (teacher.info.get("hr_size") or teacher.input_size) if teacher is not None else None


def _own_size(images: ImageSet) -> int | None:
    """Return the images' shorter side where they share it."""
    sides: set[int] = set()
    for i in range(0, len(images), max(1, len(images) // 64)):
        with suppress(CrossresError):  # a damaged image is reported when all are decoded
            sides.add(min(images.image(i).shape[:2]))
    return sides.pop() if len(sides) == 1 else None


def _placed(encoder: Encoder, device: Device, channels_last: bool) -> Encoder:
    encoder = encoder.to(device.torch)
    return encoder.to(memory_format=torch.channels_last) if channels_last else encoder
