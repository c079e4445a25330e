"""Options from YAML, dicts and words: unknown names and wrong types are refused by name, defaults filled in."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from crossres.config.check import check
from crossres.config.experiment import Distill, Experiment, Faces, Teach
from crossres.config.methods import Losses
from crossres.config.old import upgraded
from crossres.config.record import to_dict
from crossres.config.schema import TERM, Option, options_of, parts
from crossres.config.yaml_file import load_yaml
from crossres.core.errors import CrossresError, nearest
from crossres.losses import LOSSES
from crossres.losses.options import loss_options, needs_teacher

Kind = TypeVar("Kind")
#: Options by their full names, as in ``train.epochs``.
Flat = dict[str, Any]


def read(
    kind: type[Kind], tree: Mapping[str, Any], words: Mapping[str, str] | None = None, file: str | Path = ""
) -> Kind:
    """Return the options of a command: those of a nested dict, as YAML gives it, and over them those in words.

    Args:
        kind: dataclass of the command.
        tree: nested; where it names losses and no method, these are all there are.
        words: by full name, as in ``train.epochs``; they change single options, of losses too.
        file: where the tree comes from, for errors.

    Raises:
        CrossresError: an unknown option, a wrong type, a missing one, or options that contradict each other, by name.
    """
    try:
        given: dict[str, Any] = {}
        for name, value in _flattened(kind, upgraded(tree), ""):
            if name in given:
                raise CrossresError(f"{name} stands twice, also in parts; keep one of them")
            given[name] = value
    except CrossresError as error:
        raise CrossresError(f"{file}: {error}" if file else str(error)) from None
    over = {name: typed(option(kind, name), text, name) for name, text in (words or {}).items()}
    plain = {name: value for name, value in (given | over).items() if not name.startswith("losses.")}
    options = _built(kind, plain, "")
    if isinstance(options, Experiment):
        if "method" in over:  # it replaces what the file says of losses
            given = {name: value for name, value in given.items() if not name.startswith("losses.")}
            tree = {}
        options.losses = _losses(options, given, over, named_all=tree.get("losses") is not None)
        options.method = None
        check(options)
    return options


def from_config(config: Experiment) -> Any:
    """Return a config built in Python as one read from a file: names and types checked, losses complete."""
    return read(type(config), to_dict(config))


def option(kind: type[Any], name: str) -> Option:
    """Return an option of a command by its full name.

    Raises:
        CrossresError: there is none of this name; the nearest one is named.
    """
    known = options_of(kind)
    if name in known:
        return known[name]
    if name.startswith("losses.") and issubclass(kind, Experiment):
        return _loss_option(kind, name)
    near = _near(name, known)
    if not near.startswith("; did you mean") and hasattr(kind, "example"):
        near = f"; {kind.command} --help all lists them"  # the list of all names would be a page
    raise CrossresError(f"unknown option '{name}'{near}")


#: What other trainers call an option.
ALIASES = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "num_workers": "workers", "crop": "fit"}


def _near(name: str, known: Collection[str]) -> str:
    """Return a hint at the option that an unknown one means: of another group, of another trainer's name, or near."""
    group, _, own = name.rpartition(".")
    inside = [other for other in known if other.startswith(f"{group}.")] if group else list(known)
    same = [other for other in known if other.rpartition(".")[2] in (own, ALIASES.get(own))]
    if not inside:  # the group is mistyped
        return nearest(name, [other for other in same if "." in other] or known)
    if same:
        return f"; did you mean '{next((other for other in same if other in inside), same[0])}'?"
    # the group's name is alike in all of them, and would make any two near
    of_own = {other.rpartition(".")[2]: other for other in reversed(inside)}
    close = get_close_matches(own, of_own, n=1, cutoff=0.6)
    return f"; did you mean '{of_own[close[0]]}'?" if close else nearest(name, inside) if not group else ""


def _loss_option(kind: type[Experiment], name: str) -> Option:
    _, loss, *rest = name.split(".", 2)
    if loss not in LOSSES:
        raise CrossresError(f"unknown loss '{loss}'{nearest(loss, LOSSES)}")
    if not issubclass(kind, Distill | Faces) and needs_teacher(loss):
        raise CrossresError(f"losses.{loss} needs a teacher; use crossres distill")
    known = {each.name: each for each in options_of_loss(loss)}
    own = rest[0] if rest else ""
    if own not in known:
        raise CrossresError(f"unknown option '{name}'{nearest(own, known)}")
    return known[own]


def options_of_loss(name: str) -> list[Option]:
    """Return the options of a loss, those that every loss has first."""
    common = [Option(term, *facts) for term, facts in TERM.items()]
    return common + [Option(each.name, each.type, each.default, each.help) for each in loss_options(name)]


def _flattened(kind: type[Any], tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the options of a nested dict with their full names, checked."""
    known = options_of(kind)
    for key, value in tree.items():
        name = f"{prefix}{key}"
        losses = issubclass(kind, Experiment) and (name == "losses" or name.startswith("losses."))
        if value is None and (losses or name == "method"):
            continue
        if name in known or (losses and name.count(".") == 2):
            yield name, typed(option(kind, name), value, name)
        elif losses or any(other.startswith(f"{name}.") for other in known):
            if value is None:  # a group that is left out
                continue
            if not isinstance(value, Mapping):
                raise CrossresError(f"{name}: expected its options as 'key: value', got {value!r}")
            if losses and name != "losses" and not value:
                yield f"{name}.weight", typed(option(kind, f"{name}.weight"), 1.0)
            yield from _flattened(kind, value, f"{name}.")
        else:
            option(kind, name)


@cache
def _parser(hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def typed(option: Option, value: Any, name: str | None = None) -> Any:
    """Return a value of an option's type, from Python, YAML or a word of the command line.

    Raises:
        CrossresError: it is not of that type.
    """
    given, kinds = value, parts(option.type)
    if get_origin(option.type) is dict and isinstance(value, Mapping):
        return dict(value)  # as it is: what it holds is read where it is used
    if isinstance(value, str) and option.is_list and value[:1] != "[" and not (value == "null" and NoneType in kinds):
        # a,b is short for [a,b], and a alone for [a] where nothing but a list is meant
        only_lists = all(get_origin(each) is list or each is NoneType for each in kinds)
        given = [each.strip() for each in value.split(",")] if only_lists or "," in value else value
    if isinstance(given, list) and any(_is_list_of(each, given) for each in kinds):
        return list(given)  # thousands of class names would take the parser a minute
    try:
        if value is None and NoneType not in kinds and Any not in kinds:
            raise TypeError
        return _parser(option.type).parse_object({"value": given}).value
    except (ArgumentError, TypeError):
        pass
    expected = " or ".join(map(str, option.choices)) if option.choices else _name(option.type)
    raise CrossresError(f"{name or option.name}: expected {expected}, got {value!r}")


def _is_list_of(hint: Any, values: list[Any]) -> bool:
    """Whether values are of a plain list's type already."""
    [inside] = get_args(hint) if get_origin(hint) is list else [None]
    return inside in (str, int, float) and all(type(value) is inside for value in values)


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    if get_origin(hint) is list:
        return f"a list such as [a, b] of {_name(get_args(hint)[0])}"
    if get_origin(hint) is tuple:
        return f"[{', '.join(_name(each) for each in get_args(hint))}]"
    if get_origin(hint) is dict:
        return "a mapping of NAME: VALUE"
    return " or ".join(names.get(each) or _name(each) for each in parts(hint))


def _built(kind: type[Kind], given: Flat, prefix: str) -> Kind:
    """Return a dataclass from options by full name; a group that may be None is made if an option of it is given."""
    hints = get_type_hints(kind)
    values = {}
    missing = []
    for field in fields(cast(Any, kind)):
        name = f"{prefix}{field.name}"
        group = next((part for part in parts(hints[field.name]) if is_dataclass(part)), None)
        if group is not None:
            inside = any(key.startswith(f"{name}.") for key in given)
            if inside or NoneType not in parts(hints[field.name]):
                base = field.default_factory() if field.default_factory is not MISSING else cast(Any, group)()
                changes = {k.removeprefix(f"{name}."): v for k, v in given.items() if k.startswith(f"{name}.")}
                values[field.name] = replace(base, **changes)
        elif name in given:
            values[field.name] = given[name]
        elif field.default is MISSING and field.default_factory is MISSING:
            missing.append(field.name.upper())
    if missing:
        command = getattr(kind, "command", kind.__name__)
        verb = "is" if len(missing) == 1 else "are"
        raise CrossresError(f"{' and '.join(missing)} {verb} required; see {command} --help")
    return kind(**values)


def _losses(config: Experiment, given: Flat, over: Flat, *, named_all: bool) -> Losses:
    """Return the losses that are on with all their options: of the method, of a file over them, then of words."""
    terms: Losses = {}
    name = config.default_method if config.method is None and not named_all else config.method
    if name is not None:
        if name not in config.methods:
            raise CrossresError(f"unknown method '{name}'{nearest(name, config.methods)}")
        terms = {loss: dict(options) for loss, options in config.methods[name].items()}
    for full, value in (*given.items(), *over.items()):
        if full.startswith("losses."):
            _, loss, key = full.split(".", 2)
            terms.setdefault(loss, {})[key] = value
    for full in (*given, *over):
        if not full.startswith("losses.") or full.endswith(".weight"):
            continue
        loss = full.split(".")[1]
        weight = terms[loss].get("weight")
        # what a file says of a loss that words turn off goes with it
        if weight is None or (full in over and not weight):
            raise CrossresError(
                f"{full} is set but losses.{loss} is off; give losses.{loss}.weight a value or take its --method"
            )
    return {
        loss: {each.name: each.default for each in options_of_loss(loss)} | options
        for loss, options in terms.items()
        if options["weight"]
    }


def of_run(kind: type[Kind], folder: str | Path) -> Kind:
    """Read the experiment of a run from its folder, wherever that has been moved to.

    Raises:
        CrossresError: no run there, or one of another command.
    """
    config = read_run(folder)
    if type(config) is not kind:
        raise CrossresError(
            f"{folder} is a run of {config.command}; resume it with {config.command} --resume {folder}"
        )
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
        raise CrossresError(f"{folder} is not a run (no config.yaml); give the folder RUNS/NAME")
    tree = load_yaml(folder / "config.yaml")
    return replace(read(kind_of(tree), tree, file=folder / "config.yaml"), runs=str(folder.parent), name=folder.name)


def kind_of(tree: Mapping[str, Any]) -> type[Experiment]:
    """Return the dataclass of a training's options: those of faces and of distillations have names of their own."""
    return Faces if "val_pairs" in tree else Distill if "lr_size" in tree else Teach
