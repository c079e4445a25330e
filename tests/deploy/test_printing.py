"""What commands print: one line a result, whatever a name holds and whatever the terminal can show."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crossres.commands.main import main
from crossres.commands.printing import show
from crossres.core.errors import visible
from crossres.core.files import cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain caf\u00e9", "plain caf\u00e9"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("\u202egnp.evil", "\\u202egnp.evil"),
        ("not utf8 \udce9", "not utf8 \\udce9"),
    ],
)
def test_a_name_cannot_change_the_terminal(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(text) == shown
    show(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_one_line_a_photo_and_no_formula(
    drawn: Path, onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = next((drawn / "test" / "bar").glob("*.png"))
    for name in ("\x1b[31mred.png", "two\nlines.png", "=1+1.png"):
        shutil.copy(photo, tmp_path / name)
    table = tmp_path / "out" / "answers.csv"
    table.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    assert (
        main(["predict", str(onnx_file), "=1+1.png", "\x1b[31mred.png", "two\nlines.png", "--csv", str(table)]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["=1+1.png", "\\x1b[31mred.png", "two\\nlines.png"]
    with table.open(newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == ["'=1+1.png", "\x1b[31mred.png", "two\nlines.png"]
    assert [cell(value) for value in ("@a", "a=1", 0.5, None)] == ["'@a", "a=1", 0.5, None]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_an_encoding_lacks_is_escaped(drawn: Path, student: Path, encoding: str, tmp_path: Path) -> None:
    folder = shutil.copytree(drawn / "test", tmp_path / "\u732b")
    for words in (["predict", str(student), str(folder)], ["evaluate", str(student), str(folder), "--split", "all"]):
        done = subprocess.run(
            [sys.executable, "-m", "crossres.commands.main", *words],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"\\u732b" in done.stdout
