"""``crossres info``."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import pytest

import crossres
from crossres.commands.main import main


def test_lines_and_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert printed.err == ""
    assert facts["crossres"] == crossres.__version__
    assert facts["packages"]["torch"] == importlib.metadata.version("torch")
    assert facts["devices"][0] == "cpu"
    assert isinstance(facts["bfloat16_in_hardware"]["cpu"], bool)
    for package, number in facts["packages"].items():
        assert f"  {package} " in text
        assert number is None or number in text
    assert text.startswith(f"crossres {crossres.__version__}, Python {facts['python']}")


def test_without_torch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from crossres.commands import info

    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(info, "version", absent)
    monkeypatch.setattr(info, "find_spec", lambda _name: None)
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["packages"].values()) == {None}
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "devices: none (torch is not installed)" in text
    assert "bfloat16" not in text
