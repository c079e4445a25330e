"""The one parser: a command line to the options of its command, over those of a YAML file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossres.config.experiment import Cache, Experiment, FacesCache
from crossres.config.schema import options_of
from crossres.core.errors import CrossresError, nearest


@dataclass
class Request:
    """What a command line says.

    Attributes:
        words: options by full name, as text.
        config: YAML file that they change.
        json: print one JSON document.
        print_config: print the YAML of the options and stop.
        resume: folder of a run to go on with.
        overwrite: replace the run of this name.
    """

    words: dict[str, str] = field(default_factory=dict)
    config: str | None = None
    json: bool = False
    print_config: bool = False
    resume: str | None = None
    overwrite: bool = False


def switches(kind: type[Any]) -> dict[str, str]:
    """Return the options of a command line beside those of the command, with their help."""
    texts = {"config": "YAML file of any of these options; options override it", "print_config": "print that YAML"}
    if getattr(kind, "returns_document", False):
        texts["json"] = "print one JSON document and nothing else on stdout"
    if issubclass(kind, Experiment) and not issubclass(kind, (Cache, FacesCache)):
        texts["resume"] = "folder of a run to go on with; no other options"
        texts["overwrite"] = "replace the run of this name"
    return texts


def parse(kind: type[Any], words: Sequence[str]) -> Request:
    """Split a command line into its options; ``--a-b`` is ``--a_b``, words without a name fill ``kind.positional``.

    Args:
        kind: dataclass of the command.
        words: without the command itself.

    Raises:
        CrossresError: an unknown option, one without its value, or a word too many, in one line.
    """
    request = Request()
    plain: list[str] = []
    lists: dict[str, list[str]] = {}
    for name, value in _tokens(kind, words):
        if name is None:
            plain.append(value)
        elif name in switches(kind):
            flag = isinstance(getattr(request, name), bool)
            if flag and value.lower() not in ("true", "false"):
                raise CrossresError(f"--{name}: expected true or false, got '{value}'")
            setattr(request, name, value.lower() == "true" if flag else value)
        elif name in options_of(kind) and options_of(kind)[name].is_repeatable:
            lists.setdefault(name, []).append(value)
        else:
            request.words[name] = value
    for name, values in lists.items():
        # an option of several values may be given several times
        request.words[name] = (
            values[0] if len(values) == 1 else json.dumps([v for text in values for v in _split(text)], default=str)
        )
    _place(kind, plain, request.words)
    kept = ("--resume", "--trust_code")
    if request.resume and (others := [w for w in words if w.startswith("-") and w.split("=")[0] not in kept]):
        raise CrossresError(f"--resume takes every option from the run; leave {others[0]} out")
    return request


def _tokens(kind: type[Any], words: Sequence[str]) -> Iterator[tuple[str | None, str]]:
    """Yield each option's full name and value; words that are no option's have no name."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            yield from ((None, each) for each in rest)
            return
        if not word.startswith("-") or word == "-" or _is_number(word):
            yield None, word
            continue
        name, equals, value = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")  # -name stays unknown: one dash is no option's
        flag = _is_flag(kind, name, word)
        if not equals and flag and not (rest and rest[0].lower() in ("true", "false")):
            value = "true"
        elif not equals:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise CrossresError(f"{word.split('=')[0]}: its value is missing")
            value = rest.pop(0)
        yield name, value


def _split(text: str) -> list[Any]:
    """Return the values of a list as it is written: a,b or [a, b]."""
    from crossres.config.yaml_file import parse_yaml

    try:
        return list(parse_yaml(text)) if text.startswith("[") else text.split(",")
    except CrossresError:
        raise CrossresError(f"'{text:.80}' is not a list such as [a, b]") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_flag(kind: type[Any], name: str, word: str) -> bool:
    """Whether an option is true where it has no value; refuse an unknown one."""
    if name in switches(kind):
        return name not in ("config", "resume")
    from crossres.config.reading import option

    try:
        return option(kind, name).is_flag
    except CrossresError as error:
        known = {*options_of(kind), *switches(kind)}
        near = nearest(name, known)
        if "." in name or not near.startswith("; did you mean"):
            raise CrossresError(str(error).replace("option '", "option '--")) from None
        near = near.replace("'", "'--", 1)
        raise CrossresError(f"unknown option {word.split('=')[0]}{near}") from None


def _place(kind: type[Any], plain: list[str], words: dict[str, str]) -> None:
    """Give words without a name to the command's positional options, the last of which may take several."""
    rest = list(plain)
    for name in kind.positional:
        if not rest:
            return
        if name in words:
            continue
        if options_of(kind)[name].is_list:
            words[name], rest = json.dumps(rest), []
        else:
            words[name] = rest.pop(0)
    if rest:
        raise CrossresError(
            f"unknown argument {rest[0]}; an option is written --NAME VALUE, see {kind.command} --help"
        )
