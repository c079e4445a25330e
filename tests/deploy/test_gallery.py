"""The gallery: who is nearest, thresholds that keep their rate, and files that keep everything."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.deploy.gallery import Gallery, Match, ModelIdentity, cosine
from crossres.deploy.thresholds import TOLERANCE
from crossres.evaluation.identification import open_set, rank_probes, unit_rows
from crossres.evaluation.verification import roc, tar_at_far

WIDTH = 16
MODEL = ModelIdentity("teacher", ("a" * 64,))
People = dict[str, np.ndarray]


def drawn_people(count: int = 40) -> tuple[People, np.ndarray]:
    """People with 1 to 5 noisy embeddings each, by name, and the centres of those."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count, WIDTH))
    noisy = (centre + 0.4 * rng.normal(size=(1 + i % 5, WIDTH)) for i, centre in enumerate(centres))
    return {f"p{i}": rows for i, rows in enumerate(noisy)}, centres


def some(count: int = 40, **options) -> tuple[Gallery, np.ndarray]:
    """A gallery of such people, and their centres."""
    people, centres = drawn_people(count)
    return filled(people, **options), centres


def filled(people: People, **options) -> Gallery:
    gallery = Gallery(WIDTH, **options)
    for name, rows in people.items():
        gallery.add(name, rows)
    return gallery


def naive(people: People, probe: np.ndarray, k: int) -> list[tuple[float, str]]:
    """The most similar people, each by the nearest embedding."""
    (unit,) = unit_rows(probe[None], "probe")
    return sorted(((max(unit_rows(rows, "row") @ unit), name) for name, rows in people.items()), reverse=True)[:k]


def test_search_ranks_identities_by_their_nearest_embedding() -> None:
    people, centres = drawn_people()
    gallery = filled(people)
    probes = centres + np.random.default_rng(1).normal(size=centres.shape)
    for probe, matches in zip(probes, gallery.search(probes, 7), strict=True):
        expected = naive(people, probe, 7)
        assert [match.name for match in matches] == [name for _, name in expected]
        assert [match.similarity for match in matches] == pytest.approx([value for value, _ in expected], abs=1e-6)
    assert len(gallery.search(probes[0], 1000)[0]) == len(gallery) == 40
    assert gallery.search(np.zeros((0, WIDTH))) == []


def test_an_identity_of_many_embeddings_leaves_room_for_others() -> None:
    rng = np.random.default_rng(0)
    crowd = np.eye(WIDTH)[0] + 0.01 * rng.normal(size=(300, WIDTH))
    people = {"crowd": crowd} | {f"p{i}": np.eye(WIDTH)[[i]] for i in range(1, 6)}
    gallery = filled(people)
    assert [match.name for match in gallery.search(crowd[0], 3)[0]] == [n for _, n in naive(people, crowd[0], 3)]
    assert len(gallery.search(crowd[0], 6)[0]) == 6


@pytest.mark.parametrize("index", ["exact", "hnsw", "ivf"])
def test_what_is_added_is_searched_and_what_is_removed_is_not(index: str) -> None:
    gallery, centres = some(300, index=index)
    near = [matches[0].name for matches in gallery.search(centres)]
    assert np.mean([name == f"p{i}" for i, name in enumerate(near)]) > 0.95
    probe = np.random.default_rng(9).normal(size=WIDTH)
    assert gallery.add("new", probe) == 1
    assert gallery.search(probe)[0][0] == Match("new", pytest.approx(1, abs=1e-6))
    gallery.remove("new")
    assert gallery.search(probe)[0][0].name != "new"
    with pytest.raises(CrossresError, match=r"no identity 'p3000' in the gallery; did you mean"):
        gallery.remove("p3000")


def test_another_index_is_built_when_it_is_chosen() -> None:
    gallery, centres = some(200)
    before = gallery.search(centres, 2)
    gallery.index = "hnsw"
    after = gallery.search(centres, 2)
    assert np.mean([a[0].name == b[0].name for a, b in zip(before, after, strict=True)]) > 0.98


def test_a_search_without_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CrossresError, match=r"needs faiss: pip install 'crossres\[predict\]'"):
        some(3)[0].search(np.ones(WIDTH))


def test_the_same_embedding_is_enrolled_once() -> None:
    gallery = Gallery(WIDTH)
    rows = np.random.default_rng(0).normal(size=(3, WIDTH))
    assert gallery.add("ada", rows) == 3
    assert gallery.add("ada", np.concatenate([2 * rows, -rows[:1]])) == 1
    assert gallery.embeddings == 4
    assert gallery.names == ["ada"]


def test_the_threshold_of_a_search_is_that_of_open_set() -> None:
    people, centres = drawn_people()
    gallery = filled(people)
    rng = np.random.default_rng(3)
    strangers = rng.normal(size=(1500, WIDTH))
    strangers[5] = strangers[6] = strangers[7]  # equal ones are refused together
    mated = centres + 0.3 * rng.normal(size=centres.shape)
    probes = unit_rows(np.concatenate([mated, strangers]), "probe")
    scores = np.stack([(probes @ unit_rows(rows, "row").T).max(1) for rows in people.values()], 1)
    identity = np.append(np.arange(len(people)), np.full(len(strangers), -1))
    ranked = rank_probes(scores, np.arange(len(people)), identity)
    for fpir in (0.0, 0.01, 0.1):
        threshold = gallery.calibrate(strangers, fpir)
        theirs = open_set(ranked, fpir)
        # rounding must not make a stranger match
        assert threshold.similarity - theirs.threshold == pytest.approx(2 * TOLERANCE, abs=1e-6)
        assert threshold.too_few == theirs.too_few
        assert sum(gallery.identify(row) is not None for row in strangers[:200]) <= 200 * fpir * 3
        names = [match and match.name for match in map(gallery.identify, mated)]
        assert np.mean([name == f"p{i}" for i, name in enumerate(names)]) == pytest.approx(theirs.share)
    assert gallery.calibrate(strangers, 1.0).similarity == -1
    assert gallery.identify(strangers[0]) is not None


def test_at_a_rate_of_0_no_stranger_matches_however_it_is_read() -> None:
    """In a batch or alone, similarities are rounded otherwise."""
    gallery, _ = some()
    strangers = np.random.default_rng(3).normal(size=(300, WIDTH))
    gallery.calibrate(strangers, 0.0)
    assert all(gallery.identify(row) is None for row in strangers)
    gallery.calibrate(strangers, 0.1)
    assert sum(gallery.identify(row) is not None for row in strangers) == 30


def test_a_threshold_is_outgrown_by_a_tenth() -> None:
    gallery, _ = some(40)
    assert not gallery.outgrown
    gallery.calibrate(np.random.default_rng(0).normal(size=(50, WIDTH)), 0.1)
    for i in range(5):
        assert not gallery.outgrown
        gallery.add(f"new{i}", np.eye(WIDTH)[i])
    assert gallery.outgrown
    gallery.remove("new0")
    assert not gallery.outgrown


def test_the_threshold_of_pairs_is_that_of_tar_at_far() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(4000) % 2 == 0
    scores = rng.normal(size=4000) + 2 * same
    gallery = Gallery(WIDTH)
    threshold = gallery.calibrate_pairs(scores, same, 0.01, MODEL)
    assert threshold.similarity == pytest.approx(tar_at_far(roc(scores, same), 0.01).threshold, abs=2 * TOLERANCE)
    assert (threshold.count, threshold.too_few, threshold.model) == (2000, False, "a" * 64)
    assert (scores[~same] >= threshold.similarity).mean() <= 0.01
    with pytest.raises(CrossresError, match="one of 1 impostor pairs is more alike than all genuine ones"):
        gallery.calibrate_pairs([0.9, 0.8], [False, True], 0.001)
    assert gallery.pair_threshold == threshold


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda g: g.add("ada", [[1.0] * WIDTH, [float("nan")] * WIDTH]),
            "embedding 1 of the identity ada.* is NaN, infinite or 0",
        ),
        (lambda g: g.add("ada", np.zeros(WIDTH)), "embedding 0 of the identity ada.* is NaN, infinite or 0"),
        (lambda g: g.add("ada", np.ones(WIDTH + 1)), "has 17 numbers, the gallery's embeddings 16"),
        (lambda g: g.add("", np.ones(WIDTH)), "'' cannot name an identity"),
        (lambda g: g.add("\x1b[2J", np.ones(WIDTH)), "cannot name an identity"),
        (lambda g: g.add("a" * 201, np.ones(WIDTH)), "cannot name an identity: 1 to 200 printable characters"),
        (lambda g: g.search(np.ones((2, 2, 2))), r"the probe: \(2, 2, 2\), expected \(N, d\)"),
        (lambda g: g.search(np.ones(WIDTH), 0), "k is 0"),
        (lambda g: g.identify(np.ones(WIDTH)), "has no threshold; calibrate"),
        (
            lambda g: (g.calibrate(np.ones((1, WIDTH)), 0.1, size=8), g.identify(np.ones(WIDTH))),
            "has thresholds by the size of a photo; give side=, the probe's in pixels",
        ),
        (lambda g: g.calibrate(np.ones((1, WIDTH)), 1.5), r"lies within 0\.\.1, got 1.5"),
        (lambda g: g.calibrate(np.ones((0, WIDTH)), 0.1), "no strangers"),
        (lambda _: Gallery(WIDTH).search(np.ones(WIDTH)), "the gallery is empty"),
        (lambda _: cosine(np.ones(WIDTH), np.zeros(WIDTH)), "is NaN, infinite or 0"),
        (lambda g: g.demand_shared(MODEL, 8), "teacher: embeddings have width 8, the gallery's 16; use"),
        (lambda _: ModelIdentity("a\n", ("a",)), "no printable name"),
    ],
)
def test_mistakes(act, message: str) -> None:
    with pytest.raises(CrossresError, match=message):
        act(some(5)[0])


def test_models_that_share_a_space_are_those_taught_by_one_another() -> None:
    other, student = ModelIdentity("other", ("b" * 64,)), ModelIdentity("student", ("c" * 64, "a" * 64))
    sibling = ModelIdentity("sibling", ("d" * 64, "a" * 64))
    Gallery(WIDTH).demand_shared(other, WIDTH)
    by_teacher, by_student = Gallery(WIDTH, model=MODEL), Gallery(WIDTH, model=student)
    for model in (MODEL, student, sibling):
        by_teacher.demand_shared(model, WIDTH)
    by_student.demand_shared(MODEL, WIDTH)
    for gallery, model in ((by_teacher, other), (by_student, sibling)):
        with pytest.raises(CrossresError, match=f"and {model.name} was not distilled from it with losses.cosine"):
            gallery.demand_shared(model, WIDTH)
        gallery.demand_shared(model, WIDTH, same_space=True)


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    gallery, centres = some(model=MODEL, index="hnsw")
    gallery.add("Ægir 李", centres[0])
    gallery.calibrate(np.random.default_rng(0).normal(size=(60, WIDTH)), 0.1, MODEL)
    gallery.calibrate_pairs([0.9, 0.1], [True, False], 0.5)
    gallery.save(tmp_path / "people.gallery")
    again = Gallery.load(tmp_path / "people.gallery")
    kept = ("names", "embeddings", "model", "index", "thresholds", "pair_threshold", "outgrown")
    assert [getattr(again, key) for key in kept] == [getattr(gallery, key) for key in kept]
    again.index = gallery.index = "exact"
    assert again.search(centres, 3) == gallery.search(centres, 3)
    with np.load(tmp_path / "people.gallery", allow_pickle=False) as arrays:
        assert arrays["embeddings"].shape == (gallery.embeddings, WIDTH)
    Gallery(WIDTH).save(tmp_path / "empty")
    assert len(Gallery.load(tmp_path / "empty")) == 0


def test_a_full_disk_leaves_the_gallery_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    gallery, _ = some(5)
    gallery.save(path)
    before = path.read_bytes()
    gallery.add("new", np.ones(WIDTH))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrossresError, match="No space left on device; nothing was changed"):
        gallery.save(path)
    assert path.read_bytes() == before
    assert set(os.listdir(tmp_path)) <= {"people.gallery", ".people.gallery.lock"}


def test_names_that_look_alike_are_one() -> None:
    gallery = Gallery(2)
    gallery.add("Jose\u0301", np.eye(2)[:1])
    gallery.add("José", np.eye(2)[1:])
    assert gallery.names == ["José"]
    gallery.remove("Jose\u0301")
    assert gallery.names == []
