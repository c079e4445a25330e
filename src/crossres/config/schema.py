"""The options of a dataclass as a flat list: what the command line, the help and the reading of files share."""

from collections.abc import Hashable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from crossres.losses.options import arguments_of

#: What every loss has beside its own options.
TERM = {
    "weight": (float, 0.0, "factor of this term; 0 = off"),
    "decay": (bool, False, "let the weight fall linearly to 0 over the run"),
    "warm_up": (float, 0.0, "share of the run, from its start, in which the weight rises linearly from 0"),
}


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        name: as it is written, with the groups it is in: ``train.epochs``.
        type: a type hint.
        default: its value if left out; `dataclasses.MISSING` where it has to be given.
        help: a sentence.
        optional_group: it is in a group that is None unless one of its options is given.
    """

    name: str
    type: Any
    default: Any
    help: str
    optional_group: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether ``--name`` alone means true."""
        return self.type is bool

    @property
    def is_list(self) -> bool:
        """Whether it may be written a,b."""
        return any(get_origin(part) in (list, tuple) for part in parts(self.type))

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be given several times, each adding to its values."""
        return any(get_origin(part) is list for part in parts(self.type))

    @property
    def choices(self) -> tuple[Any, ...]:
        """Its values where they are few."""
        return tuple(v for part in parts(self.type) if get_origin(part) is Literal for v in get_args(part))


def parts(hint: Any) -> tuple[Any, ...]:
    """Return the types that a hint allows, one of its own included."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


@cache
def _all(kind: Hashable) -> dict[str, Option]:
    return {option.name: option for option in _options(cast(Any, kind), "")}


def options_of(kind: type[Any]) -> dict[str, Option]:
    """Return the options of a dataclass and of the dataclasses in it, by name; losses are left out."""
    return _all(cast(Hashable, kind))


def _options(kind: type[Any], prefix: str, optional: bool = False) -> Iterator[Option]:
    hints, texts = get_type_hints(kind), help_of(kind)
    for field in fields(kind):
        if field.name == "losses":
            continue
        groups = [part for part in parts(hints[field.name]) if is_dataclass(part)]
        name = f"{prefix}{field.name}"
        if groups:
            yield from _options(cast(Any, groups[0]), f"{name}.", optional or NoneType in parts(hints[field.name]))
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield Option(name, hints[field.name], default, texts.get(field.name, ""), optional)


def help_of(kind: type[Any]) -> dict[str, str]:
    """Return the text of each option below ``Args:`` in the docstrings of a class and its bases, by name."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        texts |= arguments_of(base.__doc__ or "")
    return texts
