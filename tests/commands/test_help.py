"""The help of every command: one screen, or every option, in no time."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

import pytest

from crossres.commands.help import help_text
from crossres.commands.main import COMMANDS, main
from crossres.commands.parsing import parse, switches
from crossres.config.experiment import Distill, Experiment, Faces
from crossres.config.reading import options_of_loss, read
from crossres.config.schema import options_of
from crossres.losses import LOSSES
from crossres.losses.options import needs_teacher

KINDS: dict[str, Any] = {
    command: getattr(import_module(f"crossres.config.{module}"), name)
    for command, (module, name, _) in COMMANDS.items()
}


def entries(page: str) -> dict[str, str]:
    """Return the text of each option of a page, by name."""
    blocks = re.findall(r"^  --([\w.]+(?: all)?) *((?:.*\n)(?:     .*\n)*)", page, re.M)
    return {name: " ".join(text.split()) for name, text in blocks}


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_s_help_is_a_screen_that_ends_with_an_example(
    command: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*command.split(), "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith(f"usage: crossres {command}")
    assert lines[0].endswith(" [options]")
    assert lines[-2] == "example:"
    words = shlex.split(lines[-1])
    assert " ".join(words[: 1 + len(command.split())]) == f"crossres {command}"
    read(KINDS[command], {}, parse(KINDS[command], words[1 + len(command.split()) :]).words)
    assert main([*command.split(), "-h"]) == 0
    assert capsys.readouterr().out == printed.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_names_every_option_with_its_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "118")
    kind = KINDS[command]
    texts = entries(help_text(kind, every=True) + "\n")
    known = dict(options_of(kind))
    if issubclass(kind, Experiment):
        for loss in LOSSES:
            if issubclass(kind, Distill | Faces) or not needs_teacher(loss):
                known |= {f"losses.{loss}.{option.name}": option for option in options_of_loss(loss)}
    assert texts.keys() == known.keys() | switches(kind).keys()
    for name, option in known.items():
        assert texts[name].startswith(" ".join(option.help.rstrip(".").split()))
        if option.default in (None, []) or option.default is False or option.optional_group:
            continue
        if isinstance(option.default, (str, int, float)):
            shown = str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
            assert texts[name].endswith(f"[{shown}]"), name
        elif isinstance(option.default, (list, tuple)):
            assert texts[name].endswith(f"[{','.join(map(str, option.default))}]"), name


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_help_has_what_a_first_user_needs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    kind = KINDS[command]
    texts = entries(help_text(kind, every=False) + "\n")
    more = {"help all"} if set(getattr(kind, "first", options_of(kind))) < options_of(kind).keys() else set()
    assert texts.keys() == set(getattr(kind, "first", options_of(kind))) | switches(kind).keys() | more
    assert set(kind.positional) <= texts.keys()
    for name in kind.positional:
        assert name.upper() in help_text(kind, every=False).splitlines()[0]


def test_the_usage_of_words_without_a_name() -> None:
    assert help_text(KINDS["distill"], every=False).startswith("usage: crossres distill [DATA] [options]\n")
    assert help_text(KINDS["predict"], every=False).startswith("usage: crossres predict MODEL PHOTOS... [options]\n")
    assert help_text(KINDS["enroll"], every=False).startswith("usage: crossres enroll GALLERY [PEOPLE] [options]\n")


def test_no_help_imports_torch_and_none_takes_long() -> None:
    code = (
        "import sys, time\n"
        "from crossres.commands.main import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    for more in (['--help'], ['--help', 'all']):\n"
        "        started = time.perf_counter()\n"
        "        assert main([*command.split(), *more]) == 0\n"
        "        assert time.perf_counter() - started < 2, command\n"
        "heavy = {'torch', 'lightning_fabric', 'pyarrow', 'matplotlib', 'onnxruntime', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "[]\n")


@pytest.mark.parametrize("words", [["--help"], ["distill", "--help"], ["distill", "--help", "all"]])
def test_help_is_quick_in_a_process_of_its_own(words: list[str]) -> None:
    def once() -> float:
        started = time.perf_counter()
        command = [sys.executable, "-m", "crossres.commands.main", *words]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith("usage: crossres ")
        return time.perf_counter() - started

    # under a second on a free machine; the tests' is loaded
    assert min(once() for _ in range(2)) < 2
