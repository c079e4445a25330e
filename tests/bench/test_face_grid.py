"""A grid of face encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from crossres.commands.main import main
from crossres.data.readers import read


def test_a_grid_of_faces(
    crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES", str(crowd))
    images = read(crowd, split="train", open_set=True)
    values = np.random.default_rng(0).normal(size=(len(images), 64)).astype(np.float32)
    np.savez("stored.npz", path=np.array([images.path(i) for i in range(len(images))]), embedding=values)
    rows = [f"p{a}_0000,p{a}_0001,1\np{a}_0000,p{a - 1}_0001,0" for a in range(13, 24)]
    Path("pairs.csv").write_text("\n".join(["left,right,same", *rows]) + "\n")
    grid: dict[str, Any] = {
        "name": "crowd",
        "task": "faces",
        "pairs": [{"teacher": "stored.npz", "student": "resnet8"}],
        "baseline": "cosface",
        "base": {
            "hr_size": 16,
            "val_pairs": 60,
            "train": {"epochs": 1, "batch_size": 16, "val_fraction": 0.25},
            "device": "cpu",
            "precision": "float32",
        },
        "methods": {"cosface": {"cosface": {"weight": 1, "scale": 16.0}}, "cosine": "cosine"},
        "protocols": {"own": {"data": "$FACES", "pairs": "pairs.csv", "sizes": [4, 8], "resamples": 0}},
    }
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    words = ["bench", "grid.yaml", "--data", str(crowd), "--parallel", "2"]
    assert main(words) == 0
    folder = Path("results/crowd")
    table = (folder / "comparison.md").read_text()
    assert table.startswith("| setting | method | accuracy |")
    assert "| resnet8 8x8 | cosine |" in table
    document = json.loads((folder / "resnet8-8x8-cosine-seed0.json").read_text())
    assert [row["size"] for row in document["protocols"]["own"]["rows"]] == [None, 4, 4, 8, 8]
    legend = (folder / "comparison.txt").read_text()
    assert legend.startswith("accuracy in % on the test pairs after the last epoch")
    assert "McNemar p" in legend
    assert main(words) == 0  # nothing is left to do
    assert json.loads((folder / "resnet8-8x8-cosine-seed0.json").read_text()) == document
    capsys.readouterr()
    for wrong, line in (
        ({"unseen": {"a": {"preset": "realistic"}}}, "unseen: does not apply to task faces"),
        ({"task": "x"}, "task: expected distill or faces, got 'x'"),
    ):
        Path("wrong.yaml").write_text(yaml.safe_dump(grid | wrong))
        assert line in refused("bench", "wrong.yaml")
