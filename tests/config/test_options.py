"""Every option: shown with its default, typed, checked, and the same through YAML, --config and the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossres import CrossresError, Distill, Teach
from crossres.commands.main import main
from crossres.config.options import (
    Augment,
    Faces,
    Images,
    Model,
    Train,
    portable,
    sha256,
    to_dict,
    to_yaml,
)
from crossres.config.reading import build_parser, from_dict, of_run, parse
from crossres.data.degradation import Degradation
from crossres.losses import LOSSES

Refused = Callable[..., str]

LABELS = {"ce": {"weight": 1.0}}


def options(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a config as it is written on the command line, with its value."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from options(value, f"{prefix}{field.name}.")
        elif field.name != "losses":
            yield f"{prefix}{field.name}", value


def shown(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every option that the help of a command shows, with the default it shows."""
    monkeypatch.setenv("COLUMNS", "2000")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code in (0, None)
    page = capsys.readouterr().out
    found = re.findall(r"^  --([\w.]+)\b(?:(?!^  --)[\s\S])*?default: (.*)\)$", page, re.M)
    return {option: yaml.safe_load(default) for option, default in found}


@pytest.mark.parametrize(("command", "kind"), [("teach", Teach), ("distill", Distill)])
def test_help_shows_every_option_with_its_default(
    command: str, kind: type[Teach], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = shown(command, capsys, monkeypatch)
    for option, value in options(kind()):
        # three numbers are shown as Python writes them
        assert defaults[option] == (str(value) if isinstance(value, tuple) else value), option
    parser = build_parser(kind)
    of_losses = {action.dest: action.default for action in parser._actions if action.dest.startswith("losses.")}
    for option, value in of_losses.items():
        if option.count(".") == 2:
            assert defaults[option] == value, option
    assert {option.split(".")[1] for option in of_losses} == {
        name for name, loss in LOSSES.items() if kind is Distill or not loss.needs_teacher
    }
    assert defaults["losses.ce.weight"] == 1
    assert defaults["losses.ce.label_smoothing"] == 0


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--train.epoch=3", "unknown option --train.epoch; did you mean 'train.epochs'?"),
        ("--epochs", "unknown option --epochs; did you mean 'train.epochs'?"),
        ("--modle.name=resnet8", "unknown option --modle.name; did you mean 'model.name'?"),
        ("--losses.ec.weight=1", "unknown option --losses.ec.weight; did you mean 'losses.ce.weight'?"),
        ("--losses.crd.temperature=1", "unknown option --losses.crd.temperature; did you mean 'losses.crd.tau'?"),
        ("--qqq", "unknown option --qqq; crossres distill --help lists them all"),
        ("resnet8", "unknown argument resnet8; an option is written --NAME VALUE, see crossres distill --help"),
    ],
)
def test_unknown_options(refused: Refused, word: str, line: str) -> None:
    assert refused("distill", word).startswith(line)


def test_a_teacher_has_no_distillation_loss(refused: Refused) -> None:
    expected = "unknown option --losses.kd.weight; losses.kd needs a teacher, which crossres distill has"
    assert refused("teach", "--losses.kd.weight=1") == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("epoch: 3", "unknown key 'epoch'; did you mean 'train.epochs'?"),
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("degradation: {kernal: area}", "unknown key 'degradation.kernal'; did you mean 'degradation.kernel'?"),
        ("losses: {crrdc: {weight: 1}}", "unknown key 'losses.crrdc.weight'; did you mean 'losses.crrcd.weight'?"),
        (
            "losses: {ce: {smoothing: 0.1}}",
            "unknown key 'losses.ce.smoothing'; did you mean 'losses.ce.label_smoothing'",
        ),
        ("qqq: 1", "unknown key 'qqq'; crossres distill --help lists them all"),
        ("config: other.yaml", "unknown key 'config'; crossres distill --help lists them all"),
        ("resume: runs/student", "unknown key 'resume'; "),
        ("overwrite: true", "unknown key 'overwrite'; "),
        ("train: {epochs: many}", "train.epochs: expected int, got 'many'"),
        ("train: {epochs: 1.5}", "train.epochs: expected int, got '1.5'"),
        ("train: {ema: [1]}", "train.ema: expected float, got '[1]'"),
        ("train: {learning_rate: .nan}", "train.learning_rate: nan is outside"),
        ("losses: {ce: {weight: .inf}}", "losses.ce.weight: inf is negative or no number"),
        ("train: {optimizer: adam}", "train.optimizer: expected sgd or adamw, got 'adam'"),
        ("train: {milestones: [early]}", "train.milestones: expected list[float], got "),
        ("train: 3", "train: expected its options as 'key: value', got 3"),
        ("train:", "train: expected its options as 'key: value', got None"),
        ("losses: [ce]", "losses: expected its options as 'key: value', got ['ce']"),
        ("losses: {ce: 3}", "losses.ce: expected its options as 'key: value', got 3"),
        ("losses: {ce: {weight: heavy}}", "losses.ce.weight: expected float, got 'heavy'"),
        ("lr_size: [4]", "lr_size: expected int | tuple[int, int], got '[4]'"),
        (
            "degradation: {kernel: cubic}",
            "degradation.kernel: expected area or bilinear or bicubic or lanczos or",
        ),
        ("degradation: {blur: [3, 1]}", "degradation.blur: (3.0, 1.0) is not a range within 0..16"),
        ("images: {download: maybe}", "images.download: expected bool, got 'maybe'"),
        ("name: [a]", "name: expected str, got "),
        ("1: 2", "Key must be a string, got: 1."),
        ("- a\n- b", "e.yaml: holds no options; write them as 'key: value'"),
        ("train: {epochs", "e.yaml: not YAML: "),
        ("a: \x00", "e.yaml: not YAML: "),
    ],
)
def test_a_wrong_yaml(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.yaml").write_text(text)
    assert refused("distill", "--config", "e.yaml").startswith(line)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--train.epochs=x"], "train.epochs: expected int, got 'x'"),
        (["--train.learning_rate=nan"], "train.learning_rate: expected float, got 'nan'"),
        (["--train.optimizer", "adam"], "train.optimizer: expected sgd or adamw, got 'adam'"),
        (["--train.channels_last", "2"], "train.channels_last: expected bool, got '2'"),
        (["--lr_size", "[4,8,16]"], "lr_size: expected int | tuple[int, int], got '[4, 8, 16]'"),
        (["--degradation.jpeg", "50"], "degradation.jpeg: expected Optional[tuple[float, float]], got '50'"),
        (["--losses.kd.weight", "heavy"], "losses.kd.weight: expected float, got 'heavy'"),
        (["--train", "3"], "train: Unable to load config '3'"),
        (["--train.epochs"], "argument --train.epochs: expected one argument"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", "nowhere.yaml"], "no such file: nowhere.yaml"),
        (["--config", "."], "cannot read .: "),
    ],
)
def test_wrong_types_on_the_command_line(refused: Refused, words: list[str], line: str) -> None:
    assert refused("distill", *words).startswith(line)


FULL = Distill(
    data="folder",
    name="everything",
    runs="elsewhere",
    hr_size=24,
    images=Images(image_column="img", test_fraction=0.3, fit="pad", corrupt="skip", download=True, root="/r"),
    augment=Augment(shift=2, flip=False),
    model=Model(name="resnet8", embedding_dim=32, input_size=16, small_input="no", weights="w.pt"),
    train=Train(
        epochs=3,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="step",
        milestones=[0.5],
        ema=0.9,
        precision="float32",
        channels_last=False,
        seed=7,
        tensorboard=True,
    ),
    teacher="runs/teacher",
    lr_size=(4, 8),
    degradation=Degradation(preset="realistic", kernel="area", blur=(0.0, 1.5), jpeg=(30.0, 90.0)),
    teacher_cache=False,
    cache_dir="c",
    losses={
        "ce": {"label_smoothing": 0.1, "weight": 0.5, "decay": False, "warm_up": 0.0},
        "kd": {"temperature": 2.0, "weight": 3.0, "decay": True, "warm_up": 0.1},
    },
)


@pytest.mark.parametrize(
    "config", [FULL, Teach(), Distill(losses=LABELS), Distill(teacher="t"), Distill(teacher="t", lr_size=4)]
)
def test_yaml_there_and_back(tmp_path: Path, config: Teach) -> None:
    first = from_dict(type(config), to_dict(config))  # every option of its losses written out
    (tmp_path / "config.yaml").write_text(to_yaml(first))
    back = parse(type(config), ["--config", str(tmp_path / "config.yaml")]).config
    assert back == first
    assert to_yaml(back) == to_yaml(first)
    assert replace(back, losses=config.losses) == config
    for name, given in config.losses.items():
        assert given.items() <= back.losses[name].items()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Teach, []),
        (Teach, ["--train.epochs=3", "--losses.ce.label_smoothing=0.1", "--model.name=resnet20"]),
        (Distill, ["--teacher=t", "--lr_size=[4,8]", "--degradation.blur=[0.5,1]", "--degradation.preset=realistic"]),
        (Distill, ["--teacher=t", "--losses.ce.weight=0", "--losses.crd.weight=2", "--losses.crd.form=bank"]),
        (Distill, ["--losses.kd.weight=0", "--losses.crrcd.weight=0", "--train.milestones=[0.5,0.9]", "--name=a b"]),
    ],
)
def test_print_config_reproduces_the_run(
    kind: type[Teach],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = kind.__name__.lower()
    assert main([command, *words, "--print_config"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    Path("printed.yaml").write_text(said.out)
    asked = parse(kind, words)
    assert not asked.print_config
    assert parse(kind, ["--config", "printed.yaml"]).config == asked.config
    assert main([command, "--config=printed.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == said.out
    assert not Path("runs").exists()


def test_an_option_overrides_the_file_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("teacher: t\ntrain: {epochs: 5, seed: 3}\nlosses: {kd: {temperature: 2}}\nlr_size: [4, 8]")
    for words in (["--train.epochs=9", f"--config={path}"], ["--config", str(path), "--train.epochs", "9"]):
        config = parse(Distill, words).config
        assert (config.train.epochs, config.train.seed, config.lr_size) == (9, 3, (4, 8))
        # the losses a file names are the losses of the run; a weight left out is 1
        assert config.losses == {"kd": {"temperature": 2.0, "weight": 1.0, "decay": False, "warm_up": 0.0}}
    both = parse(Distill, ["--config", str(path), "--losses.ce.weight=2"]).config
    assert {name: loss["weight"] for name, loss in both.losses.items()} == {"ce": 2.0, "kd": 1.0}


def test_flags() -> None:
    asked = parse(Teach, ["--overwrite"])
    assert (asked.overwrite, asked.resume, asked.print_config) == (True, False, False)


@pytest.mark.parametrize("words", [["--losses.crd.tau=0.2"], ["--losses.kd.weight=0", "--losses.kd.temperature=2"]])
def test_an_option_of_a_loss_that_is_off_is_refused(refused: Refused, words: list[str]) -> None:
    option = words[-1].lstrip("-").split("=")[0]
    weight = option.rpartition(".")[0] + ".weight"
    line = refused("distill", "--teacher=t", *words)
    assert line == f"{option} is set but {weight} is 0; give {weight} a value"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--train.epochs=0"], "train.epochs: 0 is outside 1..1e+06"),
        (["--train.batch_size=0"], "train.batch_size: 0 is outside 1.."),
        (["--train.learning_rate=0"], "train.learning_rate: 0 is outside"),
        (["--train.momentum=1"], "train.momentum: 1 is outside"),
        (["--train.weight_decay=-1"], "train.weight_decay: -1 is outside"),
        (["--train.val_fraction=1"], "train.val_fraction: 1 is outside"),
        (["--train.ema=1"], "train.ema: 1 is outside"),
        (["--train.devices=0"], "train.devices: 0 is outside"),
        (["--train.seed=-1"], "train.seed: -1 is outside"),
        (["--train.milestones=[0.5,2]"], "train.milestones: 2 is outside 0..1"),
        (["--images.test_fraction=0"], "images.test_fraction: 0 is outside"),
        (["--images.memory_mb=-1"], "images.memory_mb: -1 is outside"),
        (["--images.workers=-1"], "images.workers: -1 is outside"),
        (["--augment.shift=-1"], "augment.shift: -1 is outside"),
        (["--hr_size=0"], "hr_size: 0 is outside"),
        (["--model.input_size=0"], "model.input_size: 0 is outside"),
        (["--model.embedding_dim=0"], "model.embedding_dim: 0 is outside"),
        (["--losses.ce.weight=0"], "losses: every weight is 0; give at least one term a weight"),
        (["--losses.ce.weight=-1"], "losses.ce.weight: -1.0 is negative or no number"),
        (["--name="], "name: '' is not a folder's name"),
        (["--name=.."], "name: '..' is not a folder's name"),
        (["--name=a/b"], "name: 'a/b' is not a folder's name"),
    ],
)
def test_ranges(refused: Refused, words: list[str], line: str) -> None:
    assert refused("teach", *words).startswith(line)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--lr_size=0"], "lr_size 0: an image has at least 1 pixel"),
        (["--lr_size=-3"], "lr_size -3: an image has at least 1 pixel"),
        (["--lr_size=[8,4]"], "lr_size (8, 4): the range is empty"),
        (["--hr_size=8", "--lr_size=16"], "lr_size 16 is larger than hr_size 8; choose lr_size <= 8"),
        (["--degradation.jpeg=[0,50]"], "degradation.jpeg: quality starts at 1"),
        (["--degradation.noise=[0,2]"], "degradation.noise: (0.0, 2.0) is not a range within 0..1"),
    ],
)
def test_ranges_of_distill(refused: Refused, words: list[str], line: str) -> None:
    assert refused("distill", "--teacher=t", *words).startswith(line)


def test_a_loss_that_needs_a_teacher_says_so(refused: Refused) -> None:
    assert refused("distill").startswith("losses.kd needs a teacher; give --teacher, or losses.kd.weight 0")


def test_from_python_an_unknown_loss_is_named() -> None:
    with pytest.raises(CrossresError, match=r"unknown key 'losses\.crrd\.weight'; did you mean 'losses\.crrcd"):
        from_dict(Distill, to_dict(Distill(teacher="t", losses={"crrd": {"weight": 1.0}})))


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return [0.1] if isinstance(value, list) else "another"


def test_sha256_is_of_what_decides_the_numbers() -> None:
    base = replace(FULL, data="sets/shapes", teacher="runs/teacher")
    same = sha256(base)
    assert re.fullmatch(r"[0-9a-f]{64}", same)
    moved = replace(base, name="b", runs="/b", cache_dir="/b", data="/mnt/sets/shapes/", teacher="/b/teacher")
    assert sha256(replace(moved, images=replace(base.images, root="/elsewhere"))) == same
    seen = {same}
    for option, value in options(base):
        if option in ("name", "runs", "cache_dir", "images.root"):
            continue
        group, _, key = option.rpartition(".")
        other = (0.5, 0.75) if option.startswith("degradation.") and key in ("blur", "noise") else changed(value)
        if option == "degradation.jpeg":
            other = (20.0, 30.0)
        part = replace(getattr(base, group), **{key: other}) if group else other
        seen.add(sha256(replace(base, **{group or key: part})))
    assert len(seen) == 1 + len(list(options(base))) - 4
    assert (
        sha256(replace(base, losses={**base.losses, "ce": {**base.losses["ce"], "label_smoothing": 0.2}})) not in seen
    )


def test_a_published_config_names_no_folder_of_this_machine() -> None:
    tree = portable(replace(FULL, data="/home/me/sets/shapes", teacher="/home/me/teacher", runs="/home/me/runs"))
    assert "/" not in yaml.safe_dump(tree)
    assert (tree["data"], tree["teacher"], tree["runs"]) == ("shapes", "teacher", "runs")


def test_of_run_follows_a_folder_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "moved" / "renamed"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(FULL))
    expected = replace(FULL, runs=str(tmp_path / "moved"), name="renamed")
    assert to_dict(of_run(Distill, run)) == to_dict(expected)
    (tmp_path / "link").symlink_to(run)
    assert of_run(Distill, tmp_path / "link").folder.resolve() == run
    monkeypatch.chdir(run)
    assert of_run(Distill, ".").folder == run
    assert of_run(Distill, "../renamed").folder.resolve() == run


def test_of_run_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=r"holds no run \(no config\.yaml\); give the folder RUNS/NAME"):
        of_run(Distill, tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(Teach()))
    with pytest.raises(CrossresError, match="is a run of crossres teach; go on with that command"):
        of_run(Distill, tmp_path)


def test_the_command_line_turns_a_loss_of_a_file_off_whatever_its_options(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("teacher: t\nlosses: {ce: {}, crrcd: {critic: softmax, tau: 0.3}}")
    asked = parse(Distill, ["--config", str(path), "--losses.crrcd.weight", "0"])
    assert list(asked.config.losses) == ["ce"]
    line = refused("distill", "--config", path, "--losses.crrcd.weight=0", "--losses.crrcd.tau=0.4")
    assert line.startswith("losses.crrcd.tau is set but losses.crrcd.weight is 0")


def test_teacher_name_wants_a_checkpoint(refused: Refused) -> None:
    words = ["--teacher_name=resnet20", "--losses.kd.weight=0", "--losses.crrcd.weight=0"]
    assert refused("distill", *words).endswith("give its file as teacher")


def test_paths_may_be_paths() -> None:
    assert from_dict(Distill, to_dict(Distill(data=Path("crops"), teacher="t"))).data == "crops"  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Teach, Distill, Faces])
def test_command_line_without_losses_trains_by_the_defaults_of_python(kind: type[Teach]) -> None:
    taught = [] if kind is Teach else ["--teacher", "teacher.onnx"]
    asked = parse(kind, ["--data", "photos", *taught]).config.losses
    for name, options in kind().losses.items():
        assert {key: asked[name][key] for key in options} == options, name
    assert set(asked) == set(kind().losses)


def test_turning_a_loss_of_the_defaults_off_drops_its_options() -> None:
    config = parse(Distill, ["--data", "photos", "--teacher", "t", "--losses.kd.weight=0"]).config
    assert sorted(config.losses) == ["ce", "crrcd"]
