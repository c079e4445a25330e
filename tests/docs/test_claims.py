"""The pages stay short, their numbers are rendered, and their sentences are borne out by results."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossres.bench.comparison import MethodScore, compare_folder
from crossres.bench.results import method_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from grid_tables import FINALISTS, OURS, comparison_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = Path("recipes/cifar100")
KD, CRD, FSKD, REVIEW = "kd (fading, weight 4)", "crd (weight 0.4)", "fskd (weight 320)", "review (weight 20)"


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def prose(page: Path) -> str:
    """A page without code, tables and what is rendered."""
    text = re.sub(r"```.*?```|<!-- [\w-]+ -->.*?<!-- end -->", "", page.read_text(), flags=re.S)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("    ", "|")))


def test_the_pages_are_short() -> None:
    assert len(PAGES[0].read_text().split()) <= 900
    assert sum(len(page.read_text().split()) for page in PAGES[1:]) <= 16_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_accuracy_is_typed_by_hand(page: Path) -> None:
    typed = re.findall(r"\d+\.\d+ (?:%|points)", prose(page))
    assert page.parent.name == "methods" or not typed  # those come from docstrings, with their sources


def lead(recipe: str, rival: str, size: int = 8, method: str = "crrcd") -> MethodScore:
    """A method's gain over another in a grid."""
    grid, _ = comparison_of(RECIPES / f"{recipe}.yaml")
    scores = compare_folder(grid.folder, rival).scores
    return next(row for row in scores if row.method == method and row.size == size)


def ahead(recipe: str, rival: str, size: int = 8, method: str = "crrcd") -> bool:
    """Whether a method's gain is beyond noise."""
    row = lead(recipe, rival, size, method)
    return row.gain is not None and row.gain > 0 and row.is_noise is False


def cost(method: str) -> float:
    _, comparison = comparison_of(RECIPES / "methods-8x8.yaml")
    found = next(row.cost for row in comparison.scores if row.method == method)
    assert found
    return found


def first(recipe: str, size: int) -> str:
    _, comparison = comparison_of(RECIPES / f"{recipe}.yaml")
    return max((row for row in comparison.scores if row.size == size), key=lambda row: row.mean).method


def best_elsewhere(name: str) -> str:
    """The best of the compared methods of 8x8 under a degradation that it was not trained on."""
    _, comparison = comparison_of(RECIPES / "methods-8x8.yaml")
    judged = [r for r in comparison.results if name in r.get("unseen", {}) and method_of(r) in (*OURS, *FINALISTS)]
    return method_of(max(judged, key=lambda r: r["unseen"][name]["top1"]))


def rendered(page: str, name: str) -> float:
    """A number that stands in a sentence."""
    match = re.search(rf"<!-- {name} -->(.*?)<!-- end -->", (ROOT / page).read_text())
    assert match
    return float(match[1])


#: What a page says, and whether results bear it out.
CLAIMS: dict[str, tuple[str, Callable[[], bool]]] = {
    "`crrcd`, the default, has the highest mean at both sizes": (
        "README.md",
        lambda: first("methods-8x8", 8) == first("seeds", 16) == "crrcd",
    ),
    "Its lead over `review`, whose step costs twice as much, is within noise": (
        "README.md",
        lambda: (
            bool(lead("methods-8x8", REVIEW).is_noise)
            and bool(lead("seeds", REVIEW, 16).is_noise)
            and round(cost(REVIEW) / cost("crrcd")) == 2
        ),
    ),
    "and so is that over `fskd` at 16x16": (
        "README.md",
        lambda: bool(lead("seeds", FSKD, 16).is_noise) and ahead("methods-8x8", FSKD),
    ),
    "Over `kd` it is not, nor over `crd` with these weights": (
        "README.md",
        lambda: all(
            ahead(grid, rival, size) for grid, size in (("methods-8x8", 8), ("seeds", 16)) for rival in (KD, CRD)
        ),
    ),
    "within noise of `crrcd`)": ("README.md", lambda: bool(lead("methods-8x8", "crd").is_noise)),
    "labels alone are ahead of every method of this table": (
        "README.md",
        lambda: best_elsewhere("blur, noise, JPEG") == "ce",
    ),
    "a student of 0.7 million parameters is ahead of the enlarged SFace": (
        "README.md",
        lambda: rendered("README.md", "face-student-8-pairs") > rendered("README.md", "sface-8-pairs"),
    ),
    "At 16x16 SFace stays ahead": (
        "README.md",
        lambda: rendered("README.md", "sface-16-gallery") > rendered("README.md", "face-student-16-gallery"),
    ),
    "At 8x8 it is": (
        "docs/tutorials/faces.md",
        lambda: (
            rendered("docs/tutorials/faces.md", "face-student-8-gallery")
            > rendered("docs/tutorials/faces.md", "sface-8-gallery")
        ),
    ),
}


@pytest.mark.parametrize("sentence", CLAIMS)
def test_results_bear_out_what_a_page_says(sentence: str) -> None:
    page, holds = CLAIMS[sentence]
    assert sentence in " ".join((ROOT / page).read_text().split())
    assert holds()
