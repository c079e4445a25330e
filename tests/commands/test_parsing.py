"""One parser for every command: the same options as words, in a YAML file and in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from crossres import CrossresError, Distill, Teach
from crossres.commands.main import COMMANDS, main
from crossres.commands.parsing import parse, switches
from crossres.config.check import RANGES
from crossres.config.deployment import Enroll, Identify, Predict, Verify
from crossres.config.experiment import Experiment
from crossres.config.judging import Demo, Evaluate, Info
from crossres.config.reading import read
from crossres.config.record import to_dict, to_yaml
from crossres.config.schema import Option, options_of, parts
from crossres.config.yaml_file import load_yaml

Refused = Callable[..., str]

KINDS: dict[str, Any] = {
    command: getattr(import_module(f"crossres.config.{module}"), name)
    for command, (module, name, _) in COMMANDS.items()
}
#: Values of options that another one would contradict, or that are checked more closely than by their type.
VALUES: dict[str, Any] = {
    "method": "crd",
    "teacher_name": "resnet20",
    "degradation.noise": (0.25, 0.5),
    "degradation.jpeg": (20.0, 30.5),
    "degradation.share": 0.5,
    "train.milestones": [0.25, 0.5],
    "hr_size": 40,
}


def value_of(option: Option) -> Any:
    """Return a value of an option's type that is not its default."""
    if option.name in VALUES:
        return VALUES[option.name]
    kind = next(part for part in parts(option.type) if part is not NoneType)
    if option.choices:
        return next(choice for choice in reversed(option.choices) if choice != option.default)
    if get_origin(kind) in (list, tuple):
        samples: dict[Any, list[Any]] = {int: [4, 5], float: [1.5, 2.5, 3.5], str: ["a b", "c"]}
        inside = get_args(kind)
        return samples[inside[0]] if get_origin(kind) is list else tuple(samples[inside[0]][: len(inside)])
    if kind is bool:
        return not option.default
    if kind is str:
        return "another"
    low, high = RANGES.get(option.name, (1, 100))
    return kind(low + 1 if kind is int else (low + high) / 2)


def text_of(value: Any) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(text_of, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """Return options by full name as YAML nests them."""
    tree: dict[str, Any] = {}
    for name, value in options.items():
        group, _, key = name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[key] = list(value) if isinstance(value, tuple) else value
    return tree


def in_python(kind: type[Any], options: dict[str, Any]) -> Any:
    """Return the dataclass of options by full name, built as a user builds it."""
    plain = {name: value for name, value in options.items() if "." not in name}
    for name, value in options.items():
        group, _, key = name.rpartition(".")
        if group:
            made = next(part for part in parts(get_type_hints(kind)[group]) if is_dataclass(part))
            plain[group] = replace(plain[group], **{key: value}) if group in plain else made(**{key: value})
    return kind(**plain)


def required(kind: type[Any]) -> dict[str, Any]:
    return {name: value_of(option) for name, option in options_of(kind).items() if option.default is MISSING}


def companions(kind: type[Any], name: str) -> dict[str, Any]:
    """Return what an option needs beside it."""
    more = required(kind)
    if issubclass(kind, Experiment) and name in ("teacher_name", "method") and "teacher" in options_of(kind):
        more["teacher"] = "t"
    if name == "natural_labels":
        more["natural"] = "crops"
    if name == "degradation.share":
        more["degradation.preset"] = "realistic"
    return {key: value for key, value in more.items() if key != name}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_is_the_same_as_words_in_a_file_and_in_python(command: str, tmp_path: Path) -> None:
    kind = KINDS[command]
    for name, option in options_of(kind).items():
        value = value_of(option)
        if name == "method":
            value = next(method for method in reversed(kind.methods) if kind is not Teach or method == "labels")
        more = companions(kind, name)
        beside = [f"--{key}={text_of(each)}" for key, each in more.items()]
        path = tmp_path / "options.yaml"
        path.write_text(yaml.safe_dump(nested({**more, name: value})))
        spaced = parse(kind, [*beside, f"--{name}", text_of(value)])
        dashed = parse(kind, [f"--{name.replace('_', '-')}={text_of(value)}", *beside])
        assert spaced.words == dashed.words
        request = parse(kind, ["--config", str(path)])
        results = [
            read(kind, {}, spaced.words),
            read(kind, load_yaml(request.config or ""), request.words),
            read(kind, to_dict(in_python(kind, {**more, name: value}))),
        ]
        assert results[0] == results[1] == results[2], name
        if name != "method":  # it becomes its losses
            result: Any = results[0]
            for part in name.split("."):
                result = getattr(result, part)
            assert (result, type(result)) == (value, type(value)), name


@pytest.mark.parametrize("command", COMMANDS)
def test_what_print_config_prints_gives_the_same_options(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = KINDS[command]
    most = {name: value_of(option) for name, option in options_of(kind).items() if name != "method"}
    if "teacher_top_k" in most:
        most["teacher_cache"] = True  # it is of the cache
    for options in (required(kind), most):
        words = [f"--{name}={text_of(value)}" for name, value in options.items()]
        assert main([*command.split(), *words, "--print_config"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        Path("printed.yaml").write_text(printed.out)
        unproven = printed.out.replace("trust_code: true", "trust_code: false")  # a file does not vouch for itself
        assert read(kind, load_yaml("printed.yaml")) == read(kind, {}, parse(kind, words).words)
        assert main([*command.split(), "--config=printed.yaml", "--print-config"]) == 0
        assert capsys.readouterr().out == unproven
    assert [path.name for path in tmp_path.iterdir()] == ["printed.yaml"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Teach, ["--train.epochs=3", "--losses.ce.label_smoothing=0.1", "--model.name=resnet20"]),
        (Distill, ["--teacher=t", "--lr-size=[4,8]", "--degradation.blur=[0.5,1]", "--degradation.preset=realistic"]),
        (Distill, ["--teacher=t", "--losses.ce.weight=0", "--losses.crd.weight=2", "--losses.crd.form=bank"]),
        (Distill, ["--teacher=t", "--method=review", "--train.milestones=[0.5,0.9]", "--name=a b"]),
    ],
)
def test_a_printed_experiment_has_its_losses(kind: type[Teach], words: list[str], tmp_path: Path) -> None:
    config = read(kind, {}, parse(kind, words).words)
    (tmp_path / "printed.yaml").write_text(to_yaml(config))
    assert read(kind, load_yaml(tmp_path / "printed.yaml")) == config


# words without a name


def test_the_data_of_a_distillation_is_its_first_word() -> None:
    words = parse(Distill, ["crops", "--teacher", "runs/t", "--lr-size", "8"]).words
    assert words == {"data": "crops", "teacher": "runs/t", "lr_size": "8"}
    config = read(Distill, {}, words)
    assert (config.data, config.teacher, config.lr_size) == ("crops", "runs/t", 8)
    assert parse(Distill, ["--teacher", "runs/t", "--lr-size", "8", "crops"]).words == words


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (Teach, [], {}),
        (Evaluate, ["m", "d"], {"model": "m", "data": "d"}),
        (Evaluate, ["--model=m", "d"], {"model": "m", "data": "d"}),
        (Evaluate, ["m", "--native", "d"], {"model": "m", "data": "d", "native": "true"}),
        (Evaluate, ["m", "--native", "false", "d"], {"model": "m", "data": "d", "native": "false"}),
        (Predict, ["m", "a.png", "b,c.png", "1"], {"model": "m", "photos": '["a.png", "b,c.png", "1"]'}),
        (Predict, ["m", "--top", "3", "--", "-a.png"], {"model": "m", "top": "3", "photos": '["-a.png"]'}),
        (Identify, ["--photos", "a,b", "--photos=c", "g"], {"photos": '["a", "b", "c"]', "gallery": "g"}),
        (Verify, ["a.png", "b.png"], {"photos": '["a.png", "b.png"]'}),
        (Enroll, ["g"], {"gallery": "g"}),
    ],
)
def test_words_without_a_name_fill_the_options_of_the_usage(
    kind: type[Any], words: list[str], expected: dict[str, str]
) -> None:
    assert parse(kind, words).words == expected


def test_photos_keep_their_names_whatever_they_are() -> None:
    photos = ["a,b.png", "1", "null", "[x]", "yes", "ü.png"]
    assert read(Predict, {}, parse(Predict, ["m", *photos]).words).photos == photos


# values


def test_an_option_of_several_values_may_be_given_several_times() -> None:
    for words in (["--sizes", "4,8"], ["--sizes=4", "--sizes=8"], ["--sizes", "[4,8]"]):
        assert read(Evaluate, {}, parse(Evaluate, ["m", "d", *words]).words).sizes == [4, 8]
    three = parse(Evaluate, ["m", "d", "--sizes=4,8", "--sizes", "16"]).words
    assert read(Evaluate, {}, three).sizes == [4, 8, 16]
    # of any other option the last one counts
    assert parse(Distill, ["--train.epochs=1", "--train.epochs=2"]).words == {"train.epochs": "2"}
    assert parse(Distill, ["--lr_size=8", "--lr_size=[4,8]"]).words == {"lr_size": "[4,8]"}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--teacher_cache"], "true"),
        (["--teacher_cache", "false"], "false"),
        (["--teacher-cache", "False"], "False"),
        (["--teacher_cache=false"], "false"),
        (["--lr_size", "-3"], "-3"),
        (["--lr_size=--x"], "--x"),
        (["--name", "a=b"], "a=b"),
        (["--name=a=b"], "a=b"),
        (["--name="], ""),
        (["--name", "-"], "-"),
    ],
)
def test_how_a_value_is_written(words: list[str], value: str) -> None:
    assert list(parse(Distill, words).words.values()) == [value]


def test_switches() -> None:
    request = parse(Teach, ["--overwrite", "--print-config"])
    assert (request.overwrite, request.print_config, request.resume, request.json) == (True, True, None, False)
    assert not parse(Teach, ["--overwrite=false"]).overwrite
    assert parse(Teach, ["--resume", "runs/a"]).resume == "runs/a"
    assert parse(Evaluate, ["m", "d", "--json"]).json
    assert list(switches(Teach)) == ["config", "print_config", "resume", "overwrite"]
    assert list(switches(Info)) == ["config", "print_config", "json"]
    assert list(switches(Demo)) == ["config", "print_config"]


def test_an_option_overrides_the_file_wherever_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("teacher: t\ntrain: {epochs: 5, seed: 3}\n")
    pages = []
    for words in (["--train.epochs=9", f"--config={path}"], ["--config", str(path), "--train.epochs", "9"]):
        assert main(["distill", *words, "--print_config"]) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    assert yaml.safe_load(pages[0])["train"].items() >= {"epochs": 9, "seed": 3}.items()


# refused


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--train.epoch=3"], "unknown option '--train.epoch'; did you mean 'train.epochs'?"),
        (["--epochs"], "unknown option --epochs; did you mean '--train.epochs'?"),
        (["--modle.name=resnet8"], "unknown option '--modle.name'; did you mean 'model.name'?"),
        (["--train.lr=1"], "unknown option '--train.lr'; did you mean 'train.learning_rate'?"),
        (["--train.flip=no"], "unknown option '--train.flip'; did you mean 'augment.flip'?"),
        (["--train.wd=0"], "unknown option '--train.wd'; did you mean 'train.weight_decay'?"),
        (["--train.xyz=0"], "unknown option '--train.xyz'; crossres distill --help all lists them"),
        (["--losses.ec.weight=1"], "unknown loss 'ec'; did you mean 'ce'?"),
        (["--losses.crd.temperature=1"], "unknown option '--losses.crd.temperature'; known: decay, form, momentum,"),
        (["--losses.kd"], "unknown option '--losses.kd'; known: decay, temperature, warm_up, weight"),
        (["--qqq"], "unknown option '--qqq'; crossres distill --help all lists them"),
        (["-q"], "unknown option "),
        (["-name", "x"], "unknown option -name; did you mean '--name'?"),
        (
            ["crops", "resnet8"],
            "unknown argument resnet8; an option is written --NAME VALUE, see crossres distill --h",
        ),
        (["--data=crops", "resnet8"], "unknown argument resnet8; "),
        (["--train", "3"], "unknown option --train; "),
        (["--train.epochs"], "--train.epochs: its value is missing"),
        (["--train.epochs", "--overwrite"], "--train.epochs: its value is missing"),
        (["--config"], "--config: its value is missing"),
        (["--overwrite=maybe"], "--overwrite: expected true or false, got 'maybe'"),
        (["--json"], "unknown option "),  # a training returns no document to print
        (
            ["--resume", "runs/a", "--train.epochs=3"],
            "--resume takes every option from the run; leave --train.epochs=3",
        ),
        (
            ["--train.epochs", "3", "--resume=runs/a"],
            "--resume takes every option from the run; leave --train.epochs",
        ),
        (["--resume", "runs/a", "--overwrite"], "--resume takes every option from the run; leave --overwrite out"),
    ],
)
def test_what_is_refused(refused: Refused, words: list[str], line: str) -> None:
    assert refused("distill", *words).startswith(line)


def test_a_teacher_s_loss_is_refused_by_teach(refused: Refused) -> None:
    assert refused("teach", "--losses.kd.weight=1") == "losses.kd needs a teacher; use crossres distill"


def test_the_error_of_a_plain_command_is_as_helpful(refused: Refused) -> None:
    assert refused("info", "--jsn") == "unknown option --jsn; did you mean '--json'?"
    assert refused("evaluate", "m", "d", "--size", "8") == "unknown option --size; did you mean '--sizes'?"
    assert refused("evaluate", "m") == "DATA is required; see crossres evaluate --help"


def test_parse_leaves_the_reading_to_others() -> None:
    with pytest.raises(CrossresError, match=r"^train\.epochs: expected a whole number or null, got 'x'$"):
        read(Distill, {}, parse(Distill, ["--train.epochs=x"]).words)
    assert json.loads(parse(Predict, ["m", "p"]).words["photos"]) == ["p"]
