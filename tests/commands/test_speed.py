"""``crossres speed``: what it prints; what it measures is in tests/deploy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from crossres.commands.main import main

OLD = Path(__file__).parents[1] / "old_files" / "student-int8.onnx"
#: three significant digits
NUMBER = r"(?:\d\.\d\d|\d\d\.\d|[\d,]*\d{3}|[\d,]+00)"
TIME = rf"{NUMBER} (?:µs|ms|s)"


def test_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", str(OLD), "--batch_size", "4"]) == 0
    costs, machine, blank, heads, one, every, repeats = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"{OLD}: reads 8x8 pixels, multiply-adds not recorded \(export it again\), 0\.\d\d\d MB", costs
    )
    assert re.fullmatch(r"onnxruntime \S+, \w+ \w+, \d+ cores; images of that size, decoded before", machine)
    assert blank == ""
    assert heads.split("  ")[-1].strip() == "batches of 4"
    for line, threads in ((one, "1 thread"), (every, "all cores")):
        rate = rf"{NUMBER} images/s \({NUMBER} to {NUMBER}\)"
        assert re.fullmatch(rf"{threads} +{TIME} \({TIME} to {TIME}\) +{rate}", line)
    assert re.fullmatch(r"medians of at least \d+ repetitions; in brackets their middle half", repeats)


def test_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", str(OLD), "--batch_size", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["timings"][0]["of_one"]["median"] > 0


def test_no_such_file(refused: Callable[..., str]) -> None:
    assert refused("speed", "none.onnx") == "none.onnx: No such file or directory"
