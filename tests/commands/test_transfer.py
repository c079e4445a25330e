"""``crossres transfer``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import crossres
from crossres import Degradation, Transfer, build_encoder, transfer
from crossres.commands.main import main
from crossres.models.pretrained import save_pretrained


def test_the_command_and_the_function(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=("x", "y"), input_size=8)
    save_pretrained(encoder, tmp_path / "model", info={"hr_size": 16, "lr_size": 8})
    words = ["transfer", str(tmp_path / "model"), str(drawn), "--device", "cpu"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model on shapes at 8: 4 classes, 96 training and 40 test images"
    assert [line.split()[0] for line in lines[1:]] == ["linear", "nearest"]
    changed = ["--degradation.kernel", "nearest", "--degradation.blur", "0.5,1", "--images.classes", "disc,bar"]
    assert main([*words, "--json", *changed]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["model"], result["classes"], result["degradation"]["kernel"]) == ("model", 2, "nearest")
    assert result["images"] == {"train": 48, "test": 20}
    options = Transfer(
        model=str(tmp_path / "model"),
        data=str(drawn),
        images=crossres.TestImages(classes=["bar", "disc"]),
        degradation=Degradation(kernel="nearest", blur=(0.5, 1.0)),
        device="cpu",
    )
    assert transfer(options) == result
