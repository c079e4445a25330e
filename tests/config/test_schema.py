"""The options of a dataclass as a flat list."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import crossres.config
from crossres import Distill
from crossres.config.schema import arguments_of, help_of, options_of

MODULES = sorted(path.stem for path in Path(crossres.config.__file__).parent.glob("[a-z]*.py"))


@dataclass
class Part:
    """A part.

    Args:
        side: of the part,
            in pixels.
    """

    side: int = 3


@dataclass
class Child(Part):
    """A part with more.

    Args:
        other: of the child.
    """

    other: int = 4


@dataclass
class Whole:
    """A whole.

    Args:
        data: where it lies.
        sizes: its sizes: several.
    """

    data: str
    part: Part = field(default_factory=Part)
    perhaps: Part | None = None
    sizes: list[int] = field(default_factory=list)
    span: int | tuple[int, int] = 8
    kind: Literal["a", "b"] | None = None
    on: bool = False
    losses: dict[str, int] = field(default_factory=dict)


def test_groups_are_flattened_and_losses_left_out() -> None:
    options = options_of(Whole)
    assert list(options) == ["data", "part.side", "perhaps.side", "sizes", "span", "kind", "on"]
    assert options["data"].default is MISSING
    assert [options[name].default for name in ("part.side", "sizes", "span", "kind")] == [3, [], 8, None]
    assert [name for name, option in options.items() if option.optional_group] == ["perhaps.side"]
    assert [name for name, option in options.items() if option.is_list] == ["sizes", "span"]
    assert [name for name, option in options.items() if option.is_repeatable] == ["sizes"]
    assert [name for name, option in options.items() if option.is_flag] == ["on"]
    assert options["kind"].choices == ("a", "b")
    assert options["data"].choices == ()


def test_the_help_of_an_option_is_its_text_in_the_docstring_of_its_class_or_of_a_base() -> None:
    options = options_of(Whole)
    assert options["part.side"].help == "of the part, in pixels."
    assert options["sizes"].help == "its sizes: several."
    assert options["kind"].help == ""
    assert help_of(Child) == {"side": "of the part, in pixels.", "other": "of the child."}
    assert arguments_of("One line.") == {}
    assert arguments_of("A.\n\nArgs:\n    a: b\n\nReturns:\n    c: d") == {"a": "b"}


def test_every_option_of_every_command_has_a_help() -> None:
    from crossres.commands.main import COMMANDS

    for module, name, _ in COMMANDS.values():
        kind = getattr(__import__(f"crossres.config.{module}", fromlist=[name]), name)
        assert not [option.name for option in options_of(kind).values() if not option.help]
        assert set(getattr(kind, "first", ())) <= options_of(kind).keys()
        assert set(kind.positional) <= options_of(kind).keys()


@pytest.mark.parametrize("group", ["images", "augment", "model", "train", "degradation", "onnx_input", "stages"])
def test_the_groups_of_a_distillation(group: str) -> None:
    assert any(name.startswith(f"{group}.") for name in options_of(Distill))


def test_no_module_of_config_imports_torch() -> None:
    code = f"import sys\nfor name in {MODULES}: __import__('crossres.config.' + name)\nprint('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout == "False\n"
