"""The command line: which command runs, what is printed where, and a line for every mistake."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crossres
from crossres.commands.main import COMMANDS, EXTRAS, main

Refused = Callable[..., str]
Printed = pytest.CaptureFixture[str]


def python(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], text=True, timeout=120, **{"capture_output": True, **how})


def crossres_command(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return python("-m", "crossres.commands.main", *words, **how)


def test_the_installed_command_is_this_one() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="crossres")
    assert script.load() is main


def test_importing_crossres_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'yaml', 'rich', 'jsonargparse', 'lightning_fabric'}"
    run = python("-c", f"import sys, crossres, crossres.commands.main; print(sorted({heavy} & set(sys.modules)))")
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: Printed) -> None:
    assert main(words) == 0
    printed = capsys.readouterr()
    assert all(f"\n  {command} " in printed.out for command in COMMANDS)
    assert printed.err == ""


def test_help_is_quick() -> None:
    def once() -> float:
        started = time.perf_counter()
        run = crossres_command("--help")
        assert re.search(r"^  distill +train a student", run.stdout, re.M)
        assert (run.returncode, run.stderr) == (0, "")
        return time.perf_counter() - started

    # a third of a second on a free machine; the tests' is loaded
    assert min(once() for _ in range(2)) < 2


def test_version(capsys: Printed) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{crossres.__version__}\n"


def test_every_command_has_its_module_and_its_dataclass() -> None:
    from importlib import import_module

    for command, (module, name, function) in COMMANDS.items():
        kind = getattr(import_module(f"crossres.config.{module}"), name)
        assert kind.command == f"crossres {command}"
        assert callable(import_module(f"crossres.commands.{function}").run)


def test_the_public_names() -> None:
    assert all(getattr(crossres, name) for name in crossres.__all__)
    assert set(crossres.__all__) <= set(dir(crossres))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = crossres.nothing


# mistakes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["distil"], "unknown command 'distil'; did you mean 'distill'?"),
        (["infoo"], "unknown command 'infoo'; did you mean 'info'?"),
        (["xyz"], "unknown command 'xyz'; known: adapt, bench, cache, demo, distill, embed, enroll, evaluate, "),
        (["--verbose"], "unknown command '--verbose'; "),
        (["faces", "distil"], "unknown command 'faces distil'; did you mean 'distill'?"),
        (["info", "--jsn"], "unknown option --jsn; did you mean '--json'?"),
        (["evaluate"], "MODEL and DATA are required; see crossres evaluate --help"),
        (["evaluate", "m", "d", "--size", "8"], "unknown option --size; did you mean '--sizes'?"),
        (
            ["evaluate", "m", "d", "--sizes", "8,x"],
            "sizes: expected a list such as [a, b] of a whole number, got '8,x'",
        ),
        (["evaluate", "m", "d", "--images.memory_mb", "x"], "images.memory_mb: expected a whole number, got 'x'"),
        (["demo", "--seeds", "0"], "--seeds: 0 is below 1; a comparison needs a student of each kind"),
        (["demo", "extra"], "unknown argument extra; an option is written --NAME VALUE, see crossres demo --help"),
    ],
)
def test_a_mistyped_command(refused: Refused, words: list[str], line: str) -> None:
    assert refused(*words).startswith(line)


def test_a_mistake_in_a_process_of_its_own() -> None:
    run = crossres_command("distil")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "crossres: unknown command 'distil'; did you mean 'distill'?\n"


@pytest.mark.parametrize(("rank", "name"), [("", "crossres: "), ("0", "crossres: "), ("1", "crossres (process 1): ")])
def test_a_line_says_of_which_process_it_is(
    rank: str, name: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert main(["distil"]) == 2
    assert capsys.readouterr().err.startswith(f"{name}unknown command")


@pytest.mark.parametrize("option", ["--name", "--data", "--teacher"])
def test_a_name_that_is_too_long_for_the_system(option: str, refused: Refused, tmp_path: Path, drawn: Path) -> None:
    given = {"--data": drawn, "--runs": tmp_path, "--method": "labels"}
    line = refused("distill", *(word for pair in (given | {option: "x" * 5000}).items() for word in pair))
    assert "xxx" in line
    assert len(line) < 400


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file's name is always Unicode")
def test_a_path_that_is_not_utf8(refused: Refused, drawn: Path, tmp_path: Path) -> None:
    line = refused("teach", "--data", drawn, "--runs", tmp_path / os.fsdecode(b"caf\xe9"))
    assert line.startswith("runs '")
    assert line.endswith("caf\\udce9' is not UTF-8; rename it")


# what is missing


def test_a_missing_extra_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from crossres.commands import main as m; "
    code += "sys.exit(m.main(['teach']))"
    run = python("-c", code, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == "crossres: torch is missing: pip install 'crossres[train]'\n"


def test_every_package_outside_the_core_has_an_extra_that_brings_it() -> None:
    brought: dict[str, set[str]] = {}
    for requirement in importlib.metadata.requires("crossres") or []:
        name = re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")
        extra = re.search(r"extra == .([\w-]+)", requirement)
        brought.setdefault(name, set()).add(extra[1] if extra else "")
    of_module = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "faiss": "faiss-cpu",
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
    }
    imported = {
        name.split(".")[0]
        for path in Path(crossres.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _names(node)
    }
    for module in sorted(imported - set(sys.stdlib_module_names) - {"crossres"}):
        extras = brought[of_module.get(module, module).replace("_", "-")]
        assert "" in extras or EXTRAS[module] in extras, module


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def test_a_missing_module_of_our_own_is_not_a_user_s_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crossres.commands.info", None)
    with pytest.raises(ModuleNotFoundError):
        main(["info"])


# where the output goes


@pytest.mark.parametrize("unbuffered", ["1", ""])
@pytest.mark.parametrize("command", ["--help", "demo --help"])
def test_a_reader_that_went_away_is_not_an_error(command: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    run = crossres_command(
        *command.split(), env=environment, capture_output=False, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        run = crossres_command("--help", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (2, "crossres: No space left on device\n")


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    here = tmp_path / "gone"
    here.mkdir()
    code = f"import os; os.rmdir({str(here)!r}); from crossres.commands.main import main; exit(main(['info']))"
    run = python("-c", code, cwd=here)
    assert (run.returncode, run.stderr) == (2, "crossres: No such file or directory\n")


@pytest.mark.parametrize("words", [["faces"], ["faces", "--help"]])
def test_a_family_of_commands_is_listed(words: list[str], capsys: Printed) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "\n  faces distill " in printed
    assert "\n  teach " not in printed


def test_a_file_of_the_folder_stands_for_no_library(tmp_path: Path) -> None:
    for name in ("yaml", "rich", "torch", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('ran a file of the folder')\n")
    done = python("-m", "crossres.commands.main", "teach", "--print_config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_code_that_a_file_names_is_run_where_it_is_trusted(
    refused: Any, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text("raise ImportError('it ran')\n")
    (tmp_path / "options.yaml").write_text(f"data: {drawn}\nmodel: {{name: 'my_net:net'}}\ntrust_code: true\n")
    line = refused("teach", "--config", "options.yaml")  # a file does not vouch for itself
    assert line == "options.yaml would run code 'my_net:net'; if you trust it, add --trust_code true"
    assert "it ran" in refused("teach", "--config", "options.yaml", "--trust_code", "true")
    assert "it ran" in refused("teach", "--config", "options.yaml", "--model.name", "my_net:net")
    teacher = f"data: {drawn}\nteacher: t.pt\nteacher_name: 'my_net:net'\nlr_size: 8\n"
    (tmp_path / "teacher.yaml").write_text(teacher)
    assert refused("distill", "--config", "teacher.yaml").startswith("teacher.yaml would run code 'my_net:net'")
    run = tmp_path / "runs" / "foreign"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(teacher)
    assert refused("distill", "--resume", run).startswith(f"{run} would run code 'my_net:net'")
    assert refused("adapt", run, drawn).startswith(f"{run} would run code 'my_net:net'")
    assert "nothing to resume" in refused("distill", "--resume", run, "--trust_code")
    grid = {"name": "g", "pairs": [{"teacher": "t", "student": "my_net:net"}], "methods": {"ce": "labels"}}
    grid |= {"lr_sizes": [8], "seeds": [0], "base": {"data": str(drawn), "hr_size": 16, "trust_code": True}}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    assert "the grid would run code 'my_net:net'" in refused("bench", "grid.yaml")
    assert str(tmp_path) not in sys.path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_a_command_of_a_bench_ends_with_it_however_that_ends() -> None:
    command = "import time; from crossres.commands import main; main._run = lambda _: time.sleep(60); main.main([])"
    bench = f"""
import os, subprocess, sys
environment = {{**os.environ, "CROSSRES_PARENT": str(os.getpid())}}
child = subprocess.Popen([sys.executable, "-c", {command!r}], env=environment)
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", bench], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        time.sleep(2)  # it has to have begun
        assert Path(f"/proc/{child}").exists()
        process.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "(zombie)" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it lives on")
