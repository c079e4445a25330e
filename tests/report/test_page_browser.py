"""The report as a phone shows it, in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("playwright") is None:
    pytest.skip("a page in a browser needs playwright", allow_module_level=True)

from playwright.sync_api import Browser

#: What lies beyond the sides of the window, or is scrolled to be seen.
CUT_OFF = """() => [...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect(), style = getComputedStyle(element);
  const scrolled = style.overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1;
  return box.width && element.tagName !== "THEAD" && !element.closest("thead")
    && (box.left < -1 || box.right > innerWidth + 1 || scrolled);
}).map(element => element.outerHTML.slice(0, 120))"""
OPEN = "document.querySelectorAll('details').forEach(each => each.open = true)"
TOPS = "[...document.querySelectorAll('article')].map(each => each.getBoundingClientRect().top)"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(
    browser: Browser, runs: Path, people: Path, page_of: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    page_of(runs / "taught", runs / "alone", people / "tiny", images=4)
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate(CUT_OFF) == []
    # two errors side by side, also on a phone
    tops = page.evaluate(TOPS)
    assert tops[0] == tops[1]
    page.evaluate(OPEN)
    assert page.evaluate(CUT_OFF) == []
    page.close()
