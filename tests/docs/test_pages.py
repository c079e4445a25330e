import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def blocks(page):
    text = page.read_text()
    return [
        code for skip, code in re.findall(r"(<!-- needs images -->\n)?```python\n(.*?)```", text, re.S) if not skip
    ]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page):
    from crossres.data.readers import SOURCES
    from crossres.evaluation.accuracy import METRICS
    from crossres.losses import LOSSES
    from crossres.models.backbones import BACKBONES

    dicts = (LOSSES.data, BACKBONES, SOURCES, METRICS)  # a page may put its own in
    before = [dict(each) for each in dicts]
    names = {"__name__": "page"}
    try:
        for code in blocks(page):
            exec(compile(code, page.name, "exec"), names)
    finally:
        for each, old in zip(dicts, before, strict=True):
            each.clear()
            each.update(old)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_every_line_of_a_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    """Commands and code, in their order, in an empty folder."""
    from crossres.commands.main import main

    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    found = re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), re.S)
    assert {kind for kind, _ in found} == {"python", "sh"}
    for kind, code in found:
        if kind == "python":
            exec(compile(code, page.name, "exec"), names)
            continue
        for line in code.splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                exec(words[1], {})
            else:
                assert program == "crossres"
                assert main(words) == 0, f"{line}\n{capsys.readouterr().err}"
    if page.stem == "faces":
        assert capsys.readouterr().out.splitlines()[-1].startswith("camera.png: person42 ")


def test_there_is_code():
    assert {page.stem for page in PAGES} >= {"README", "extend"}


def test_the_pages_of_the_methods_follow_the_docstrings():
    subprocess.run([sys.executable, "benchmarks/methods.py", "--check"], cwd=ROOT, check=True)


def test_the_tables_follow_the_results():
    subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT, check=True)


def recipes(grids: bool) -> list[Path]:
    return [path for path in sorted(ROOT.glob("recipes/**/*.yaml")) if ("\nmethods:" in path.read_text()) == grids]


@pytest.mark.parametrize("recipe", recipes(grids=False), ids=lambda p: p.stem)
def test_recipe_is_valid(recipe):
    from crossres.config.experiment import Distill, Faces, Teach
    from crossres.config.reading import load_yaml, read

    tree = load_yaml(recipe)
    kind = Faces if recipe.parent.name == "faces" else Distill if "lr_size" in tree else Teach
    if kind is not Teach:
        tree["teacher"] = "somewhere"
    config = read(kind, tree)
    leading = ("cosine", "crrcd") if kind is Faces else ("ce",)
    assert any(config.losses[name]["weight"] >= 1 for name in leading if name in config.losses)


@pytest.mark.parametrize("recipe", recipes(grids=True), ids=lambda p: p.stem)
def test_grid_is_valid(recipe):
    from crossres.bench.grid import read_grid, runs_of

    grid = read_grid(recipe)
    runs = list(runs_of(grid))
    assert len({run.config.name for run in runs}) == len(runs) > 1
    assert grid.baseline in grid.methods
