"""The Python code of README and docs runs, and the rendered pages follow their sources."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import crossres
from crossres.data.readers import SOURCES
from crossres.evaluation.accuracy import METRICS
from crossres.losses import LOSSES
from crossres.models.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: Path) -> list[str]:
    found = re.findall(r"(<!-- needs images -->\n)?```python\n(.*?)```", page.read_text(), re.S)
    return [code for needs_images, code in found if not needs_images]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path) -> None:
    dicts: tuple[dict[str, Any], ...] = (LOSSES.data, BACKBONES, SOURCES, METRICS)  # a page may put its own in
    before = [dict(each) for each in dicts]
    names = {"__name__": "page"}
    try:
        for code in blocks(page):
            exec(compile(code, page.name, "exec", dont_inherit=True), names)
    finally:
        for each, old in zip(dicts, before, strict=True):
            each.clear()
            each.update(old)


def test_there_is_code() -> None:
    assert {page.stem for page in PAGES} >= {"README", "extend", "faces"}


def test_the_reference_has_every_public_name_and_no_other() -> None:
    named = {"load"}  # from_pretrained there
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for module, members in re.findall(
            r"^::: (\S+)(?:\n    options: \{members: \[(.+)\]\})?$", page.read_text(), re.M
        ):
            contents = vars(importlib.import_module(module))
            names = set(members.split(", ")) if members else set()
            assert names <= contents.keys(), page
            named |= names
    assert named >= set(crossres.__all__)


@pytest.mark.parametrize("script", ["methods.py", "tables.py"])
def test_rendered_pages_follow_docstrings_and_results(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
