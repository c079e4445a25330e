"""Identification and retrieval against slow loops, on random and on tied similarities."""

from __future__ import annotations

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.data.faces import NOBODY, Search
from crossres.evaluation import identification
from crossres.evaluation.identification import (
    by_identity,
    cmc,
    draw_people,
    identify,
    open_set,
    people_of,
    rank_probes,
    retrieve,
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


def slow_identity_scores(row, gallery):
    scores: dict[object, list[float]] = {}
    for column, (score, owner) in enumerate(zip(row, gallery, strict=True)):
        scores.setdefault(("nobody", column) if owner == NOBODY else int(owner), []).append(score)
    return {name: max(values) for name, values in scores.items()}


def slow_rank(of_identity, identity):
    if identity not in of_identity:
        return 0
    return 1 + sum(score >= of_identity[identity] for name, score in of_identity.items() if name != identity)


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_ranks_and_cmc(seed: int, tied: bool) -> None:
    scores, gallery, probes = draw(seed, tied)
    nearest, names = by_identity(scores, gallery)
    assert nearest.shape == (25, 8 + 6)
    ranks = rank_probes(nearest, names, probes).rank
    expected = [slow_rank(slow_identity_scores(r, gallery), int(p)) for r, p in zip(scores, probes, strict=True)]
    assert ranks.tolist() == expected
    mated = [rank for rank in expected if rank]
    assert cmc(ranks, 5).tolist() == pytest.approx([100 * np.mean([r <= k for r in mated]) for k in range(1, 6)])


@pytest.mark.parametrize(("seed", "tied"), CASES)
@pytest.mark.parametrize("fpir", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("rank", [1, 3])
def test_open_set(seed: int, tied: bool, fpir: float, rank: int) -> None:
    scores, gallery, probes = draw(seed, tied)
    point = open_set(rank_probes(*by_identity(scores, gallery), probes), fpir, rank)
    tables = [slow_identity_scores(row, gallery) for row in scores]
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
    assert 100 * point.share == pytest.approx(best)
    assert np.mean([s >= point.threshold for s in strangers]) <= fpir
    assert len(strangers) == 10
    assert point.too_few == (10 * fpir < 10)


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_average_precision(seed: int, tied: bool) -> None:
    scores, gallery, _ = draw(seed, tied)
    relevant = gallery == 0
    for row in scores:
        order = sorted(range(len(row)), key=lambda i: (-row[i], relevant[i]))
        hits = old_recall = trapezoid = 0.0
        old_precision = 1.0
        for place, i in enumerate(order, 1):
            hits += relevant[i]
            recall, precision = hits / relevant.sum(), hits / place
            trapezoid += (recall - old_recall) * (old_precision + precision) / 2
            old_recall, old_precision = recall, precision
        (area,), (first,) = retrieve(row[None], gallery, [0])
        assert area == pytest.approx(trapezoid)
        assert first == 1 + min(place for place, i in enumerate(order) if relevant[i])


def test_retrieval_over_probes() -> None:
    scores, gallery, probes = draw(0, False)
    scores, probes = scores[:15], probes[:15]
    precisions, ranks = retrieve(scores, gallery, probes)
    each = [retrieve(row[None], gallery, [p]) for row, p in zip(scores, probes, strict=True)]
    assert precisions.tolist() == [precision[0] for precision, _ in each]
    assert ranks.tolist() == [rank[0] for _, rank in each]
    assert [len(column) for column in retrieve(scores[:0], gallery, probes[:0])] == [0, 0]
    nearest = [gallery[np.argmax(row)] == p for row, p in zip(scores, probes, strict=True)]
    assert (ranks == 1).tolist() == nearest
    assert 1 <= ranks.min() <= ranks.max() <= 18


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
        (np.zeros((0, 4)), r"the gallery: no embeddings$"),
        ([[1.0, float("nan")]], r"embedding 0 of the gallery is NaN, infinite or 0; 1 such rows in all"),
        ([[1.0, 0.0], [0.0, 0.0]], r"embedding 1 of the gallery is NaN, infinite or 0"),
        ([1.0, 2.0], r"the gallery: \(2,\), expected \(N, d\)"),
    ):
        with pytest.raises(CrossresError, match=rf"^{line}"):
            unit_rows(rows, "gallery")


def test_protocols_that_cannot_be() -> None:
    scores, gallery, probes = draw(0, False)
    nearest, names = by_identity(scores, gallery)
    with pytest.raises(CrossresError, match=r"^no probe shows a person of the gallery; use the same name in both$"):
        cmc(np.zeros(3, int), 5)
    with pytest.raises(CrossresError, match=r"^open-set identification: there is no stranger among 15 probes$"):
        open_set(rank_probes(nearest[:15], names, probes[:15]), 0.1)
    with pytest.raises(CrossresError, match=r"there is no probe whose identity is in the gallery among 10"):
        open_set(rank_probes(nearest[15:], names, probes[15:]), 0.1)
    with pytest.raises(CrossresError, match=r"lies within 0..1, got 3$"):
        open_set(rank_probes(nearest, names, probes), 3)
    with pytest.raises(CrossresError, match=r"^the gallery is empty or has"):
        by_identity(np.zeros((3, 0)), [])
    with pytest.raises(CrossresError, match=r"^retrieval: a probe has no image of its identity in the gallery$"):
        retrieve(scores, gallery, probes)
    with pytest.raises(CrossresError, match=r"^retrieval: similarities \(25, 18\) for 3 probes and 18 images$"):
        retrieve(scores, gallery, probes[:3])


def test_nan_is_refused_before_it_passes_for_the_first_of_a_ranking() -> None:
    scores, gallery, probes = draw(0, tied=False)
    scores[3, 2] = np.nan
    nearest = np.full((2, 2), 0.5)
    nearest[1] = np.nan
    own = np.array([0, 1])
    refused = r"of \d+ similarities are NaN or infinite; look for a NaN embedding$"
    for judge in (
        lambda: by_identity(scores, gallery),
        lambda: retrieve(scores[:, :12], gallery[:12], np.zeros(len(probes), dtype=int)),
        lambda: rank_probes(nearest, own, own),
    ):
        with pytest.raises(CrossresError, match=refused):
            judge()


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def test_identify_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probes = np.random.default_rng(0).normal(size=(2, 12, 4))
    search = Search(
        np.arange(4), np.array([0, 1, 2, NOBODY]), np.arange(4, 12), np.array([0, 0, 1, 2, 2, NOBODY, NOBODY, 2])
    )
    result = identify(gallery, probes, search, resamples=50)
    first = []
    for probe, identity in zip(search.probes, search.probe_identity, strict=True):
        if identity == NOBODY:
            continue
        similarity = [unit(probes[probe]) @ unit(gallery[g]) for g in search.gallery]
        own = similarity[search.gallery_identity.tolist().index(identity)]
        first.append(1 + sum(s >= own for s in similarity) - 1)
    for k in (1, 5):
        assert result[f"rank{k}"] == pytest.approx(100 * np.mean([rank <= k for rank in first]))
    assert (result["mated_probes"], result["strangers"], result["gallery"]) == (6, 2, 4)
    retrieval = result["retrieval"]
    assert (retrieval["probes"], retrieval["gallery"], retrieval["distractors"]) == (6, 4, 1)
    assert retrieval["rank1"] == result["rank1"] <= retrieval["rank5"] <= retrieval["rank20"] == 100
    assert result["cmc"][-1] == 100
    assert len(result["open_set"]) == 3
    for name, value in (("rank1", result["rank1"]), ("map", result["retrieval"]["map"])):
        low, high = result["intervals"][name]
        assert low < value < high
    for point in result["open_set"]:
        assert point["interval"][0] <= point["tpir"] <= point["interval"][1]
        assert point["tpir"] <= point["tpir_rank20"]
    # at rank 20 of 4 every mated probe is result whose own similarity reaches the threshold
    loose = result["open_set"][-1]
    owns = [
        unit(probes[probe]) @ unit(gallery[search.gallery_identity.tolist().index(identity)])
        for probe, identity in zip(search.probes, search.probe_identity, strict=True)
        if identity != NOBODY
    ]
    assert loose["tpir_rank20"] == pytest.approx(100 * np.mean([own >= loose["threshold"] for own in owns]))
    # two strangers: none, one or both of them let in
    assert result["open_set_curve"]["fpir"] == [0, 0.5, 1]
    points = identify(gallery, probes, search, resamples=0, fpirs=(0.5,))["open_set"]
    assert [(point["fpir"], point["tpir"]) for point in points] == [(0.5, result["open_set_curve"]["tpir"][1])]
    assert result["open_set_curve"]["tpir"][2] == result["rank1"]
    monkeypatch.setattr(identification, "CHUNK", 3)  # a large search goes in parts
    assert identify(gallery, probes, search, resamples=50) == result
    mated_only = Search(search.gallery, search.gallery_identity, search.probes[:5], search.probe_identity[:5])
    closed = identify(gallery, probes, mated_only, resamples=0)
    assert closed["open_set"] is closed["open_set_curve"] is None


def test_intervals_draw_people() -> None:
    rng = np.random.default_rng(3)
    gallery, probes = rng.normal(size=(2, 30, 4))
    probes[:12] += gallery[:12]
    enrolled, nobody = np.arange(12), np.full(8, NOBODY)
    known = np.append(enrolled, 100 - np.arange(8))  # strangers with a name each

    def intervals(identity: np.ndarray, times: int = 1) -> list[list[float]]:
        at = np.repeat(np.arange(len(identity)), times)
        result = identify(gallery, probes, Search(enrolled, enrolled, at, identity[at]), resamples=100)
        return [*result["intervals"].values(), *(point["interval"] for point in result["open_set"])]

    alone = intervals(known)
    # nothing new is known by looking at the same probe often
    assert np.allclose(intervals(known, times=9), alone)
    # whom nobody named is drawn alone
    assert intervals(np.append(enrolled, nobody)) == alone
    assert not np.allclose(intervals(np.append(enrolled, nobody), times=9)[2:], alone[2:])
