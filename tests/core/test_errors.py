"""One line for a user's mistake, with the nearest right word."""

from __future__ import annotations

import os

import pytest

from crossres.core.errors import CrossresError, decoders_live, demand_utf8, library_errors, nearest, needs, one_line


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("epoch", ["epochs", "seed"], "; did you mean 'epochs'?"),
        ("qqq", ["epochs", "seed"], "; known: epochs, seed"),
        ("qqq", [str(i) for i in range(41)], ""),
        ("qqq", [], ""),
    ],
)
def test_the_nearest_word(word: str, known: list[str], text: str) -> None:
    assert nearest(word, known) == text


def test_other_errors_than_of_a_killed_decoder_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^other$"), decoders_live():
        raise RuntimeError("other")


def test_a_message_of_several_lines_becomes_one() -> None:
    assert one_line(ValueError("a\n  b\tc\n")) == "a b c"
    assert one_line("a\nb" * 100, 10) == "a ba ba ba"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("") == ""


def test_what_a_library_raises_becomes_one_line() -> None:
    with (
        pytest.raises(CrossresError, match=r"^a.onnx: cannot be read \(bad magic\)$"),
        library_errors("a.onnx: cannot be read"),
    ):
        raise RuntimeError("bad\n  magic")
    with pytest.raises(CrossresError, match=r"^no such column$"), library_errors("a.onnx: cannot be read"):
        raise CrossresError("no such column")
    with pytest.raises(KeyboardInterrupt), library_errors("a.onnx: cannot be read"):
        raise KeyboardInterrupt


def test_a_missing_package_is_named_with_its_extra() -> None:
    line = r"^a search needs no_such_package: pip install 'crossres\[predict\]'$"
    with pytest.raises(CrossresError, match=line), needs("a search", "predict"):
        import no_such_package.part  # noqa: F401
    with needs("json", "predict"):
        import json
    assert json


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file's name is always Unicode")
def test_a_path_that_is_not_utf8() -> None:
    demand_utf8("data", "ü")
    with pytest.raises(CrossresError, match=r"^data 'caf\\udce9' is not UTF-8; rename it$"):
        demand_utf8("data", os.fsdecode(b"caf\xe9"))
