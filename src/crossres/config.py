"""The experiment as typed dataclasses; YAML in and out; unknown keys refused by name."""

from __future__ import annotations

import argparse
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from crossres.degrade import Degradation, check_size
from crossres.errors import CrossresError, nearest
from crossres.losses import LOSSES, Loss


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
        known = [a.dest for a in self._actions if a.dest not in ("help", "print_config", "print_shtab")]
        if found := re.search(r"unrecognized arguments: (\S+)", message):
            word = found[1].split("=")[0]
            if not word.startswith("-"):
                return f"unknown argument {word}; an option is written --NAME VALUE, see {self.prog} --help"
            return f"unknown option {word}{self._nearest(word.lstrip('-'), known)}"
        if found := re.search(r"(?:Group '([^']*)' does not accept option|Option) '([^']*)'", message):
            key = f"{found[1]}.{found[2]}" if found[1] else found[2]
            return f"unknown key '{key}'{self._nearest(key, known)}"
        if found := re.search(r'Parser key "([^"]*)":\s*(.*)', message, re.S):
            detail = found[2]
            value = re.findall(r"(?:Got value|Given value): (.*)", detail)
            action = next((a for a in self._actions if a.dest == found[1]), None)
            hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
            if value and hint:
                if get_origin(hint) is Literal:
                    return f"{found[1]}: expected {' or '.join(get_args(hint))}, got {value[-1]!r}"
                name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
                return f"{found[1]}: expected {name}, got {value[-1]!r}"
            return f"{found[1]}: {' '.join(detail.split())}"
        return " ".join(message.split())

    def _nearest(self, key: str, known: list[str]) -> str:
        near = nearest(key, known)
        # the list of all keys would be a page
        return near if near.startswith("; did you mean") else f"; {self.prog} --help lists them all"


def build_parser(kind: type[Teach], prog: str | None = None) -> ArgumentParser:
    """Return the parser of every option of an experiment, typed, with its defaults.

    A method's options are its class's keyword arguments, so a new method needs no line here.
    """
    about = (kind.__doc__ or "").split("\n")[0]
    prog = prog or f"crossres {kind.__name__.lower()}"
    parser = _Parser(prog=prog, exit_on_error=False, allow_abbrev=False, description=about)
    parser.add_class_arguments(kind, skip={"losses"})
    defaults = kind().losses
    for name, loss in _losses(kind).items():
        parser.add_class_arguments(loss, f"losses.{name}", skip={"teacher_dim", "student_dim"})
        parser.add_argument(
            f"--losses.{name}.weight",
            type=float,
            default=defaults.get(name, {}).get("weight", 0.0),
            help="factor of this term; 0 = off",
        )
    return parser


def _losses(kind: type[Teach]) -> dict[str, type[Loss]]:
    """Return the losses an experiment can use: a teacher has no teacher."""
    return {name: loss for name, loss in LOSSES.items() if issubclass(kind, Distill) or not loss.needs_teacher}


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
            values[f.name] = group(**_options(f.name, values[f.name]))
    losses = {}
    for name, options in _options("losses", tree["losses"]).items():
        if _options(f"losses.{name}", options)["weight"]:
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


def _options(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CrossresError(f"{key}: expected its options as 'key: value', got {value!r}")
    return value


_GROUPS: dict[str, Any] = {
    "images": Images,
    "augment": Augment,
    "model": Model,
    "train": Train,
    "degradation": Degradation,
}


@dataclass
class Request:
    """What a command line asks for beside the experiment itself."""

    config: Any
    resume: bool = False
    overwrite: bool = False
    print_config: bool = False


def parse(kind: type[Config], words: Sequence[str], prog: str = "crossres") -> Request:
    """Read an experiment from the command line's words; options override the file given by ``--config``.

    Raises:
        CrossresError: an unknown option or key, a wrong type, options that contradict each other.
    """
    parser = build_parser(kind, prog)
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", nargs="?")
    path = files.parse_known_args(list(words))[0].config
    base = parser.parse_object(_explicit(kind, _load(path))) if path else None
    parser.add_argument("--config", type=str, help="YAML file of any of these options; options override it")
    parser.add_argument("--print_config", action="store_true", help="print the YAML of this run and exit")
    parser.add_argument("--resume", type=str, metavar="RUN", help="folder of a run to go on with; no other options")
    parser.add_argument("--overwrite", action="store_true", help="replace the run of this name")
    # jsonargparse gives this flag a meaning of its own
    flags = [word for word in words if word != "--print_config"]
    parsed = parser.parse_args(flags, namespace=base)
    asked = {key: parsed.pop(key) for key in ("config", "resume", "overwrite", "print_config")}
    asked["print_config"] = len(flags) < len(words)
    if asked["resume"]:
        if others := [w for w in words if w.startswith("-") and w.split("=")[0] != "--resume"]:
            raise CrossresError(f"--resume takes every option from the run; leave {others[0]} out")
        return Request(of_run(kind, asked["resume"]), resume=True)
    config = from_namespace(kind, parser, parsed)
    return Request(config, overwrite=asked["overwrite"], print_config=asked["print_config"])


def _explicit(kind: type[Teach], tree: dict[str, Any]) -> dict[str, Any]:
    """Where losses are named, those not named are off and those without a weight have weight 1."""
    named = tree.get("losses")
    if not isinstance(named, dict):
        return tree
    off: dict[str, Any] = {name: {"weight": 0.0} for name in _losses(kind)}
    given = {
        name: {"weight": 1.0, **(options or {})} if isinstance(options, (dict, NoneType)) else options
        for name, options in named.items()
    }
    return {**tree, "losses": {**off, **given}}


def from_dict(kind: type[Config], tree: dict[str, Any]) -> Config:
    """Read an experiment from a nested dict, as YAML gives it; every key and type is checked."""
    parser = build_parser(kind)
    return from_namespace(kind, parser, parser.parse_object(_explicit(kind, tree)))


def from_yaml(kind: type[Config], path: str | Path) -> Config:
    """Read an experiment from a YAML file.

    Raises:
        CrossresError: no such file, no YAML, an unknown key or a wrong type.
    """
    return from_dict(kind, _load(path))


def _load(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise CrossresError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CrossresError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise CrossresError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree or {}, dict):
        raise CrossresError(f"{path}: holds no options; write them as 'key: value'")
    return tree or {}


def of_run(kind: type[Config], folder: str | Path) -> Config:
    """Read the experiment of a run from its folder, wherever that has been moved to."""
    folder = Path(folder)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not (folder / "config.yaml").exists():
        raise CrossresError(f"{folder} holds no run (no config.yaml); give the folder RUNS/NAME")
    tree = _load(folder / "config.yaml")
    made = Distill if "lr_size" in tree else Teach
    if made is not kind:
        raise CrossresError(f"{folder} is a run of crossres {made.__name__.lower()}; go on with that command")
    return replace(from_dict(kind, tree), runs=str(folder.parent), name=folder.name)


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


def portable(config: Teach) -> dict[str, Any]:
    """Return the config without the paths of this machine, as it may be published."""
    tree = to_dict(config)
    for key in ("data", "teacher", "cache_dir", "runs"):
        if isinstance(tree.get(key), str):
            tree[key] = tree[key].rstrip("/").rsplit("/", 1)[-1]
    if tree["images"]["root"]:
        tree["images"]["root"] = "ROOT"
    return tree


def sha256(config: Teach) -> str:
    """Return the hash of everything that decides the numbers (not of names and folders)."""
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
        ("train.seed", config.train.seed, 0, 1e9),
        ("hr_size", config.hr_size, 1, 1e5),
        ("model.input_size", config.model.input_size, 1, 1e5),
        ("model.embedding_dim", config.model.embedding_dim, 1, 1e6),
        *(("train.milestones", fraction, 0, 1) for fraction in config.train.milestones),
    ]
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise CrossresError(f"{name}: {value:g} is outside {low:g}..{high:g}")
    if isinstance(config, Distill):
        check_size(config.lr_size, config.hr_size)
    if not config.losses:
        raise CrossresError("losses: every weight is 0; give at least one term a weight, e.g. losses.ce.weight 1")
    for name, options in config.losses.items():
        if name not in LOSSES:
            raise CrossresError(f"unknown loss '{name}'{nearest(name, LOSSES)}")
        if not 0 <= options.get("weight", 1) < math.inf:
            raise CrossresError(f"losses.{name}.weight: {options['weight']} is negative or no number")
        if isinstance(config, Distill) and config.teacher is None and LOSSES[name].needs_teacher:
            raise CrossresError(
                f"losses.{name} needs a teacher; give --teacher, or losses.{name}.weight 0 to learn from labels alone"
            )
    if config.name in ("", ".", "..") or "/" in config.name:
        raise CrossresError(f"name: '{config.name}' is not a folder's name; the run is written to RUNS/NAME")
