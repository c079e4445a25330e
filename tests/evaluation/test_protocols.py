"""The face protocols on embeddings, against slow loops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crossres.data.faces import NOBODY, Search
from crossres.data.pairs import Pairs
from crossres.evaluation import protocols
from crossres.evaluation.protocols import identify, verify

RNG = np.random.default_rng(0)


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def test_verify_takes_the_cosine_of_both_sides() -> None:
    left, right = RNG.normal(size=(2, 20, 5))
    pairs = Pairs(np.arange(10), np.arange(10, 20), np.array([True] * 5 + [False] * 5), np.arange(10) % 5)
    scores = [unit(left[a]) @ unit(right[b]) for a, b in zip(pairs.left, pairs.right, strict=True)]
    found = verify(left, right, pairs, resamples=50)
    wins = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i in range(5) for j in range(5, 10)]
    assert found["auc"] == pytest.approx(100 * np.mean(wins))
    best = max(np.mean([(s >= t) == same for s, same in zip(scores, pairs.same, strict=True)]) for t in [*scores, 2])
    assert found["accuracy_best"] == pytest.approx(100 * best)
    assert found["pairs"] == {"genuine": 5, "impostor": 5}
    for each, fold in zip(found["folds"], range(5), strict=True):
        at = np.flatnonzero(pairs.fold == fold)
        judged = [(scores[i] >= each["threshold"]) == pairs.same[i] for i in at]
        assert (each["fold"], each["accuracy"]) == (fold, pytest.approx(100 * np.mean(judged)))
    assert found["accuracy"] == pytest.approx(np.mean([each["accuracy"] for each in found["folds"]]))
    for name, (low, high) in found["intervals"].items():
        assert 0 <= low <= high <= 100, name
    assert [point["too_few"] for point in found["tar_at_far"]] == [True] * 4
    one_fold = Pairs(pairs.left, pairs.right, pairs.same, np.zeros(10, dtype=np.int64))
    unfolded = verify(left, right, one_fold, resamples=0)
    assert unfolded["accuracy"] is unfolded["folds"] is None
    other = verify(left, right, pairs, resamples=50, fars=(0.5, 0.2))["tar_at_far"]
    assert [(point["far"], point["too_few"]) for point in other] == [(0.5, True), (0.2, True)]
    impostors = np.array(scores)[~pairs.same]
    for point, allowed in zip(other, (2, 1), strict=True):
        lowest = min(t for t in scores if (impostors >= t).sum() <= allowed)
        assert point["tar"] == pytest.approx(100 * np.mean(np.array(scores)[pairs.same] >= lowest))
        assert point["interval"][0] <= point["tar"] <= point["interval"][1]
    chosen = verify(left, right, pairs, resamples=50, threshold=0.1)
    right_at = np.mean([(s >= 0.1) == same for s, same in zip(scores, pairs.same, strict=True)])
    assert chosen["accuracy_chosen"] == pytest.approx(100 * right_at)
    low, high = chosen["intervals"]["accuracy_chosen"]
    assert low < chosen["accuracy_chosen"] < high
    assert found["accuracy_chosen"] is None
    for point in found["tar_at_far"]:
        assert point["interval"][0] <= point["tar"] <= point["interval"][1]
    json.dumps(found, allow_nan=False)


def test_identify_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probes = RNG.normal(size=(2, 12, 4))
    search = Search(
        np.arange(4), np.array([0, 1, 2, NOBODY]), np.arange(4, 12), np.array([0, 0, 1, 2, 2, NOBODY, NOBODY, 2])
    )
    found = identify(gallery, probes, search, resamples=50)
    first = []
    for probe, identity in zip(search.probes, search.probe_identity, strict=True):
        if identity == NOBODY:
            continue
        similarity = [unit(probes[probe]) @ unit(gallery[g]) for g in search.gallery]
        own = similarity[search.gallery_identity.tolist().index(identity)]
        first.append(1 + sum(s >= own for s in similarity) - 1)
    for k in (1, 5):
        assert found[f"rank{k}"] == pytest.approx(100 * np.mean([rank <= k for rank in first]))
    assert (found["mated_probes"], found["strangers"], found["gallery"]) == (6, 2, 4)
    assert found["cmc"][-1] == 100
    assert len(found["open_set"]) == 3
    for name, value in (("rank1", found["rank1"]), ("map", found["retrieval"]["map"])):
        low, high = found["intervals"][name]
        assert low < value < high
    for point in found["open_set"]:
        assert point["interval"][0] <= point["tpir"] <= point["interval"][1]
        assert point["tpir"] <= point["tpir_rank20"]
    # at rank 20 of 4 every mated probe is found whose own similarity reaches the threshold
    loose = found["open_set"][-1]
    owns = [
        unit(probes[probe]) @ unit(gallery[search.gallery_identity.tolist().index(identity)])
        for probe, identity in zip(search.probes, search.probe_identity, strict=True)
        if identity != NOBODY
    ]
    assert loose["tpir_rank20"] == pytest.approx(100 * np.mean([own >= loose["threshold"] for own in owns]))
    # two strangers: none, one or both of them let in
    assert found["open_set_curve"]["fpir"] == [0, 0.5, 1]
    points = identify(gallery, probes, search, resamples=0, fpirs=(0.5,))["open_set"]
    assert [(point["fpir"], point["tpir"]) for point in points] == [(0.5, found["open_set_curve"]["tpir"][1])]
    assert found["open_set_curve"]["tpir"][2] == found["rank1"]
    monkeypatch.setattr(protocols, "CHUNK", 3)  # a large search goes in parts
    assert identify(gallery, probes, search, resamples=50) == found
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
        found = identify(gallery, probes, Search(enrolled, enrolled, at, identity[at]), resamples=100)
        return [*found["intervals"].values(), *(point["interval"] for point in found["open_set"])]

    alone = intervals(known)
    # nothing new is known by looking at the same probe often
    assert np.allclose(intervals(known, times=9), alone)
    # whom nobody named is drawn alone
    assert intervals(np.append(enrolled, nobody)) == alone
    assert not np.allclose(intervals(np.append(enrolled, nobody), times=9)[2:], alone[2:])


def test_the_curve_says_what_the_table_says_at_low_far() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 8))
    embeddings = np.repeat(people, 20, axis=0) + 0.6 * rng.normal(size=(1200, 8))
    left, right = (side.ravel() for side in np.triu_indices(1200, 1))
    chosen = (left // 20 != right // 20) | (rng.random(len(left)) < 0.05)
    left, right = left[chosen][::3], right[chosen][::3]
    found = verify(
        embeddings, embeddings, Pairs(left, right, left // 20 == right // 20, np.zeros(len(left), int)), resamples=0
    )
    far, tar = (np.array(found["roc"][name]) for name in ("far", "tar"))
    for point in found["tar_at_far"]:
        drawn = tar[far <= point["far"]][-1]
        assert 100 * drawn == pytest.approx(point["tar"]), point["far"]
