"""The commands as a user types them: what they print where, and the same from Python."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import crossres
from crossres.commands.main import _EXTRA, COMMANDS, main
from crossres.config.reading import of_run
from crossres.models.weights import weights_sha256

Refused = Callable[..., str]
Printed = pytest.CaptureFixture[str]

SMALL = ["--model.name=resnet8", "--train.epochs=2", "--train.batch_size=24", "--precision=float32"]
TIMES = ("seconds", "images_per_second", "peak_memory_mb")


def python(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, **how)


def crossres_command(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return python("-m", "crossres.commands.main", *words, **how)


@pytest.fixture(scope="module")
def student(drawn: Path, drawn_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `crossres distill`, started from the command line."""
    runs = tmp_path_factory.mktemp("cli")
    words = ["--data", str(drawn), "--teacher", str(drawn_teacher), "--runs", str(runs), "--lr_size=8"]
    assert main(["distill", *words, *SMALL]) == 0
    return runs / "student"


def test_help_is_quick() -> None:
    def once() -> float:
        started = time.perf_counter()
        said = crossres_command("--help")
        assert "distill   train a student" in said.stdout
        assert (said.returncode, said.stderr) == (0, "")
        return time.perf_counter() - started

    assert min(once() for _ in range(3)) < 0.7


def test_the_installed_command_is_this_one() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="crossres")
    assert script.load() is main


def test_importing_crossres_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'yaml', 'rich', 'jsonargparse', 'lightning_fabric'}"
    said = python("-c", f"import sys, crossres, crossres.commands.main; print(sorted({heavy} & set(sys.modules)))")
    assert said.stdout == "[]\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str], capsys: Printed) -> None:
    assert main(words) == 0
    said = capsys.readouterr()
    assert all(f"\n  {command} " in said.out for command in COMMANDS)
    assert said.err == ""


def test_version(capsys: Printed) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{crossres.__version__}\n"


@pytest.mark.parametrize("command", ["demo", "evaluate", "info", "teach", "distill"])
def test_every_command_has_help(command: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    said = capsys.readouterr()
    assert said.out.startswith(f"usage: crossres {command}")
    assert said.err == ""


@pytest.mark.parametrize("command", ["demo", "evaluate"])
def test_help_of_the_plain_commands_shows_defaults(
    command: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    defaults = {"demo": ("runs/demo", "3", "auto"), "evaluate": ("test", "refuse", "4096", "auto")}
    assert all(f"(default: {value})" in out for value in defaults[command])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["distil"], "unknown command 'distil'; did you mean 'distill'?"),
        (["infoo"], "unknown command 'infoo'; did you mean 'info'?"),
        (["xyz"], "unknown command 'xyz'; known: bench, demo, distill, embed, enroll, evaluate, "),
        (["--verbose"], "unknown command '--verbose'; known: "),
        (["info", "--jsn"], "unknown option --jsn; did you mean '--json'?"),
        (["evaluate"], "the following arguments are required: model, data; see crossres evaluate --help"),
        (["evaluate", "m", "d", "--size", "8"], "unknown option --size; did you mean '--sizes'?"),
        (
            ["evaluate", "m", "d", "--sizes", "8,x"],
            "argument --sizes: '8,x' is no list of pixels such as 4,8,16; see",
        ),
        (["evaluate", "m", "d", "--sizes", "0"], "argument --sizes: an image has at least 1 pixel; see"),
        (["evaluate", "m", "d", "--memory_mb", "x"], "argument --memory_mb: invalid int value: 'x'; see"),
        (["evaluate", "m", "d", "--test_fraction", "1"], "--test_fraction 1 is outside 0..1"),
        (["demo", "--seeds", "0"], "--seeds: a comparison needs at least 1"),
        (["demo", "extra"], "unrecognized arguments: extra; see crossres demo --help"),
    ],
)
def test_a_mistyped_command(refused: Refused, words: list[str], line: str) -> None:
    assert refused(*words).startswith(line)


def test_a_mistake_in_a_process_of_its_own() -> None:
    said = crossres_command("distil")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "crossres: unknown command 'distil'; did you mean 'distill'?\n"


def test_info(capsys: Printed) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert found["crossres"] == crossres.__version__
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["devices"][0] == "cpu"
    assert isinstance(found["bfloat16_in_hardware"]["cpu"], bool)
    for package, number in found["packages"].items():
        assert f"  {package} " in text
        assert number is None or number in text
    assert text.startswith(f"crossres {crossres.__version__}, Python {found['python']}")


def test_info_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossres.commands import info

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(info, "version", absent)
    monkeypatch.setattr(info, "find_spec", lambda _name: None)
    found = info.information()
    assert set(found["packages"].values()) == {None}
    assert "devices: none (torch is not installed)" in info.table(found)
    assert "bfloat16" not in info.table(found)


def test_a_missing_extra_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['lightning_fabric'] = None; from crossres.commands import main as m; "
    code += "sys.exit(m.main(['teach']))"
    said = python("-c", code, cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr == "crossres: lightning_fabric is missing: pip install 'crossres[train]'\n"


def test_every_package_outside_the_core_has_an_extra_that_brings_it() -> None:
    requirements = importlib.metadata.requires("crossres") or []
    brought: dict[str, set[str]] = {}
    for requirement in requirements:
        name = re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")
        extra = re.search(r"extra == .([\w-]+)", requirement)
        brought.setdefault(name, set()).add(extra[1] if extra else "")
    of_module = {"PIL": "pillow", "faiss": "faiss-cpu", "yaml": "pyyaml", "sklearn": "scikit-learn"}
    imported = {
        name.split(".")[0]
        for path in Path(crossres.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _names(node)
    }
    for module in sorted(imported - set(sys.stdlib_module_names) - {"crossres"}):
        extras = brought[of_module.get(module, module).replace("_", "-")]
        assert "" in extras or _EXTRA[module] in extras, module


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def test_a_missing_module_of_our_own_is_no_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crossres.commands.info", None)
    with pytest.raises(ModuleNotFoundError):
        main(["info"])


@pytest.mark.parametrize("unbuffered", ["1", ""])
@pytest.mark.parametrize("command", ["--help", "demo --help"])
def test_a_reader_that_went_away_is_no_error(command: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    said = subprocess.run(
        [sys.executable, "-m", "crossres.commands.main", *command.split()],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(writer)
    # argparse itself says nothing where its help finds no reader
    assert said.returncode == 141 or (command == "demo --help" and said.returncode == 0)
    assert said.stderr == b""


def test_result_json_keeps_the_contract(student: Path, drawn_teacher: Path) -> None:
    assert sorted(path.name for path in student.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "model",
        "result.json",
        "state.pt",
    ]
    result = json.loads((student / "result.json").read_text())
    config = of_run(crossres.Distill, student)
    teacher = json.loads((drawn_teacher / "result.json").read_text())
    exact = {
        "task": "distill",
        "method": "ce+kd+crrcd",
        "dataset": "shapes",
        "teacher": {
            "name": "resnet8",
            "top1_hr": teacher["top1_best_val"],
            "sha256": weights_sha256(crossres.load(drawn_teacher)),
        },
        "student": {"name": "resnet8", "parameters": sum(p.numel() for p in crossres.load(student).parameters())},
        "hr_size": 16,
        "lr_size": 8,
        "seed": 0,
        "epochs": 2,
        "config_sha256": crossres.config.options.sha256(config),
    }
    assert {key: result[key] for key in exact} == exact
    assert result["degradation"]["kernel"] == "bicubic"
    for key in ("top1_last", "top1_best_val", "top5_last"):
        assert 0 <= result[key] <= 100
    assert all(result[key] > 0 for key in TIMES)
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]
    assert result["machine"]["device"] == "cpu"
    assert result["commit"] is None or len(result["commit"].rstrip("+")) == 40
    assert str(drawn_teacher.parent) not in (student / "result.json").read_text()
    rows = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]["losses"]) == {"ce", "kd", "crrcd"}
    assert {"train_top1", "val_top1", "images_per_second", "learning_rate", "seconds"} <= set(rows[0])
    of_teacher = {"task": "teach", "method": "ce", "teacher": None, "degradation": None, "hr_size": 16, "lr_size": 16}
    assert {key: teacher[key] for key in of_teacher} == of_teacher


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in result["config"].items() if key not in ("name", "runs")}
    return {key: value for key, value in result.items() if key not in (*TIMES, "name", "config")} | {"config": config}


def test_python_and_the_command_line_do_the_same(student: Path, drawn_teacher: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(of_run(crossres.Distill, student), runs=str(tmp_path), name="python")
    result = crossres.distill(config, quiet=True)
    assert result == json.loads((tmp_path / "python" / "result.json").read_text())
    assert without_times(result) == without_times(json.loads((student / "result.json").read_text()))
    theirs = load_file(student / "model" / "model.safetensors")
    ours = load_file(tmp_path / "python" / "model" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    teaching = of_run(crossres.Teach, drawn_teacher)
    words = ["--config", str(drawn_teacher / "config.yaml"), "--runs", str(tmp_path), "--name", "teacher"]
    assert main(["teach", *words]) == 0
    again = json.loads((tmp_path / "teacher" / "result.json").read_text())
    assert again["config_sha256"] == crossres.config.options.sha256(teaching)
    assert without_times(again) == without_times(json.loads((drawn_teacher / "result.json").read_text()))


def test_the_python_names_refuse_each_others_configs() -> None:
    with pytest.raises(crossres.CrossresError, match=r"teach takes a Teach; for a Distill call crossres\.distill"):
        crossres.teach(crossres.Distill())
    with pytest.raises(crossres.CrossresError, match=r"distill takes a Distill; for a Teach call crossres\.teach"):
        crossres.distill(crossres.Teach())  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = crossres.nothing
    assert all(getattr(crossres, name) for name in crossres.__all__)


def test_a_loaded_model_is_the_trained_one(student: Path) -> None:
    encoder = crossres.load(student)
    assert encoder.classes == ("bar", "cross", "disc", "frame")
    assert encoder.info["lr_size"] == 8
    assert not encoder.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            encoder.state_dict().values(), crossres.load(student / "model").state_dict().values(), strict=True
        )
    )
    weights = load_file(student / "model" / "model.safetensors")
    assert sum(w.numel() for w in weights.values() if w.is_floating_point()) >= 77_000
    assert all(key.startswith(("backbone.", "classifier.")) for key in weights)


def test_evaluate_prints_one_json_document(student: Path, drawn: Path, capsys: Printed) -> None:
    assert main(["evaluate", str(student), str(drawn), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("}\n")
    assert said.out.count("\n") == 1
    document = json.loads(said.out)
    result = json.loads((student / "result.json").read_text())
    assert document["model"] == "student"
    assert document["dataset"] == "shapes"
    assert document["images"] == 40
    assert document["top1"] == pytest.approx(result["top1_best_val"])
    assert document["top5"] == pytest.approx(result["top5_best_val"])
    assert [sum(row) for row in document["confusion"]] == [10] * 4
    right = sum(document["confusion"][i][i] for i in range(4))
    assert document["top1"] == pytest.approx(100 * right / 40)
    assert document["classes"] == ["bar", "cross", "disc", "frame"]
    sizes = [point["size"] for point in document["curve"]]
    assert sizes == sorted(sizes)
    assert {4, 8, 16} <= set(sizes)
    assert next(point for point in document["curve"] if point["size"] == 8)["top1"] == document["top1"]


def test_evaluate_prints_a_table_and_draws_a_figure(
    student: Path, drawn: Path, tmp_path: Path, capsys: Printed
) -> None:
    png = tmp_path / "new" / "figure.png"
    assert main(["evaluate", f"{student}/model", str(drawn), "--sizes", "4,8", "--png", str(png)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "model on shapes, 40 images" in said.out
    lines = [line.strip("│ ").split("│") for line in said.out.splitlines() if line.startswith("│")]
    assert [line[0].strip() for line in lines] == ["4", "8"]
    assert all(0 <= float(cell) <= 100 for line in lines for cell in line[1:])
    assert f"figure: {png}" in said.out.replace("\n", "")
    with Image.open(io.BytesIO(png.read_bytes()), formats=["PNG"]) as figure:
        figure.load()
        assert figure.size == (1650, 690)
        assert len(figure.convert("L").getcolors() or []) > 50


def test_a_figure_that_cannot_be_written_costs_no_numbers(
    student: Path, drawn: Path, tmp_path: Path, capsys: Printed
) -> None:
    (tmp_path / "file").touch()
    png = tmp_path / "file" / "figure.png"
    assert main(["evaluate", f"{student}/model", str(drawn), "--sizes=8", "--json", "--png", str(png)]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["images"] == 40
    assert said.err == f"crossres: cannot write {png}: File exists; nothing was changed\n"


def test_evaluate_in_bfloat16_on_the_training_split(student: Path, drawn: Path, capsys: Printed) -> None:
    words = ["--split=train", "--precision=bfloat16", "--device=cpu", "--sizes=8", "--json"]
    assert main(["evaluate", str(student), str(drawn), *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 96
    assert [point["size"] for point in document["curve"]] == [8]


def test_the_commands_print_nothing_but_their_own_lines(drawn: Path, tmp_path: Path) -> None:
    """In a process of its own, where no test framework swallows warnings and libraries' notes."""
    words = ["--data", str(drawn), *SMALL, "--precision=bfloat16", "--device=cpu", "--train.ema=0.5"]
    words += ["--images.memory_mb=0", "--images.workers=64"]
    said = crossres_command("teach", *words, cwd=tmp_path)
    assert said.returncode == 0
    assert said.stdout == ""
    first, second, last = said.stderr.splitlines()
    assert first.startswith("epoch 1/2  ce ")
    assert " images/s  " in first
    assert second.startswith("epoch 2/2  ce ")
    assert second.endswith("0:00 left")
    assert last.startswith("runs/teacher: test top-1 ")


@pytest.mark.parametrize("inside", ["", "model", "model/model.safetensors"])
def test_a_training_starts_from_given_weights(drawn: Path, drawn_teacher: Path, tmp_path: Path, inside: str) -> None:
    """A run's folder, a model's folder or the file: with no step that moves them, they come out as they went in."""
    words = ["--data", str(drawn), "--runs", str(tmp_path), *SMALL, "--train.learning_rate=1e-12"]
    assert main(["teach", *words, "--hr_size=16", "--model.weights", str(drawn_teacher / inside)]) == 0
    given = load_file(drawn_teacher / "model" / "model.safetensors")
    trained = load_file(tmp_path / "teacher" / "model" / "model.safetensors")
    for key, value in given.items():
        if "running_" not in key and "num_batches" not in key:
            torch.testing.assert_close(trained[key], value, rtol=0, atol=1e-7)


def test_a_finished_run_is_not_trained_again(student: Path, capsys: Printed) -> None:
    before = (student / "result.json").read_bytes()
    assert main(["distill", "--resume", str(student)]) == 0
    assert capsys.readouterr().err == f"{student} is finished; its numbers are in {student}/result.json\n"
    assert (student / "result.json").read_bytes() == before
    result = crossres.distill(of_run(crossres.Distill, student), resume=True, quiet=True)
    assert result == json.loads(before)
    assert capsys.readouterr().err == ""


def test_overwrite_starts_anew(drawn: Path, tmp_path: Path) -> None:
    words = ["teach", "--data", str(drawn), "--runs", str(tmp_path), *SMALL]
    assert main(words) == 0
    assert main([*words, "--overwrite", "--train.epochs=1", "--train.seed=4"]) == 0
    result = json.loads((tmp_path / "teacher" / "result.json").read_text())
    assert (result["epochs"], result["seed"]) == (1, 4)
    assert len((tmp_path / "teacher" / "metrics.jsonl").read_text().splitlines()) == 1
    assert crossres.load(tmp_path / "teacher").info["results"]["seed"] == 4


def test_three_commands_from_own_images_to_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    """Two classes, mixed sizes, shapes and formats, without splits."""
    monkeypatch.chdir(tmp_path)
    for kind, colour in (("red apples", 230), ("plums", 60)):
        Path("fruit", kind).mkdir(parents=True)
        for i in range(12):
            size = (20 + i, 30 - i)
            image = Image.new(
                ("RGB", "L", "P", "RGBA")[i % 4], size, colour if i % 4 in (1, 2) else (colour, 9 * i, 3)
            )
            image.save(f"fruit/{kind}/{i}.{('png', 'jpg', 'gif', 'webp')[i % 4]}")
    Path("fruit", "plums", "shot.heic").write_bytes(b"?")
    assert main(["teach", "--data=fruit", "--hr_size=16", *SMALL]) == 0
    assert "fruit: 1 files or folders are not known images or splits: fruit/plums/shot.heic" in capsys.readouterr().err
    assert main(["distill", "--data=fruit", "--teacher=runs/teacher", "--lr_size=8", *SMALL]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/student", "fruit", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"] == ["plums", "red apples"]
    assert document["images"] == 4
    # a folder that was not trained on counts whole
    assert main(["evaluate", "runs/student", "fruit", "--split=all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 24
    assert main(["evaluate", "runs/student", "fruit"]) == 0
    assert "top-5" not in capsys.readouterr().out  # of two classes


def test_a_terminal_shows_one_live_line(
    drawn: Path, drawn_teacher: Path, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--data", str(drawn), "--teacher", str(drawn_teacher), "--runs", str(tmp_path), *SMALL]
    assert main(["distill", *words]) == 0
    said = capsys.readouterr().err
    assert "teacher: 88 of 88 images" in said
    assert re.search(r"epoch \d/2  ce \d.*  train .* %  [\d,]+ images/s  \d:\d\d left", said)
    assert "\x1b[2K" in said  # a line is written over
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is back
    stays = [line for line in re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", said).splitlines() if "  val " in line]
    assert len(stays) == 1
    assert stays[0].startswith("epoch 2/2  ce ")


@pytest.mark.parametrize("option", ["--name", "--data", "--teacher"])
def test_a_name_that_is_too_long_for_the_system(option: str, refused: Refused, tmp_path: Path, drawn: Path) -> None:
    given = {"--data": drawn, "--runs": tmp_path, "--losses.kd.weight": 0, "--losses.crrcd.weight": 0}
    words = [str(word) for pair in (given | {option: "x" * 5000}).items() for word in pair]
    line = refused("distill", *words)
    assert "xxx" in line
    assert len(line) < 400


def test_evaluate_says_that_images_were_enlarged(student: Path, drawn: Path, tmp_path: Path, capsys: Printed) -> None:
    for file in (drawn / "test").rglob("*.png"):
        place = tmp_path / "tiny" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((8, 8), Image.Resampling.BICUBIC).save(place / file.name)
    tiny = [str(student), str(tmp_path / "tiny"), "--split=all", "--json"]
    assert main(["evaluate", *tiny]) == 0
    enlarged = capsys.readouterr()
    assert enlarged.err == (
        "tiny: 40 of 40 images are smaller than 16 pixels: enlarged, then degraded; --native judges low-resolution "
        "images as they are\n"
    )
    assert main(["evaluate", *tiny, "--native"]) == 0
    native = capsys.readouterr()
    assert native.err == ""
    assert main(["evaluate", str(student), str(drawn), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    # Pillow's bicubic is the training's degradation to within rounding
    assert json.loads(native.out)["top1"] == pytest.approx(whole["top1"], abs=2.5)


def test_a_full_pipe_and_a_folder_that_is_gone_are_said_in_a_line(tmp_path: Path) -> None:
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "crossres.commands.main", "info", "--json"]
            said = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        assert (said.returncode, said.stderr) == (2, "crossres: No space left on device\n")
    here = tmp_path / "gone"
    here.mkdir()
    gone = [
        sys.executable,
        "-c",
        f"import os; os.rmdir({str(here)!r}); from crossres.commands.main import main; exit(main(['info']))",
    ]
    said = subprocess.run(gone, cwd=here, capture_output=True, text=True, timeout=120)
    assert (said.returncode, said.stderr) == (2, "crossres: No such file or directory\n")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file's name is always Unicode")
def test_paths_that_are_not_utf8(refused: Refused, drawn: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    line = refused("teach", "--data", drawn, "--runs", tmp_path / odd)
    assert line.startswith("runs '")
    assert line.endswith("caf\\udce9' is not UTF-8; rename it")
