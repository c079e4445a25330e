"""From a config to a finished run: read, check, build, train, judge, save."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from crossres import config as configs
from crossres.checkpoint import load_state, write_atomically
from crossres.config import Distill, Teach
from crossres.data.decode import Fit as FitTo
from crossres.data.images import ImageSet, stratified_split
from crossres.data.loader import Loader
from crossres.data.readers import read
from crossres.degrade import Size, check_size
from crossres.devices import Device, resolve_device
from crossres.distiller import Distiller, build_losses
from crossres.errors import CrossresError
from crossres.losses import LOSSES
from crossres.models.cache import cached_outputs
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.pretrained import from_pretrained
from crossres.models.teachers import load_teacher, order_classes
from crossres.models.weights import fit_weights, load_weights, weights_sha256
from crossres.parsing import from_dict
from crossres.progress import Progress
from crossres.results import commit, finish
from crossres.train import Experiment, Fit

#: The validation split is the same for every training seed: runs are paired and share the teacher's cache.
SPLIT_SEED = 0


def run(config: Teach, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train, evaluate and save a network; return what ``result.json`` holds.

    Args:
        config: a :class:`Teach` or a :class:`Distill`; every key and type is checked first.
        resume: go on from the last finished epoch of the run's folder; a finished run is returned as it is.
        overwrite: throw away what the run's folder holds.
        quiet: print nothing.

    Raises:
        CrossresError: bad input, in one line.
        KeyboardInterrupt: after Ctrl-C; the last finished epoch can be resumed.
    """
    config = from_dict(type(config), configs.to_dict(config))
    folder = config.folder
    state_path = folder / "state.pt"
    done = folder / "result.json"
    if resume and done.exists():
        Progress(quiet=quiet).say(f"{folder} is finished; its numbers are in {done}")
        return dict(json.loads(done.read_text()))
    if not resume and not overwrite and (state_path.exists() or done.exists()):
        raise CrossresError(f"{folder} holds a run already; use --resume, --overwrite or another --name")
    device = resolve_device(config.train)
    fabric = _fabric(config, device)
    fabric.launch()
    progress = Progress(quiet=quiet or fabric.global_rank > 0)

    try:
        experiment = _prepare(config, fabric, device, progress)
    except KeyboardInterrupt:
        progress.close()
        progress.say("stopped before the first step; give the same command again")
        raise
    finally:
        progress.close()
    if fabric.global_rank == 0 and not resume:
        for old in (state_path, done, folder / "metrics.jsonl"):
            if old.exists():
                old.unlink()
        if overwrite:  # or the old model would pass for the new run's until that ends
            for inside in ("model", "tensorboard"):
                shutil.rmtree(folder / inside, ignore_errors=True)
        write_atomically(folder / "config.yaml", lambda f: f.write(configs.to_yaml(config).encode()))
    fabric.barrier()
    try:
        fit = Fit(experiment, fabric, progress)
        if resume:
            fit.load(load_state(state_path))
        fit.train(state_path)
        if fabric.global_rank > 0:
            fabric.barrier()
            return {}
        result = finish(config, experiment.student, fit.history(), experiment.test, device, experiment.facts)
    except KeyboardInterrupt:
        progress.close()
        progress.say(f"stopped; go on with: crossres {_command(config)} --resume {folder}")
        raise
    finally:
        progress.close()
    progress.say(
        f"{folder}: test top-1 {result['top1_last']:.2f} % (last epoch), "
        f"{result['top1_best_val']:.2f} % (best on validation)"
    )
    fabric.barrier()
    return result


def teach(config: Teach, **how: Any) -> dict[str, Any]:
    """Train a network on high-resolution images; see :func:`run`."""
    if isinstance(config, Distill):
        raise CrossresError("teach takes a Teach; for a Distill call crossres.distill")
    return run(config, **how)


def distill(config: Distill, **how: Any) -> dict[str, Any]:
    """Train a low-resolution student; see :func:`run`."""
    if not isinstance(config, Distill):
        raise CrossresError("distill takes a Distill; for a Teach call crossres.teach")
    return run(config, **how)


def _prepare(config: Teach, fabric: Fabric, device: Device, progress: Progress) -> Experiment:
    distilling = isinstance(config, Distill)
    images = config.images
    train_set, test_set = (
        read(
            config.data,
            split=split,
            image_column=images.image_column,
            label_column=images.label_column,
            test_fraction=images.test_fraction,
            corrupt=images.corrupt,
            download=images.download,
            root=Path(images.root) if images.root else None,
            memory_mb=images.memory_mb,
        )
        for split in ("train", "test")
    )
    for part in (train_set, test_set):
        if part.skipped:
            progress.say(f"{part.name}: {len(part.skipped)} unreadable images left out, e.g. {part.skipped[0]}")
    val_set: ImageSet | None = None
    if config.train.val_fraction > 0:
        kept, held_out = stratified_split(train_set.labels, config.train.val_fraction, SPLIT_SEED)
        if len(held_out):
            train_set, val_set = train_set.subset(kept), train_set.subset(held_out)
    if len(train_set) < 2:
        raise CrossresError(f"{config.data}: {len(train_set)} training image; training needs at least 2")

    teacher = _load_teacher(config, train_set) if isinstance(config, Distill) else None
    if teacher is not None:
        teacher = _placed(teacher, device, config.train.channels_last)
    hr_size = config.hr_size or (teacher.info.get("hr_size") if teacher else None) or _own_size(train_set)
    lr_size = config.lr_size if isinstance(config, Distill) else hr_size
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
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        **shared,
    )
    # decoding has measured them; of a larger set every header would have to be read
    few = train_set.enlarged(hr_size, images.fit) if train.pixels is not None else 0
    if few:
        progress.say(f"{config.data}: {few} of {len(train_set)} images are smaller than {hr_size} pixels: enlarged")
    if train.batch_size % fabric.world_size:
        raise CrossresError(
            f"train.batch_size {train.batch_size} does not divide over {fabric.world_size} processes; "
            f"choose a multiple of {fabric.world_size}"
        )
    # the degradation's draws on the judged images are the same for every training seed, as in `evaluate`
    judged = {**shared, "seed": SPLIT_SEED}
    val = Loader(val_set, **judged) if val_set is not None else None
    test = Loader(test_set, **judged)

    torch.manual_seed(config.train.seed)
    student = _build_student(config, train_set, hr_size, lr_size)
    student = _placed(student, device, config.train.channels_last)
    _check_batch(student, train)
    losses = build_losses(config.losses, teacher, student)
    for loss in losses.values():
        loss.to(device.torch).prepare(train.label)
    weights = {name: float(options.get("weight", 1.0)) for name, options in config.losses.items()}
    decaying = [name for name, options in config.losses.items() if options.get("decay")]
    gather = _Gather(fabric) if fabric.world_size > 1 else None
    distiller = Distiller(student, losses, weights, decaying, gather)

    cache = None
    if teacher is not None and isinstance(config, Distill) and config.teacher_cache and distiller.needs_teacher:
        cache_dir = Path(config.cache_dir) if config.cache_dir else Path(config.runs) / "cache"
        with _first_rank_first(fabric):
            cache = cached_outputs(
                teacher,
                train,
                cache_dir,
                flip=config.augment.flip,
                autocast=device.autocast,
                precision=device.precision,
                progress=progress.count,
            )
    facts: dict[str, Any] = {
        "task": "distill" if distilling else "teach",
        "hr_size": hr_size,
        "lr_size": lr_size,
        "teacher": None,
        "images": {"train": len(train_set), "val": len(val_set or ()), "test": len(test_set)},
        "data_sha256": {
            part: images.fingerprint
            for part, images in (("train", train_set), ("val", val_set), ("test", test_set))
            if images is not None
        },
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
    return Experiment(config, student, teacher, cache, distiller, train, val, test, facts)


def _load_teacher(config: Distill, images: ImageSet) -> Encoder | None:
    if config.teacher is None:
        return None
    if config.teacher_name is None:
        return load_teacher(config.teacher, images.classes)
    size = config.hr_size or _own_size(images)
    mean, std = _normalisation(config.teacher_name, images, size, config.images.fit)
    teacher = build_encoder(config.teacher_name, classes=images.classes, input_size=size, mean=mean, std=std)
    load_weights(teacher, config.teacher)
    return teacher.eval().requires_grad_(False)


def _normalisation(
    name: str, images: ImageSet, size: int, fit: FitTo
) -> tuple[list[float] | None, list[float] | None]:
    """Return the mean and deviation a network is built with: a timm model brings its own."""
    return (None, None) if name.startswith("timm:") else _channel_statistics(images, size, fit)


def _build_student(config: Teach, images: ImageSet, hr_size: int, lr_size: Size) -> Encoder:
    size = lr_size if isinstance(lr_size, int) else lr_size[1]
    model, weights = config.model, config.model.weights
    mean: list[float] | None
    std: list[float] | None
    start = from_pretrained(weights) if weights and Path(weights).is_dir() else None
    if start is not None:
        # a saved model brings its classes' order and its normalisation
        order_classes(start, images.classes, f"model.weights {weights}")
        mean, std = start.mean.flatten().tolist(), start.std.flatten().tolist()
    else:
        mean, std = _normalisation(model.name, images, hr_size, config.images.fit)
    student = build_encoder(
        model.name,
        classes=images.classes,
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


def _channel_statistics(images: ImageSet, size: int, fit: FitTo) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, from at most 4,000 images spread over the set."""
    positions = torch.linspace(0, len(images) - 1, min(4000, len(images))).long().tolist()
    pixels = torch.stack([images.sample(i, size, fit) for i in positions]).transpose(0, 1).flatten(1).double() / 255
    return pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-2).tolist()


def _own_size(images: ImageSet) -> int:
    """Return the images' common side, or 32 where they differ."""
    sides: set[int] = set()
    for i in range(0, len(images), max(1, len(images) // 64)):
        with suppress(CrossresError):  # a damaged image is reported when all are decoded
            sides.update(images.image(i).shape[:2])
    return sides.pop() if len(sides) == 1 else 32


def _placed(encoder: Encoder, device: Device, channels_last: bool) -> Encoder:
    encoder = encoder.to(device.torch)
    return encoder.to(memory_format=torch.channels_last) if channels_last else encoder


def _fabric(config: Teach, device: Device) -> Fabric:
    # its notes on precision and processes would stand between our own lines
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy: Any = "auto"
    if device.world_size > 1:
        # a loss that reads embeddings alone leaves the classifier without a gradient
        reads = {LOSSES[name].reads for name in config.losses}
        strategy = DDPStrategy(find_unused_parameters="logits" not in reads)
    return Fabric(
        accelerator=device.torch.type,
        devices=device.local_devices,
        num_nodes=device.nodes,
        strategy=strategy,
        precision="bf16-mixed" if device.precision == "bfloat16" else "32-true",
    )


class _Gather:
    """Joins a tensor's parts of all processes, in the order of their ranks, with gradient."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    def __call__(self, part: Tensor) -> Tensor:
        whole = self.fabric.all_gather(part, sync_grads=part.requires_grad)
        assert isinstance(whole, Tensor)
        return whole.flatten(0, 1)


@contextmanager
def _first_rank_first(fabric: Fabric) -> Iterator[None]:
    """Let the first process write the cache before the others read it."""
    if fabric.global_rank > 0:
        fabric.barrier()
    yield
    if fabric.global_rank == 0:
        fabric.barrier()


def _command(config: Teach) -> str:
    return "distill" if isinstance(config, Distill) else "teach"
