"""The tables of docs/faces.md, of documents that the protocols themselves wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossres.data.faces import Pairs, Search
from crossres.evaluation.identification import identify
from crossres.evaluation.verification import verify

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from face_tables import GALLERY, degraded_table, protocols_table, summary_table

PEOPLE, EACH = 30, 4


def judged(noise: float, seed: int) -> dict[str, Any]:
    """What `evaluate_faces` says of embeddings that are a person's and so much noise."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.random.default_rng(0).normal(size=(PEOPLE, 16)), EACH, axis=0)
    embeddings = people + noise * rng.normal(size=people.shape)
    left, right = np.random.default_rng(1).integers(0, len(people), (2, 600))
    left, right = left[left != right], right[left != right]
    # as many of one person as of two
    left, right = np.append(left, np.arange(0, 120, 2)), np.append(right, np.arange(1, 120, 2))
    pairs = Pairs(left, right, left // EACH == right // EACH, np.zeros(len(left), np.int64))
    first = np.arange(0, 80, EACH)
    others = np.setdiff1d(np.arange(120), first)
    search = Search(first, first // EACH, others, np.where(others < 80, others // EACH, -1))
    row = {
        "verification": verify(embeddings, embeddings, pairs, resamples=0, threshold=0.5),
        "identification": identify(embeddings, embeddings, search, resamples=0),
    }
    return {"rows": [{"sides": sides, "size": 8, **row} for sides in ("hr-lr", "lr-lr")]}


def result(losses: str, seed: int, noise: float) -> dict[str, Any]:
    return {
        "method": losses,
        "losses": {name: {} for name in losses.split("+")},
        "lr_size": 8,
        "seed": seed,
        "protocols": {GALLERY: judged(noise, seed)},
    }


def test_students_stand_beside_the_teacher_the_best_first() -> None:
    results = [result("crd", seed, 0.4) for seed in (0, 1)] + [result("cosine", 0, 1.2)]
    teacher = judged(0.8, 5)
    table = protocols_table(results, teacher, 8, "lr-lr", {}).splitlines()
    assert [line.split("|")[1].strip() for line in table] == ["", "---", "crd", "the teacher, enlarged", "cosine"]
    head, crd, enlarged = ([cell.strip() for cell in table[i].split("|")[1:-1]] for i in (0, 2, 3))
    accuracies = [
        r["protocols"][GALLERY]["rows"][1]["verification"]["accuracy_chosen"] for r in results if r["method"] == "crd"
    ]
    assert crd[head.index("accuracy")] == f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}"
    assert float(crd[-2]) < 0.05
    assert crd[-1] == "0, 1"
    assert enlarged[head.index("mAP")] == f"{teacher['rows'][1]['identification']['retrieval']['map']:.1f}"
    assert enlarged[-2:] == ["", ""]


def test_only_students_of_the_teachers_space_are_compared_with_its_gallery() -> None:
    results = [result("crd", 0, 0.4), result("cosine+crd", 0, 0.5)]
    table = protocols_table(results, judged(0.8, 5), 8, "hr-lr", {})
    assert "| cosine+crd |" in table
    assert "| crd |" not in table


def test_a_trained_copy_of_the_teacher_has_a_row_on_both_pairs_of_sides() -> None:
    for sides in ("lr-lr", "hr-lr"):
        table = protocols_table(
            [result("crd", 0, 1.2)], judged(0.8, 5), 8, sides, {"a copy": judged(0.4, 6)}
        ).splitlines()
        cells = [cell.strip() for cell in table[2].split("|")[1:-1]]
        assert cells[0] == "a copy"
        assert float(cells[-2]) < 0.05
        assert cells[-1] == "0"


def test_models_are_compared_on_clean_and_degraded_faces() -> None:
    documents = {("clean", 8): judged(0.4, 6), ("realistic", 8): judged(1.2, 7)}
    table = degraded_table({"crd": documents}).splitlines()
    assert table[0] == "| accuracy / AUC / rank-1 | 8x8, clean | 8x8, realistic |"
    name, *cells = [cell.strip() for cell in table[2].split("|")[1:-1]]
    assert name == "crd"
    for cell, document in zip(cells, documents.values(), strict=True):
        row = document["rows"][1]
        accuracy, auc, rank = (float(word) for word in cell.split(" / "))
        assert accuracy == pytest.approx(row["verification"]["accuracy_chosen"], abs=0.051)
        assert auc == pytest.approx(row["verification"]["auc"], abs=0.051)
        assert rank == pytest.approx(row["identification"]["rank1"], abs=0.051)


def test_summary_has_the_methods_asked_for_and_leaves_what_cannot_be_compared_empty() -> None:
    results = [result("crd", seed, 0.4) for seed in (0, 1)] + [result("cosine", 0, 0.5), result("rkd", 0, 0.5)]
    table = summary_table(
        results, judged(0.8, 5), ["crd", "cosine"], {"a copy": judged(0.4, 6)}, "accuracy"
    ).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert {len(row) for row in rows} == {3}
    assert [row[0] for row in rows[2:]][1:3] == ["crd", "cosine"]
    assert len(rows) == 6
    assert " ± " in rows[3][1]
    assert rows[3][2] == ""
    assert float(rows[4][2]) > 50
