"""The experiment as typed dataclasses: every option, its default and its range."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from crossres.core.errors import CrossresError, demand_utf8, nearest
from crossres.data.degradation import Degradation, check_size
from crossres.losses import LOSSES
from crossres.losses.base import COMMON
from crossres.models.encoder import ONNX
from crossres.models.onnx_input import OnnxInput

#: More stages than a network has: how many maps there are is known when the networks are.
MANY_STAGES = 64
#: Options of an experiment that are paths, where it has them; a model's name and weights may be further ones.
PATHS = ("data", "unlabelled", "teacher", "pairs", "cache_dir", "runs")
#: Stands in a config for a teacher that was handed over in Python.
IN_MEMORY = "(in memory)"


@dataclass
class Images:
    """How the images are read.

    Args:
        image_column: column of the images in parquet files; found from the schema if left out.
        label_column: column of the labels in parquet files; found from the schema if left out.
        classes: names of the classes to use; all if left out. A teacher may know more than these.
        test_fraction: share of the images held out for testing where the source has no split of its own.
        fit: how an image that is not square is fitted: crop its centre, squash it, or pad it with black.
        corrupt: a file that cannot be read is refused (the run stops) or skipped with a count.
        download: fetch a torchvision data set that is not on disk.
        root: folder of the torchvision data sets.
        memory_mb: decoded images of a split above this many MiB are not kept in memory but decoded by worker
            processes; a teacher's feature maps above it are not cached but computed at every step.
        workers: processes that decode a set larger than memory_mb.
    """

    image_column: str | None = None
    label_column: str | None = None
    classes: list[str] | None = None
    test_fraction: float = 0.2
    fit: Literal["crop", "squash", "pad"] = "crop"
    corrupt: Literal["refuse", "skip"] = "refuse"
    download: bool = False
    root: str | None = None
    memory_mb: int = 4096
    workers: int = 2


@dataclass
class Augment:
    """What happens to both resolutions of a training image, at high resolution, before it is degraded.

    Args:
        shift: largest random shift in HR pixels, both ways (a random crop of the mirrored-out image).
        flip: mirror left to right with probability one half.
        zoom: largest random enlargement or reduction, as a share: 0.1 is 90 % to 110 %; 0 = off.
        colour: largest random change of brightness, contrast and saturation, each as a share; 0 = off.
    """

    shift: int = 4
    flip: bool = True
    zoom: float = 0.0
    colour: float = 0.0


@dataclass
class Model:
    """The network that is trained.

    Args:
        name: a native low-resolution backbone (resnet20, resnet8x4, wrn_16_2, vgg8, MobileNetV2,
            ShuffleNetV2, MobileFaceNet...), timm:NAME, package.module:callable, or onnx:FILE for a trainable copy of
            an ONNX file, which enlarges what it reads to the file's size, or resizes it to input_size at less cost.
        embedding_dim: width of the embedding; the backbone's own if left out.
        input_size: side the images are resized to before the network reads them; the size the network is
            trained at if left out, so nothing is resized.
        small_input: lower the first stride and drop the first pooling of a timm model, so that it reads small
            images; auto does so up to 64 pixels.
        pretrained: start a timm model from its published weights (downloads them).
        weights: start from these weights: a folder of crossres, a .safetensors or a .pt/.pth file.
    """

    name: str = "resnet8x4"
    embedding_dim: int | None = None
    input_size: int | None = None
    small_input: Literal["auto", "yes", "no"] = "auto"
    pretrained: bool = False
    weights: str | None = None


@dataclass
class Stages:
    """Which feature maps the losses on maps compare, as module paths inside the backbones.

    Args:
        teacher: such as [layer2, layer3]; the ends of the network's stages if left out.
        student: as many; of stages left out on both sides the last ones that both networks have are paired.
    """

    teacher: list[str] | None = None
    student: list[str] | None = None


@dataclass
class Train:
    """How it is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, over all devices together.
        images_per_class: draw classes, not images, and this many images of each, so that every class is met equally
            often and has company in its batch; 0 = off.
        optimizer: sgd (Nesterov momentum) or adamw.
        learning_rate: its peak.
        momentum: of sgd.
        weight_decay: on every weight but biases and normalisation.
        schedule: one_cycle (up for 30 %, then down to 0), cosine (down to 0) or step (x0.1 at milestones).
        milestones: of step, as fractions of the training.
        val_fraction: share of the training images held out to choose the best epoch; 0 keeps the last.
        ema: decay of an exponential moving average of the weights, evaluated in their place; 0 = off.
        precision: auto is bfloat16 autocast where the device computes it in hardware, else float32.
        channels_last: memory order of the images and weights.
        device: auto takes a GPU where there is one.
        devices: how many of them; under torchrun, those it started.
        seed: of the weights, the order, the augmentation and the degradation; the splits are the same for all.
        tensorboard: also write the metrics for TensorBoard.
    """

    epochs: int = 30
    batch_size: int = 128
    images_per_class: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    milestones: list[float] = field(default_factory=lambda: [0.625, 0.75, 0.875])
    val_fraction: float = 0.1
    ema: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    seed: int = 0
    tensorboard: bool = False


@dataclass
class Teach:
    """Train a network on high-resolution images.

    Args:
        data: a folder of class folders, a folder of parquet files, a torchvision name (cifar10, cifar100,
            svhn, stl10) or digits.
        name: the run is written to RUNS/NAME.
        runs: folder of the runs.
        hr_size: side of the high-resolution images; if left out the teacher's, else the images' shorter side
            where all share it, else 32.
        images: how the images are read.
        augment: what happens to a training image.
        model: the network.
        train: how it is trained.
        losses: the terms of the loss: a weight each (0 = off) and their options.
        trust_code: import the code that a saved model names where its network is a package.module:callable.
    """

    #: how it is asked for on the command line
    command: ClassVar[str] = "crossres teach"

    data: str = "digits"
    name: str = "teacher"
    runs: str = "runs"
    hr_size: int | None = None
    images: Images = field(default_factory=Images)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    losses: dict[str, dict[str, Any]] = field(default_factory=lambda: {"ce": {"weight": 1.0}})
    trust_code: bool = False

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.runs) / self.name


@dataclass
class Distill(Teach):
    """Train a low-resolution student, from a high-resolution teacher or from labels alone.

    Args:
        name: the run is written to RUNS/NAME.
        teacher: the trained teacher: a run's folder, a model's folder or a Hub name; an ONNX file; stored embeddings
            (.npz or .parquet with path and embedding, or .npy with the paths in a .txt); left out: no teacher.
        teacher_name: architecture of a teacher that is a plain checkpoint (.pt, .pth or .safetensors, its classes
            in the order of the data's), named as in model.name; left out for a saved model.
        onnx_input: what ONNX files (the teacher, or a student that starts from one) expect of their input.
        lr_size: side of the low-resolution images the student reads, or [smallest, largest].
        degradation: how a low-resolution image comes from a high-resolution one.
        teacher_cache: compute the teacher's outputs once per image and flip (the shift is then not in its
            view); false computes them live on exactly the student's view.
        teacher_views: own = the teacher answers to the student's view; mirrored = with the mean of its embeddings and
            of its logits for that view and its mirror image (maps are of the own view).
        cache_dir: folder of the teacher's outputs; RUNS/cache if left out.
        stages: the feature maps of losses that compare maps.
    """

    command: ClassVar[str] = "crossres distill"

    name: str = "student"
    teacher: str | None = None
    teacher_name: str | None = None
    onnx_input: OnnxInput = field(default_factory=OnnxInput)
    lr_size: int | tuple[int, int] = 8
    degradation: Degradation = field(default_factory=Degradation)
    teacher_cache: bool = True
    teacher_views: Literal["own", "mirrored"] = "own"
    cache_dir: str | None = None
    stages: Stages = field(default_factory=Stages)
    losses: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"ce": {"weight": 1.0}, "kd": {"weight": 1.0}, "crrcd": {"weight": 1.0}}
    )


@dataclass
class Faces(Distill):
    """Train a low-resolution face encoder, from a teacher, from people's names or from both.

    People are the classes. The validation images are those of people held out (train.val_fraction of them; with
    unlabelled images, all of the training split), the test images those of the test split's own people; both are
    judged at low resolution on both sides.

    Args:
        name: the run is written to RUNS/NAME.
        unlabelled: train on these images instead, whose people nobody names: a folder with images anywhere below
            it, or parquet files. The data's people then only choose the epoch and judge.
        pairs: list of pairs of the test images (LFW's text format or CSV); drawn like the validation's if left out.
        val_pairs: pairs drawn among the validation images, half of them of one person.
        losses: the terms of the loss: a weight each (0 = off) and their options.
    """

    command: ClassVar[str] = "crossres faces distill"

    name: str = "faces"
    unlabelled: str | None = None
    pairs: str | None = None
    val_pairs: int = 6000
    losses: dict[str, dict[str, Any]] = field(
        # the one without names whose students can search the teacher's gallery
        default_factory=lambda: {"cosine": {"weight": 8.0}}
    )


def to_dict(config: Teach) -> dict[str, Any]:
    """Return plain nested dicts and lists, as they go into YAML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, Path):
            return str(value)
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    result: dict[str, Any] = plain(asdict(config))
    return result


def to_yaml(config: Teach) -> str:
    """Return YAML that reproduces the run."""
    text: str = yaml.safe_dump(to_dict(config), sort_keys=False)
    return text


def portable(config: Teach) -> dict[str, Any]:
    """Return the config without the paths of this machine, as it may be published."""
    tree = to_dict(config)
    for key in PATHS:
        if isinstance(tree.get(key), str):
            tree[key] = base_name(tree[key])
    tree["model"]["name"] = network_name(tree["model"]["name"])
    if tree["model"]["weights"]:
        tree["model"]["weights"] = base_name(tree["model"]["weights"])
    if tree["images"]["root"]:
        tree["images"]["root"] = "ROOT"
    return tree


def network_name(name: str) -> str:
    """Return a network's name without the folders of an ONNX file."""
    return ONNX + base_name(name.removeprefix(ONNX)) if name.startswith(ONNX) else name


def base_name(path: str) -> str:
    """Return the last part of a path, also where it is written ``.`` or ends in a slash."""
    return os.path.basename(os.path.abspath(path))


def sha256(config: Teach) -> str:
    """Return the hash of every option that decides the numbers, not of names and folders.

    What files hold is no option: ``result.json`` has the digests of images, teacher and start weights beside it.
    """
    tree = portable(config)
    for key in ("name", "runs", "cache_dir"):
        tree.pop(key, None)
    return hashlib.sha256(yaml.safe_dump(tree).encode()).hexdigest()


def check(config: Teach) -> None:
    """Refuse values that no run can mean.

    Raises:
        CrossresError: naming the option and its range.
    """
    ranges: list[tuple[str, float | None, float, float]] = [
        ("train.epochs", config.train.epochs, 1, 1e6),
        ("train.batch_size", config.train.batch_size, 1, 1e7),
        ("train.images_per_class", config.train.images_per_class, 0, config.train.batch_size),
        ("train.learning_rate", config.train.learning_rate, 1e-12, 1e6),
        ("train.momentum", config.train.momentum, 0, 0.9999),
        ("train.weight_decay", config.train.weight_decay, 0, 1e3),
        ("train.val_fraction", config.train.val_fraction, 0, 0.9),
        ("train.ema", config.train.ema, 0, 0.99999),
        ("train.devices", config.train.devices, 1, 1e5),
        ("images.test_fraction", config.images.test_fraction, 0.001, 0.9),
        ("images.memory_mb", config.images.memory_mb, 0, 1e9),
        ("images.workers", config.images.workers, 0, 1e4),
        ("augment.shift", config.augment.shift, 0, 1e4),
        ("augment.zoom", config.augment.zoom, 0, 0.9),
        ("augment.colour", config.augment.colour, 0, 1),
        ("train.seed", config.train.seed, 0, 1e9),
        ("hr_size", config.hr_size, 1, 1e5),
        ("model.input_size", config.model.input_size, 1, 1e5),
        ("model.embedding_dim", config.model.embedding_dim, 1, 1e6),
        *(("train.milestones", fraction, 0, 1) for fraction in config.train.milestones),
    ]
    paths = {key: getattr(config, key, None) for key in (*PATHS, "name")} | {"model.weights": config.model.weights}
    if isinstance(config, Distill):
        check_size(config.lr_size, config.hr_size)
    if isinstance(config, Faces):
        ranges += [
            ("val_pairs", config.val_pairs, 20, 1e7),
            # people held out choose the threshold that the test is judged at
            ("train.val_fraction", config.train.val_fraction, 0.001, 0.9),
        ]
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise CrossresError(f"{name}: {value:g} is outside {low:g}..{high:g}")
    for key, path in paths.items():
        demand_utf8(key, path or "")
    if not config.losses:
        raise CrossresError("losses: every weight is 0; give at least one term a weight, e.g. losses.ce.weight 1")
    for name, options in config.losses.items():
        if name not in LOSSES:
            raise CrossresError(f"unknown loss '{name}'{nearest(name, LOSSES)}")
        if not 0 <= options.get("weight", 1) < math.inf:
            raise CrossresError(f"losses.{name}.weight: {options['weight']} is negative or no number")
        if not 0 <= options.get("warm_up", 0) <= 1:
            raise CrossresError(f"losses.{name}.warm_up: {options['warm_up']:g} is outside 0..1")
        try:
            trial: Any = [(1, 1, 1)] * MANY_STAGES if LOSSES[name].reads == "features" else 1
            LOSSES[name](trial, trial, **{k: v for k, v in options.items() if k not in COMMON})
        except (ValueError, TypeError) as error:
            raise CrossresError(f"losses.{name}: {error}") from None
        if isinstance(config, Distill) and config.teacher is None and LOSSES[name].needs_teacher:
            raise CrossresError(
                f"losses.{name} needs a teacher; give --teacher, or losses.{name}.weight 0 to learn from labels alone"
            )
    if isinstance(config, Distill) and config.teacher_name and config.teacher in (None, IN_MEMORY):
        raise CrossresError("teacher_name names the architecture of a plain checkpoint: give its file as teacher")
    if config.name in ("", ".", "..") or "/" in config.name:
        raise CrossresError(f"name: '{config.name}' is not a folder's name; the run is written to RUNS/NAME")
