"""Experiments from the command line's words, YAML and dicts; unknown keys and wrong types refused by name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from crossres.config.options import Augment, Distill, Faces, Images, Model, Stages, Teach, Train, check
from crossres.core.errors import CrossresError, nearest
from crossres.data.degradation import Degradation
from crossres.losses import LOSSES, Loss
from crossres.models.onnx_input import OnnxInput

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
        name = key.removeprefix("losses.").split(".")[0]
        if key.startswith("losses.") and name in LOSSES and f"losses.{name}.weight" not in known:
            return f"; losses.{name} needs a teacher, which crossres distill has"
        # an option, no group; within the key's own group where there is one
        options = [k for k in known if not any(other.startswith(f"{k}.") for other in known)]
        group = key.rpartition(".")[0]
        near = nearest(key, [k for k in options if k.startswith(f"{group}.")] or options)
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
        own = {key: value for key, value in defaults.get(name, {}).items() if key != "weight"}
        parser.set_defaults({f"losses.{name}.{key}": value for key, value in own.items()})
        parser.add_argument(
            f"--losses.{name}.weight",
            type=float,
            default=defaults.get(name, {}).get("weight", 0.0),
            help="factor of this term; 0 = off",
        )
        parser.add_argument(
            f"--losses.{name}.decay", type=bool, default=False, help="let the weight fall linearly to 0 over the run"
        )
        parser.add_argument(
            f"--losses.{name}.warm_up",
            type=float,
            default=0.0,
            help="share of the run, from its start, in which the weight rises linearly from 0",
        )
    return parser


def _losses(kind: type[Teach]) -> dict[str, type[Loss]]:
    """Return the losses an experiment can use: a teacher has no teacher."""
    return {name: loss for name, loss in LOSSES.items() if issubclass(kind, Distill) or not loss.needs_teacher}


def from_namespace(
    kind: type[Config], parser: ArgumentParser, parsed: Namespace, base: Namespace | None = None
) -> Config:
    """Return the experiment that a parser has read, over that of the file ``base`` where there was one.

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
            # what a file says of a loss that the command line turns off is dropped with it
            known = [parser.get_default(f"losses.{name}.{key}"), *([base[f"losses.{name}.{key}"]] if base else [])]
            if value not in known and key != "weight":
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
    "stages": Stages,
    "onnx_input": OnnxInput,
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
    parsed = parser.parse_args(flags, namespace=deepcopy(base))
    asked = {key: parsed.pop(key) for key in ("config", "resume", "overwrite", "print_config")}
    asked["print_config"] = len(flags) < len(words)
    if asked["resume"]:
        if others := [w for w in words if w.startswith("-") and w.split("=")[0] != "--resume"]:
            raise CrossresError(f"--resume takes every option from the run; leave {others[0]} out")
        return Request(of_run(kind, asked["resume"]), resume=True)
    config = from_namespace(kind, parser, parsed, base)
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
    parser: ArgumentParser = _reading_parser(kind, tuple(LOSSES))  # type: ignore[arg-type]
    return from_namespace(kind, parser, parser.parse_object(_explicit(kind, tree)))


@cache
def _reading_parser(kind: type[Teach], losses: tuple[str, ...]) -> ArgumentParser:  # noqa: ARG001
    """Return the parser of dicts; it takes longer to build than to use, and a grid reads hundreds."""
    return build_parser(kind)


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
    """Read the experiment of a run from its folder, wherever that has been moved to.

    Raises:
        CrossresError: no run there, or one of another command.
    """
    config = read_run(folder)
    if type(config) is not kind:
        raise CrossresError(f"{folder} is a run of {config.command}; go on with that command")
    return config


def read_run(folder: str | Path) -> Any:
    """Read the experiment of any run, a `Teach`, `Distill` or `Faces`, from its folder.

    Raises:
        CrossresError: no run there.
    """
    folder = Path(folder)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not (folder / "config.yaml").exists():
        raise CrossresError(f"{folder} holds no run (no config.yaml); give the folder RUNS/NAME")
    tree = _load(folder / "config.yaml")
    made: type[Teach] = Faces if "val_pairs" in tree else Distill if "lr_size" in tree else Teach
    return replace(from_dict(made, tree), runs=str(folder.parent), name=folder.name)
