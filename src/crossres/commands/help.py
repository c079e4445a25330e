"""The help of a command: a screen of what a first user needs, or every option."""

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from inspect import cleandoc
from typing import Any

from crossres.commands.parsing import switches
from crossres.config.experiment import Distillation, Experiment
from crossres.config.schema import Option, options_of

#: Width of the column of names.
NAMES = 30


def help_text(kind: type[Any], every: bool) -> str:
    """Return the help of a command.

    Args:
        kind: dataclass of the command.
        every: all options with their whole texts; else those a first user needs, each with its first sentence.
    """
    options = options_of(kind)
    options = {name: options[name] for name in (*kind.positional, *options)}
    chosen = [options[name] for name in getattr(kind, "first", options)]
    about = cleandoc(kind.__doc__ or "").split("\n\nArgs:")[0].split("\nArgs:")[0]
    places = [f"[{n.upper()}]" if options[n].default is not MISSING else n.upper() for n in kind.positional]
    places = [f"{p}..." if options[n].is_list else p for n, p in zip(kind.positional, places, strict=True)]
    lines = [
        " ".join(["usage:", kind.command, *places, "[options]"]),
        "",
        *_wrapped(about if every else about.split("\n\n")[0]),
        "",
    ]
    lines += _grouped(options.values() if every else chosen, every)
    losses = issubclass(kind, Experiment)
    if losses and every:
        lines += _losses(kind)
    lines += ["also:", *(line for name, text in switches(kind).items() for line in _entry(f"--{name}", text))]
    if len(chosen) < len(options) and not every:
        text = f"all {len(options)} options{' and those of every loss' * losses}"
        lines += _entry("--help all", text)
    return "\n".join([*lines, "", "example:", f"  {kind.example}"])


def _grouped(options: Iterable[Option], every: bool) -> list[str]:
    """Return options as lines, those of no group first, then a heading for each group."""
    groups: dict[str, list[Option]] = {"": []}
    for option in options:
        groups.setdefault(option.name.rpartition(".")[0], []).append(option)
    lines = []
    for group, members in groups.items():
        if members:
            lines += [
                f"{group or 'options'}:",
                *(line for each in members for line in _line(each, each.name, every)),
                "",
            ]
    return lines


def _losses(kind: type[Experiment]) -> Iterator[str]:
    """Yield the options of every loss that a command can use, under a heading each."""
    from crossres.config.reading import options_of_loss
    from crossres.losses import LOSSES
    from crossres.losses.options import needs_teacher

    for loss in LOSSES:
        if issubclass(kind, Distillation) or not needs_teacher(loss):
            yield f"losses.{loss}:"
            for each in options_of_loss(loss):
                yield from _line(each, f"losses.{loss}.{each.name}", True)
            yield ""


def _line(option: Option, name: str, every: bool) -> list[str]:
    text = option.help.rstrip(".")
    left_out = re.search(r"if left out,? ([^;.:]+)", text)
    if not every:
        text = re.split(r"(?<=\w); |\. |: | \(", text)[0]
    if option.choices:
        text += f" ({', '.join(map(str, option.choices))})"
    if option.default not in (None, MISSING, []) and option.default is not False and not option.optional_group:
        text += f" [{_shown(option.default)}]"
    elif left_out and not every:  # what stands in the place of a default
        text += f" [{left_out[1]}]"
    return _entry(f"--{name}", text)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_shown, value)) if isinstance(value, (list, tuple)) else str(value)


def _entry(name: str, text: str) -> list[str]:
    """Return a name and its text in two columns."""
    first, *rest = _wrapped(text, NAMES + 2) or [""]
    if len(name) > NAMES - 2:
        return [f"  {name}", first, *rest]
    return [f"  {name:{NAMES}}{first.strip()}", *rest]


def _wrapped(text: str, indent: int = 0) -> list[str]:
    width = max(60, min(118, shutil.get_terminal_size((100, 24)).columns))
    margin = " " * indent
    return textwrap.wrap(" ".join(text.split()), width, initial_indent=margin, subsequent_indent=margin)
