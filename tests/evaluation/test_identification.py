"""Identification and retrieval against slow loops, on random and on tied similarities."""

from __future__ import annotations

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.evaluation.identification import (
    NOBODY,
    average_precision,
    cmc,
    draw_people,
    of_identities,
    open_set,
    people_of,
    ranks,
    retrieval,
    unit_rows,
)

CASES = [(seed, tied) for seed in range(4) for tied in (False, True)]


def draw(seed: int, tied: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarities (25, 18), gallery identities with several images and distractors, probes with strangers."""
    rng = np.random.default_rng(seed)
    gallery = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, *[NOBODY] * 6])
    probes = np.concatenate([rng.integers(0, 8, 15), np.arange(100, 110)])
    scores = rng.normal((probes[:, None] == gallery) * 1.2, 1)
    return (np.round(scores) if tied else scores), gallery, probes


def slow_identity_scores(row, gallery, several):
    found: dict[object, list[float]] = {}
    for column, (score, owner) in enumerate(zip(row, gallery, strict=True)):
        found.setdefault(("nobody", column) if owner == NOBODY else int(owner), []).append(score)
    return {name: max(v) if several == "max" else sum(v) / len(v) for name, v in found.items()}


def slow_rank(of_identity, identity):
    if identity not in of_identity:
        return 0
    return 1 + sum(score >= of_identity[identity] for name, score in of_identity.items() if name != identity)


@pytest.mark.parametrize(("seed", "tied"), CASES)
@pytest.mark.parametrize("several", ["max", "mean"])
def test_ranks_and_cmc(seed: int, tied: bool, several) -> None:
    scores, gallery, probes = draw(seed, tied)
    by_identity, names = of_identities(scores, gallery, several)
    assert by_identity.shape == (25, 8 + 6)
    found = ranks(by_identity, names, probes)
    expected = [
        slow_rank(slow_identity_scores(r, gallery, several), int(p)) for r, p in zip(scores, probes, strict=True)
    ]
    assert found.tolist() == expected
    mated = [rank for rank in expected if rank]
    assert cmc(found, 5).tolist() == pytest.approx([100 * np.mean([r <= k for r in mated]) for k in range(1, 6)])


@pytest.mark.parametrize(("seed", "tied"), CASES)
@pytest.mark.parametrize("fpir", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("rank", [1, 3])
def test_open_set(seed: int, tied: bool, fpir: float, rank: int) -> None:
    scores, gallery, probes = draw(seed, tied)
    by_identity, names = of_identities(scores, gallery)
    point = open_set(by_identity, names, probes, fpir, rank)
    tables = [slow_identity_scores(row, gallery, "max") for row in scores]
    strangers = [max(t.values()) for t, p in zip(tables, probes, strict=True) if p not in t]
    best = 0.0
    for threshold in {-np.inf, np.inf, *(v for t in tables for v in t.values())}:
        if np.mean([s >= threshold for s in strangers]) > fpir:
            continue
        hits = [
            slow_rank(t, int(p)) <= rank and t[int(p)] >= threshold
            for t, p in zip(tables, probes, strict=True)
            if p in t
        ]
        best = max(best, 100 * float(np.mean(hits)))
    assert point.tpir == pytest.approx(best)
    assert np.mean([s >= point.threshold for s in strangers]) <= fpir
    assert (point.strangers, point.too_few) == (10, 10 * fpir < 10)


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_average_precision_both_ways(seed: int, tied: bool) -> None:
    scores, gallery, _ = draw(seed, tied)
    relevant = gallery == 0
    for row in scores:
        order = sorted(range(len(row)), key=lambda i: (-row[i], relevant[i]))
        hits = old_recall = step = trapezoid = 0.0
        old_precision = 1.0
        for place, i in enumerate(order, 1):
            hits += relevant[i]
            recall, precision = hits / relevant.sum(), hits / place
            trapezoid += (recall - old_recall) * (old_precision + precision) / 2
            step += (recall - old_recall) * precision
            old_recall, old_precision = recall, precision
        assert average_precision(row, relevant) == pytest.approx(trapezoid)
        assert average_precision(row, relevant, "step") == pytest.approx(step)


def test_retrieval_over_probes() -> None:
    scores, gallery, probes = draw(0, False)
    scores, probes = scores[:15], probes[:15]
    result = retrieval(scores, gallery, probes)
    each = [average_precision(row, gallery == p) for row, p in zip(scores, probes, strict=True)]
    assert result["map"] == pytest.approx(100 * np.mean(each))
    nearest = [gallery[np.argmax(row)] == p for row, p in zip(scores, probes, strict=True)]
    assert result["rank1"] == pytest.approx(100 * np.mean(nearest))
    assert (result["probes"], result["gallery"], result["distractors"]) == (15, 18, 6)
    assert result["rank1"] <= result["rank5"] <= result["rank20"] == 100


def test_a_drawn_person_comes_with_all_images() -> None:
    person = people_of([7, NOBODY, 3, 7, NOBODY, 7])
    assert len(set(person.tolist())) == 4
    assert person[0] == person[3] == person[5]
    rng, drawn, seen = np.random.default_rng(0), 500, np.zeros(6)
    for _ in range(drawn):
        times = np.bincount(draw_people(person, rng), minlength=6)
        assert times[0] == times[3] == times[5]
        assert times[[0, 1, 2, 4]].sum() == 4  # as many people as there are
        seen += times
    assert (abs(seen / drawn - 1) < 0.2).all()  # everybody alike, however many images they have


def test_rows_of_unit_length_and_what_is_none() -> None:
    assert unit_rows([[3.0, 4.0]], "gallery").tolist() == [[0.6, 0.8]]
    for rows, line in (
        (np.zeros((0, 4)), r"the gallery is empty"),
        ([[1.0, float("nan")]], r"the gallery's embedding 0 is NaN, infinite or 0; 1 such rows in all"),
        ([[1.0, 0.0], [0.0, 0.0]], r"the gallery's embedding 1 is NaN, infinite or 0"),
        ([1.0, 2.0], r"the gallery is \(2,\), expected \(N, d\)"),
    ):
        with pytest.raises(CrossresError, match=rf"^{line}"):
            unit_rows(rows, "gallery")


def test_protocols_that_cannot_be() -> None:
    scores, gallery, probes = draw(0, False)
    by_identity, names = of_identities(scores, gallery)
    with pytest.raises(
        CrossresError, match=r"^no probe has its identity in the gallery; give a person one number in both$"
    ):
        cmc(np.zeros(3, int), 5)
    with pytest.raises(CrossresError, match=r"^open-set identification: there is no stranger among 15 probes$"):
        open_set(by_identity[:15], names, probes[:15], 0.1)
    with pytest.raises(CrossresError, match=r"there is no probe whose identity is in the gallery among 10"):
        open_set(by_identity[15:], names, probes[15:], 0.1)
    with pytest.raises(CrossresError, match=r"lies within 0..1, got 3$"):
        open_set(by_identity, names, probes, 3)
    with pytest.raises(CrossresError, match=r"^the gallery is empty or has"):
        of_identities(np.zeros((3, 0)), [])
    with pytest.raises(CrossresError, match=r"^retrieval: a probe has no image of its identity in the gallery$"):
        retrieval(scores, gallery, probes)
    with pytest.raises(CrossresError, match=r"^retrieval: similarities \(25, 18\) for 3 probes and 18 images$"):
        retrieval(scores, gallery, probes[:3])


def test_nan_is_refused_before_it_passes_for_the_first_of_a_ranking() -> None:
    scores, gallery, probes = draw(0, tied=False)
    scores[3, 2] = np.nan
    by_identity = np.full((2, 2), 0.5)
    by_identity[1] = np.nan
    own = np.array([0, 1])
    refused = r"of \d+ similarities are NaN or infinite; look for a NaN embedding$"
    for judge in (
        lambda: of_identities(scores, gallery),
        lambda: retrieval(scores[:, :12], gallery[:12], np.zeros(len(probes), dtype=int)),
        lambda: average_precision(scores[3], gallery == 0),
        lambda: ranks(by_identity, own, own),
        lambda: open_set(by_identity, own, np.array([0, 9]), 0.5),
    ):
        with pytest.raises(CrossresError, match=refused):
            judge()
