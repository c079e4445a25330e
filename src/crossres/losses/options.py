"""The options of a loss by its name, and a check of their values; those of built-in losses are read without torch."""

import ast
import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from crossres.core.errors import nearest, one_line
from crossres.losses import LOSSES

#: Width of the trial build: every usual number of attention heads divides it (1-10, 12, 14-16, 20, 24, 32, 64, 128).
WIDTH = 40320
#: Feature maps of the trial build: more than any experiment compares.
STAGES = 32


@dataclass(frozen=True)
class Option:
    """An option of a loss: its keyword, a type hint, its default and its entry below ``Args:`` as one line."""

    name: str
    type: Any
    default: Any
    help: str


def loss_options(name: str) -> list[Option]:
    """Return the options of a loss in the order of its signature, those that it inherits included."""
    home = LOSSES.data[name]
    if isinstance(home, str):
        with suppress(ValueError, NameError):  # a default or a type that is not spelt out
            return list(_options_in_source(home))
    kind: Any = LOSSES[name]
    hints, texts = get_type_hints(kind.__init__), _texts(*(base.__doc__ for base in kind.__mro__))
    return [
        Option(key, hints.get(key, Any), None if each.default is each.empty else each.default, texts.get(key, ""))
        for key, each in inspect.signature(kind).parameters.items()
        if key not in ("teacher_dim", "student_dim") and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def reads(name: str) -> str:
    """Return which outputs a loss compares: "logits", "embedding" or "features"."""
    return str(_attribute(name, "reads"))


def needs_teacher(name: str) -> bool:
    """Return whether a loss reads the teacher."""
    return bool(_attribute(name, "needs_teacher"))


def needs_label(name: str) -> bool:
    """Return whether a loss cannot be computed without labels."""
    return bool(_attribute(name, "needs_label"))


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Build a loss without data or memory, on torch's meta device, to check its options.

    Args:
        name: of the loss.
        options: its own, without those that every loss has (weight, decay, warm_up).

    Raises:
        ValueError: an unknown loss or option, or a value out of range; in one line.
    """
    import torch

    if name not in LOSSES:
        raise ValueError(f"unknown loss '{name}'{nearest(name, LOSSES)}")
    width: Any = [(WIDTH, 8, 8)] * STAGES if reads(name) == "features" else WIDTH
    try:
        with torch.device("meta"):
            LOSSES[name](width, width, **options)
    except (ValueError, TypeError) as error:
        raise ValueError(one_line(error)) from None
    except Exception:
        return  # a loss that computes while it is built cannot do so here; the run builds it anew


def _attribute(name: str, attribute: str) -> Any:
    home = LOSSES.data[name]
    for node in [node for kind in _lineage(home) for node in kind.body] if isinstance(home, str) else ():
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if attribute in [target.id for target in targets if isinstance(target, ast.Name)]:
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return getattr(LOSSES[name], attribute)


@cache
def _options_in_source(home: str) -> tuple[Option, ...]:
    lineage = _lineage(home)
    texts = _texts(*map(ast.get_docstring, lineage))
    methods = [node for kind in lineage for node in kind.body if isinstance(node, ast.FunctionDef)]
    signature = next(method.args for method in methods if method.name == "__init__")
    known = {"Any": Any, "Literal": Literal}
    return tuple(
        Option(key.arg, eval(ast.unparse(key.annotation), known), ast.literal_eval(default), texts.get(key.arg, ""))
        for key, default in zip(signature.kwonlyargs, signature.kw_defaults, strict=True)
        if key.annotation and default
    )


@cache
def _lineage(home: str) -> tuple[ast.ClassDef, ...]:
    """Return a class of this package and those that it derives from, the nearest first."""
    file, name = home.split(".")
    files: dict[str, str] = {}
    for node in ast.parse(Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            files |= {each.name: node.module.rpartition(".")[2] for each in node.names if "losses." in node.module}
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return (node, *(each for base in bases for each in _lineage(f"{files.get(base, file)}.{base}")))
    return ()


def arguments_of(docstring: str) -> dict[str, str]:
    """Return the entries below ``Args:`` of a docstring by name, each on one line."""
    _, _, text = inspect.cleandoc(docstring).partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n(?:     .*|))*)", re.split(r"\n\S", text)[0], re.M)
    return {name: " ".join(words.split()) for name, words in entries}


def _texts(*docstrings: str | None) -> dict[str, str]:
    """Return the entries of a class's docstring and of its bases', the nearest first."""
    return {name: text for each in reversed(docstrings) for name, text in arguments_of(each or "").items()}
