"""The experiment as typed dataclasses; YAML in and out; unknown keys refused by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from crossres.degrade import Degradation
from crossres.errors import CrossresError, nearest
from crossres.losses import LOSSES


@dataclass
class Images:
    """How the images are read.

    Args:
        image_column: column of the images in parquet files; found from the schema if left out.
        label_column: column of the labels in parquet files; found from the schema if left out.
        test_fraction: share of the images held out for testing where the source has no split of its own.
        fit: how an image that is not square is fitted: crop its centre, squash it, or pad it with black.
        corrupt: a file that cannot be read is refused (the run stops) or skipped with a count.
        download: fetch a torchvision data set that is not on disk.
        root: folder of the torchvision data sets.
        memory_mb: decoded images above this are not kept in memory but decoded by worker processes.
        workers: processes that decode a set larger than memory_mb.
    """

    image_column: str | None = None
    label_column: str | None = None
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
    """

    shift: int = 4
    flip: bool = True


@dataclass
class Model:
    """The network that is trained.

    Args:
        name: a native low-resolution backbone (resnet20, resnet8x4, wrn_16_2, vgg8, MobileNetV2,
            ShuffleNetV2...), timm:NAME, or package.module:callable.
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
class Train:
    """How it is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, over all devices together.
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
        seed: of the weights, the order, the augmentation, the degradation and the splits.
        tensorboard: also write the metrics for TensorBoard.
    """

    epochs: int = 30
    batch_size: int = 128
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
        hr_size: side of the high-resolution images; the images' own size if left out.
        images: how the images are read.
        augment: what happens to a training image.
        model: the network.
        train: how it is trained.
        losses: the terms of the loss: a weight each (0 = off) and their options.
    """

    data: str = "digits"
    name: str = "teacher"
    runs: str = "runs"
    hr_size: int | None = None
    images: Images = field(default_factory=Images)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    losses: dict[str, dict[str, Any]] = field(default_factory=lambda: {"ce": {"weight": 1.0}})

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.runs) / self.name


@dataclass
class Distill(Teach):
    """Train a low-resolution student, from a high-resolution teacher or from labels alone.

    Args:
        name: the run is written to RUNS/NAME.
        teacher: the trained teacher: a run's folder, a model's folder or a Hub name; left out: no teacher.
        lr_size: side of the low-resolution images the student reads, or [smallest, largest].
        degradation: how a low-resolution image comes from a high-resolution one.
        teacher_cache: compute the teacher's outputs once per image and flip (the shift is then not in its
            view); false computes them live on exactly the student's view.
        cache_dir: folder of the teacher's outputs; RUNS/cache if left out.
    """

    name: str = "student"
    teacher: str | None = None
    lr_size: int | tuple[int, int] = 8
    degradation: Degradation = field(default_factory=Degradation)
    teacher_cache: bool = True
    cache_dir: str | None = None
    losses: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"ce": {"weight": 1.0}, "kd": {"weight": 1.0}, "crrcd": {"weight": 1.0}}
    )


Config = TypeVar("Config", bound=Teach)


class _Parser(ArgumentParser):
    """jsonargparse with errors of one line that name the key and the nearest right one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise CrossresError(self._explain(str(ex or message)))

    def _explain(self, message: str) -> str:
        known = [action.dest for action in self._actions if action.dest not in ("help", "print_config")]
        if found := re.search(r"unrecognized arguments: (\S+)", message):
            word = found[1].lstrip("-").split("=")[0]
            kind = "option --" if found[1].startswith("-") else "argument "
            return f"unknown {kind}{word}{nearest(word, known)}"
        if found := re.search(r"(?:Group '([^']*)' does not accept option|Option) '([^']*)'", message):
            key = f"{found[1]}.{found[2]}" if found[1] else found[2]
            return f"unknown key '{key}'{nearest(key, known)}"
        if found := re.search(r'Parser key "([^"]*)":\s*(.*)', message, re.S):
            detail = found[2]
            value = re.findall(r"(?:Got value|Given value): (.*)", detail)
            action = next((a for a in self._actions if a.dest == found[1]), None)
            hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
            if value and hint:
                name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
                return f"{found[1]}: expected {name}, got {value[-1]!r}"
            return f"{found[1]}: {' '.join(detail.split())}"
        return " ".join(message.split())


def build_parser(kind: type[Teach], prog: str = "crossres") -> ArgumentParser:
    """Return the parser of every option of an experiment, typed, with its defaults.

    A method's options are its class's keyword arguments, so a new method needs no line here.
    """
    parser = _Parser(prog=prog, exit_on_error=False, description=(kind.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_class_arguments(kind, skip={"losses"})
    defaults = kind().losses
    for name, loss in LOSSES.items():
        if loss.needs_teacher and not issubclass(kind, Distill):
            continue
        parser.add_class_arguments(loss, f"losses.{name}", skip={"teacher_dim", "student_dim"})
        parser.add_argument(
            f"--losses.{name}.weight",
            type=float,
            default=defaults.get(name, {}).get("weight", 0.0),
            help="factor of this term; 0 = off",
        )
    return parser


def from_namespace(kind: type[Config], parser: ArgumentParser, parsed: Namespace) -> Config:
    """Return the experiment that a parser has read.

    Raises:
        CrossresError: an option that contradicts another, by name.
    """
    tree = parsed.as_dict()
    values = {f.name: tree[f.name] for f in fields(kind) if f.name != "losses"}
    for f in fields(kind):
        group = _GROUPS.get(f.name)
        if group is not None:
            values[f.name] = group(**values[f.name])
    losses = {}
    for name, options in tree["losses"].items():
        if options["weight"]:
            losses[name] = options
            continue
        for key, value in options.items():
            if value != parser.get_default(f"losses.{name}.{key}") and key != "weight":
                raise CrossresError(
                    f"losses.{name}.{key} is set but losses.{name}.weight is 0; give losses.{name}.weight a value"
                )
    config = kind(**values, losses=losses)
    check(config)
    return config


_GROUPS: dict[str, Any] = {
    "images": Images,
    "augment": Augment,
    "model": Model,
    "train": Train,
    "degradation": Degradation,
}


def parse(kind: type[Config], arguments: Sequence[str], prog: str = "crossres") -> Config:
    """Read an experiment from the command line's words."""
    parser = build_parser(kind, prog)
    return from_namespace(kind, parser, parser.parse_args(list(arguments)))


def from_dict(kind: type[Config], tree: dict[str, Any]) -> Config:
    """Read an experiment from a nested dict, as YAML gives it; every key and type is checked."""
    parser = build_parser(kind)
    return from_namespace(kind, parser, parser.parse_object(tree))


def from_yaml(kind: type[Config], path: str | Path) -> Config:
    """Read an experiment from a YAML file.

    Raises:
        CrossresError: no such file, no YAML, an unknown key or a wrong type.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise CrossresError(f"no such file: {path}") from None
    except yaml.YAMLError as error:
        raise CrossresError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return from_dict(kind, tree or {})


def of_run(kind: type[Config], folder: str | Path) -> Config:
    """Read the experiment of a run from its folder, wherever that has been moved to."""
    folder = Path(folder)
    if not (folder / "config.yaml").exists():
        raise CrossresError(f"{folder} holds no run (no config.yaml); give the folder RUNS/NAME")
    config = from_yaml(kind, folder / "config.yaml")
    return replace(config, runs=str(folder.parent), name=folder.resolve().name)


def to_dict(config: Teach) -> dict[str, Any]:
    """Return plain nested dicts and lists, as they go into YAML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    result: dict[str, Any] = plain(asdict(config))
    return result


def to_yaml(config: Teach) -> str:
    """Return YAML that reproduces the run."""
    text: str = yaml.safe_dump(to_dict(config), sort_keys=False)
    return text


def sha256(config: Teach) -> str:
    """Return the hash of everything that decides the numbers (not of names and folders)."""
    tree = to_dict(config)
    for key in ("name", "runs", "cache_dir"):
        tree.pop(key, None)
    return hashlib.sha256(yaml.safe_dump(tree).encode()).hexdigest()


def check(config: Teach) -> None:
    """Refuse values that no run can mean.

    Raises:
        CrossresError: naming the option and its range.
    """
    ranges: list[tuple[str, float, float, float]] = [
        ("train.epochs", config.train.epochs, 1, 1e6),
        ("train.batch_size", config.train.batch_size, 1, 1e7),
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
    ]
    if config.hr_size is not None:
        ranges.append(("hr_size", config.hr_size, 1, 1e5))
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise CrossresError(f"{name}: {value:g} is outside {low:g}..{high:g}")
    if not config.losses:
        raise CrossresError("losses: every weight is 0; give at least one term a weight, e.g. losses.ce.weight 1")
    for name, options in config.losses.items():
        if name not in LOSSES:
            raise CrossresError(f"unknown loss '{name}'{nearest(name, LOSSES)}")
        if options.get("weight", 1) < 0:
            raise CrossresError(f"losses.{name}.weight: {options['weight']} is negative")
        if isinstance(config, Distill) and config.teacher is None and LOSSES[name].needs_teacher:
            raise CrossresError(
                f"losses.{name} needs a teacher; give --teacher, or losses.{name}.weight 0 to learn from labels alone"
            )
    if not config.name or "/" in config.name:
        raise CrossresError(f"name: '{config.name}' is not a folder's name; the run is written to RUNS/NAME")
