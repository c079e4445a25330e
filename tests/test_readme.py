import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def blocks():
    text = (ROOT / "README.md").read_text()
    return [code for skip, code in re.findall(r"(<!-- no-run -->\n)?```python\n(.*?)```", text, re.S) if not skip]


@pytest.mark.parametrize("code", blocks())
def test_code_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_there_is_code():
    assert len(blocks()) >= 1


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/**/*.yaml")), ids=lambda p: p.stem)
def test_recipe_is_valid(recipe):
    from crossres.config import Distill, Teach
    from crossres.parsing import _load, from_dict

    tree = _load(recipe)
    kind = Distill if "lr_size" in tree else Teach
    if kind is Distill:
        tree["teacher"] = "somewhere"
    config = from_dict(kind, tree)
    assert config.losses["ce"]["weight"] == 1
