"""Every file below recipes/ is an experiment or a grid."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from crossres.bench.grid import read_grid
from crossres.commands.main import main
from crossres.config.experiment import Distill, Faces, Teach
from crossres.config.reading import read
from crossres.config.yaml_file import load_yaml

ROOT = Path(__file__).resolve().parents[2]


def recipes(grids: bool) -> list[Path]:
    return [path for path in sorted(ROOT.glob("recipes/**/*.yaml")) if ("\nmethods:" in path.read_text()) == grids]


@pytest.mark.parametrize("recipe", recipes(grids=False), ids=lambda p: p.stem)
def test_recipe_is_valid(recipe: Path) -> None:
    tree = load_yaml(recipe)
    kind = Faces if "crossres faces distill" in recipe.read_text() else Distill if "lr_size" in tree else Teach
    if kind is not Teach:
        tree["teacher"] = "somewhere"
    config = read(kind, tree)
    leading = ("cosine", "crrcd_paper", "crrcd_images") if kind is Faces else ("ce",)
    assert any(config.losses[name]["weight"] >= 1 for name in leading if name in config.losses)


@pytest.mark.parametrize("recipe", recipes(grids=True), ids=lambda p: p.stem)
def test_grid_is_valid(recipe: Path) -> None:
    grid = read_grid(recipe)  # every run of it, too
    assert len(grid.methods) > 1
    assert grid.baseline in grid.methods


@pytest.mark.parametrize("recipe", [*recipes(grids=False), *recipes(grids=True)], ids=lambda p: p.stem)
def test_the_commands_in_a_recipe_are_valid(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = re.findall(r"^# crossres ([^>\n]+)", recipe.read_text(), re.M)
    assert lines
    for words in map(shlex.split, lines):
        with redirect_stdout(io.StringIO()):
            assert main([*words, "--print_config"]) == 0
