"""Options from YAML, dicts and words: typed, filled in, and refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossres import CrossresError, Distill, Faces, Teach
from crossres.commands.main import main
from crossres.config.deployment import Enroll, Predict
from crossres.config.judging import Evaluate, EvaluateFaces
from crossres.config.options import Augment, Images, Model, Train
from crossres.config.reading import from_config, of_run, options_of_loss, read, read_run
from crossres.config.record import sha256, to_dict, to_yaml
from crossres.config.schema import options_of
from crossres.config.yaml_file import load_yaml
from crossres.data.degradation import Degradation
from crossres.losses import LOSSES
from crossres.losses.options import needs_teacher

Refused = Callable[..., str]
LABELS = {"ce": {"weight": 1.0}}

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
        channels_last=False,
        seed=7,
        tensorboard=True,
    ),
    precision="float32",
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


# refused, by name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("epoch: 3", "unknown option 'epoch'; did you mean 'train.epochs'?"),
        ("train: {epoch: 3}", "unknown option 'train.epoch'; did you mean 'train.epochs'?"),
        ("degradation: {kernal: area}", "unknown option 'degradation.kernal'; did you mean 'degradation.kernel'?"),
        ("losses: {crrd_maps: {weight: 1}}", "unknown loss 'crrd_maps'; did you mean 'crrcd_maps'?"),
        ("losses: {crrd_maps: {}}", "unknown loss 'crrd_maps'; did you mean 'crrcd_maps'?"),
        ("losses: {ce: {smoothing: 0.1}}", "unknown option 'losses.ce.smoothing'; did you mean 'label_smoothing'?"),
        ("qqq: 1", "unknown option 'qqq'; crossres distill --help all lists them"),
        ("config: other.yaml", "unknown option 'config'; "),
        ("resume: runs/student", "unknown option 'resume'; "),
        ("overwrite: true", "unknown option 'overwrite'; "),
        ("train: {epochs: many}", "train.epochs: expected a whole number or null, got 'many'"),
        ("train: {epochs: 1.5}", "train.epochs: expected a whole number or null, got 1.5"),
        ("train: {ema: [1]}", "train.ema: expected a number, got [1]"),
        ("train: {optimizer: adam}", "train.optimizer: expected sgd or adamw, got 'adam'"),
        (
            "train: {milestones: [early]}",
            "train.milestones: expected a list such as [a, b] of a number, got ['early']",
        ),
        ("train: 3", "train: expected its options as 'key: value', got 3"),
        ("losses: [ce]", "losses: expected its options as 'key: value', got ['ce']"),
        ("losses: {ce: 3}", "losses.ce: expected its options as 'key: value', got 3"),
        ("losses: {ce: {weight: heavy}}", "losses.ce.weight: expected a number, got 'heavy'"),
        ("lr_size: [4]", "lr_size: expected a whole number or [a whole number, a whole number], got [4]"),
        ("degradation: {kernel: cubic}", "degradation.kernel: expected area or bilinear or bicubic or lanczos or"),
        ("images: {download: maybe}", "images.download: expected true or false, got 'maybe'"),
        ("name: [a]", "name: expected a text, got ['a']"),
        ("1: 2", "unknown option '1'; "),
        ("- a\n- b", "holds no options; write them as 'key: value'"),
        ("train: {epochs", "not YAML: "),
        ("a: \x00", "not YAML: "),
    ],
)
def test_a_wrong_file(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.yaml").write_text(text)
    assert refused("distill", "--config", "e.yaml").startswith(f"e.yaml: {line}")


@pytest.mark.parametrize(
    ("word", "value", "line"),
    [
        ("train.epochs", "x", "train.epochs: expected a whole number or null, got 'x'"),
        ("train.learning_rate", "fast", "train.learning_rate: expected a number, got 'fast'"),
        ("train.channels_last", "2", "train.channels_last: expected true or false, got '2'"),
        (
            "lr_size",
            "[4,8,16]",
            "lr_size: expected a whole number or [a whole number, a whole number], got '[4,8,16]'",
        ),
        ("lr_size", "4,8,16", "lr_size: expected a whole number or [a whole number, a whole number], got '4,8,16'"),
        ("degradation.jpeg", "50", "degradation.jpeg: expected [a number, a number] or null, got '50'"),
        ("losses.kd.weight", "heavy", "losses.kd.weight: expected a number, got 'heavy'"),
        (
            "train.milestones",
            "0.5,late",
            "train.milestones: expected a list such as [a, b] of a number, got '0.5,late'",
        ),
    ],
)
def test_a_wrong_word(word: str, value: str, line: str) -> None:
    with pytest.raises(CrossresError) as caught:
        read(Distill, {}, {word: value})
    assert str(caught.value) == line


def test_a_teacher_has_no_loss_that_needs_a_teacher() -> None:
    for tree in ({"losses": {"kd": {"weight": 1}}}, {"losses": {"kd": {}}}):
        with pytest.raises(CrossresError, match=r"^losses\.kd needs a teacher; use crossres distill$"):
            read(Teach, tree)


@pytest.mark.parametrize(
    ("kind", "tree", "line"),
    [
        (Predict, {}, "MODEL and PHOTOS are required; see crossres predict --help"),
        (Evaluate, {"model": "m"}, "DATA is required; see crossres evaluate --help"),
        (EvaluateFaces, {"data": "d"}, "MODEL is required; see crossres faces evaluate --help"),
    ],
)
def test_what_is_missing(kind: type[Any], tree: dict[str, Any], line: str) -> None:
    with pytest.raises(CrossresError) as caught:
        read(kind, tree)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    "words", [{"losses.crd.tau": "0.2"}, {"losses.kd.weight": "0", "losses.kd.temperature": "2"}]
)
def test_an_option_of_a_loss_that_is_off_is_refused(words: dict[str, str]) -> None:
    option = list(words)[-1]
    loss = option.rpartition(".")[0]
    with pytest.raises(CrossresError) as caught:
        read(Distill, {"teacher": "t"}, words)
    assert str(caught.value) == f"{option} is set but {loss} is off; give {loss}.weight a value or take its --method"


def test_words_turn_a_loss_of_a_file_off_whatever_its_options() -> None:
    tree = {"teacher": "t", "losses": {"ce": {}, "crrcd_paper": {"weight": 1, "critic": "softmax", "tau": 0.3}}}
    assert list(read(Distill, tree, {"losses.crrcd_paper.weight": "0"}).terms) == ["ce"]
    with pytest.raises(CrossresError, match=r"^losses\.crrcd_paper\.tau is set but losses\.crrcd_paper is off"):
        read(Distill, tree, {"losses.crrcd_paper.weight": "0", "losses.crrcd_paper.tau": "0.4"})


# typed and filled in


def test_words_go_over_the_file() -> None:
    tree = {
        "teacher": "t",
        "train": {"epochs": 5, "seed": 3},
        "losses": {"kd": {"weight": 1, "temperature": 2}},
        "lr_size": [4, 8],
    }
    config = read(Distill, tree, {"train.epochs": "9"})
    assert (config.train.epochs, config.train.seed, config.lr_size) == (9, 3, (4, 8))
    # the losses a file names are the losses of the run
    assert config.losses == {"kd": {"temperature": 2.0, "weight": 1.0, "decay": False, "warm_up": 0.0}}
    both = read(Distill, tree, {"losses.ce.weight": "2"})
    assert {name: loss["weight"] for name, loss in both.terms.items()} == {"kd": 1.0, "ce": 2.0}


@pytest.mark.parametrize(
    ("kind", "option", "text", "value"),
    [
        (Evaluate, "sizes", "4,8", [4, 8]),
        (Evaluate, "sizes", "4, 8", [4, 8]),
        (Evaluate, "sizes", "4", [4]),
        (Evaluate, "sizes", "[4, 8]", [4, 8]),
        (Evaluate, "images.classes", "cat,dog", ["cat", "dog"]),
        (Evaluate, "images.classes", "null", None),
        (EvaluateFaces, "far", "1e-1,1e-3", [0.1, 0.001]),
        (EvaluateFaces, "far", "0.1", [0.1]),
        (EvaluateFaces, "search", "gallery.csv,probes.csv", ("gallery.csv", "probes.csv")),
        (
            Enroll,
            "remove",
            "1,yes,null,#2",
            ["1", "yes", "null", "#2"],
        ),  # names of people, whatever YAML makes of them
        (Enroll, "remove", "null", ["null"]),
        (Enroll, "remove", "Anna: x", ["Anna: x"]),
        (Enroll, "remove", '["Smith, Jo"]', ["Smith, Jo"]),
        (Distill, "lr_size", "8", 8),
        (Distill, "lr_size", "4,8", (4, 8)),
        (Distill, "lr_size", "[4,8]", (4, 8)),
        (Distill, "degradation.blur", "0.5,1", (0.5, 1.0)),
        (Distill, "onnx_input.mean", "0.5,0.5,0.5", (0.5, 0.5, 0.5)),
        (Distill, "train.milestones", "0.5", [0.5]),
        (Distill, "teacher_cache", "false", False),
        (Distill, "teacher_cache", "False", False),
        (Distill, "hr_size", "null", None),
        (Distill, "name", "null", "null"),
        (Distill, "name", "007", "007"),
        (Distill, "data", "[crops]", "[crops]"),
        (Distill, "data", "1,2", "1,2"),
    ],
)
def test_a_word_becomes_a_value_of_the_option_s_type(kind: type[Any], option: str, text: str, value: Any) -> None:
    required = {name: name for name, each in options_of(kind).items() if each.default is MISSING}
    options: Any = read(kind, required, {option: text})
    for part in option.split("."):
        options = getattr(options, part)
    assert options == value
    assert type(options) is type(value)


def test_an_optional_group_is_none_unless_one_of_its_options_is_given() -> None:
    judged = {"model": "m", "data": "d"}
    assert read(Evaluate, judged).degradation is None
    assert read(Evaluate, {**judged, "degradation": None}).degradation is None
    assert read(Evaluate, judged, {"degradation.kernel": "area"}).degradation == Degradation(kernel="area")
    assert read(EvaluateFaces, {**judged, "degradation": {"preset": "clean"}}).degradation == Degradation()
    assert read(EvaluateFaces, judged).onnx_input is None
    assert read(Distill, {}).degradation == Degradation()  # a training has one


def test_a_group_that_is_left_empty_keeps_its_defaults() -> None:
    assert read(Distill, {"train": None, "losses": None, "method": None}) == read(Distill, {})


@pytest.mark.parametrize("loss", LOSSES)
def test_every_option_of_a_loss_is_one_of_the_command(loss: str) -> None:
    kind = Distill if needs_teacher(loss) else Teach
    taught = {"teacher": "t"} if kind is Distill else {}
    options = {option.name: option.default for option in options_of_loss(loss)} | {"weight": 2.0}
    words = {f"losses.{loss}.{name}": str(value) for name, value in options.items() if value is not None}
    config = read(kind, {**taught, "method": "labels"}, words)
    assert config.terms[loss] == options
    assert {name: type(value) for name, value in config.terms[loss].items()} == {
        n: type(v) for n, v in options.items()
    }
    tree = {**taught, "losses": {"ce": {}, loss: options}}
    assert read(kind, tree).terms[loss] == options


# there and back


@pytest.mark.parametrize(
    "config", [FULL, Teach(), Distill(losses=LABELS), Distill(teacher="t"), Distill(teacher="t", lr_size=4), Faces()]
)
def test_yaml_there_and_back(tmp_path: Path, config: Teach) -> None:
    first = from_config(config)  # every option of its losses written out
    (tmp_path / "config.yaml").write_text(to_yaml(first))
    back = read(type(config), load_yaml(tmp_path / "config.yaml"))
    assert back == first
    assert to_yaml(back) == to_yaml(first)
    assert replace(back, losses=config.losses) == config
    for name, given in (config.losses or {}).items():
        assert given.items() <= back.terms[name].items()


def test_what_is_read_stays_as_it_was() -> None:
    tree = {"teacher": "t", "train": {"epochs": 3}, "losses": {"kd": {"temperature": 2}}, "lr_size": [4, 8]}
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    read(Distill, tree, {"losses.kd.weight": "3"})
    assert tree == copy
    config = Distill(teacher="t")
    from_config(config)
    assert config == Distill(teacher="t")


def test_paths_may_be_paths() -> None:
    assert from_config(Distill(data=Path("crops"))).data == "crops"  # type: ignore[arg-type]


# composition


def test_a_config_has_the_parts_of_what_it_is_for() -> None:
    teach, distill, faces = read(Teach, {}), read(Distill, {"lr_size": 4}), read(Faces, {"pairs": "p.txt"})
    assert teach.distillation is None
    assert teach.faces is None
    assert distill.distillation is not None
    assert (distill.distillation.lr_size, distill.distillation.teacher, distill.faces) == (4, None, None)
    assert faces.distillation is not None
    assert faces.faces is not None
    assert (faces.faces.pairs, faces.faces.val_pairs, faces.task) == ("p.txt", 6000, "faces")


def test_a_part_shares_its_options_with_the_experiment() -> None:
    config = read(Faces, {"teacher": "sface.onnx", "onnx_input": {"colours": "bgr"}, "val_pairs": 60})
    assert config.distillation is not None
    assert config.distillation.onnx_input == config.onnx_input
    assert config.distillation.teacher == "sface.onnx"
    assert config.faces is not None
    assert config.faces.val_pairs == 60
    assert config.folder == Path("runs/faces")


# runs


def test_of_run_follows_a_folder_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "moved" / "renamed"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(from_config(FULL)))
    expected = replace(from_config(FULL), runs=str(tmp_path / "moved"), name="renamed")
    assert of_run(Distill, run) == expected
    assert read_run(run) == expected
    (tmp_path / "link").symlink_to(run)
    assert of_run(Distill, tmp_path / "link").folder.resolve() == run
    monkeypatch.chdir(run)
    assert of_run(Distill, ".").folder == run
    assert of_run(Distill, "../renamed").folder.resolve() == run


def test_of_run_refuses_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=r"is not a run \(no config\.yaml\); give the folder RUNS/NAME$"):
        of_run(Distill, tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(from_config(Teach())))
    with pytest.raises(CrossresError, match=r"is a run of crossres teach; resume it with crossres teach --resume "):
        of_run(Distill, tmp_path)


@pytest.mark.parametrize(("path", "line"), [("nowhere.yaml", "no such file: nowhere.yaml"), (".", "cannot read .: ")])
def test_a_file_that_cannot_be_read(
    refused: Refused, path: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("distill", "--config", path).startswith(line)
    Path("bytes.yaml").write_bytes(b"\xff\xfe\xff")
    assert refused("distill", "--config", "bytes.yaml").startswith("cannot read bytes.yaml: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "train: {epochs: 2}\nname: x\ntrain: {batch_size: 16}\n",
            "'train' stands twice, in lines 1 and 3; keep one",
        ),
        ("train: {epochs: 1,\n  epochs: 2}\n", "'epochs' stands twice, in lines 1 and 2; keep one of them"),
        ("&a\ntrain: *a\n", "line 1: an alias of what it stands in has no end"),
        ("losses: &a\n  kd: *a\n", "line 1: an alias of what it stands in has no end"),
        ("train: " + "[" * 500 + "]" * 500, "nested in more than 30 levels"),
        ("a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)), "more than"),
        (f"train: {{seed: {'9' * 5000}}}", "not YAML: Exceeds the limit"),
        ("name: " + "x" * 5_000_000, "larger than 4 MB"),
        ("train.epochs: 2\ntrain: {epochs: 3}", "train.epochs stands twice, also in parts; keep one of them"),
        ('data: !!int ""', "not YAML: string index out of range"),
        ('data: !!bool "x"', "not YAML: 'x'"),
        ('data: !!timestamp "x"', "not YAML: "),
        ("train: {milestones: null}", "train.milestones: expected a list such as [a, b] of a number, got None"),
    ],
    ids=range(13),
)
def test_what_only_a_mistake_or_an_attack_writes(refused: Refused, text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(text)
    started = time.perf_counter()
    assert refused("distill", "--config", str(file)).startswith(f"{file}: {line}")
    assert time.perf_counter() - started < 3


def test_thousands_of_class_names_are_read_at_once(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"images: {{classes: [{', '.join(f'class {i}' for i in range(4000))}]}}\n")
    started = time.perf_counter()
    classes = read(Teach, load_yaml(file)).images.classes
    assert time.perf_counter() - started < 3
    assert classes is not None
    assert classes[-1] == "class 3999"


def test_an_empty_file_has_the_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}
    assert main(["teach", "--config", str(tmp_path / "empty.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == to_yaml(from_config(Teach()))


def test_options_of_a_loss_without_its_weight_are_refused_in_files_too() -> None:
    with pytest.raises(CrossresError, match=r"^losses\.crrcd_paper\.tau is set but losses\.crrcd_paper is off; give"):
        read(Distill, {"teacher": "t", "losses": {"crrcd_paper": {"tau": 0.1}}})
    # over a method they change what is on
    config = read(Distill, {"teacher": "t", "method": "crrcd-paper", "losses": {"crrcd_paper": {"tau": 0.1}}})
    assert (config.terms["crrcd_paper"]["tau"], config.terms["crrcd_paper"]["weight"]) == (0.1, 4.0)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    text = "common: &B {epochs: 1}\nbase: {train: &A {<<: *B, epochs: 2}}\nother: {<<: *A}\n"
    (tmp_path / "grid.yaml").write_text(text)
    assert load_yaml(tmp_path / "grid.yaml") == yaml.safe_load(text)
    (tmp_path / "grid.yaml").write_text("? [a, b]\n: 1\n")
    with pytest.raises(CrossresError, match="not YAML"):
        load_yaml(tmp_path / "grid.yaml")


def test_an_option_that_came_later_leaves_the_hash_of_earlier_runs() -> None:
    folder = Path(__file__).parents[1] / "old_files" / "run"
    recorded = json.loads((folder / "result.json").read_text())
    now = to_dict(read_run(folder))
    assert "range" not in recorded["config"]["images"]
    assert now["images"]["range"] is None
    ours, theirs = (Teach(data="x", images=Images(range=limits)) for limits in (None, (0, 4095)))
    assert sha256(ours) != sha256(theirs)
