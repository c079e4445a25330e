"""Enrolling, identifying and verifying drawn shapes: real models, real photos."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crossres
from crossres.config.deployment import Enroll, Identify, Page, Verify
from crossres.core.errors import CrossresError
from crossres.data.align import TEMPLATE, Aligner
from crossres.deploy.enrolment import enroll, identify, verify
from crossres.deploy.gallery import Gallery, cosine
from crossres.deploy.photos import fitted, read_photo
from crossres.deploy.service import load_service
from crossres.deploy.thresholds import Threshold, at_least
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.models.weights import weights_sha256

KNOWN = ("bar", "cross", "disc")


@pytest.fixture(scope="module")
def people(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """known/ with a folder of 12 photos for each of three shapes, probes/ with 10 each, strangers/ with 24 frames."""
    root = tmp_path_factory.mktemp("people")
    for shape in KNOWN:
        shutil.copytree(drawn / "test" / shape, root / "probes" / shape)
        (root / "known" / shape).mkdir(parents=True)
        for photo in sorted((drawn / "train" / shape).iterdir())[:12]:
            shutil.copy(photo, root / "known" / shape)
    shutil.copytree(drawn / "train" / "frame", root / "strangers")
    return root


@pytest.fixture(scope="module")
def spaces(student: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A teacher that reads 16x16, students at 8x8 that were taught its embeddings or not, one of another width."""
    root = tmp_path_factory.mktemp("spaces")
    encoder = from_pretrained(student)
    encoder.input_size = 16
    save_pretrained(encoder, root / "teacher", info={"lr_size": 16, "hr_size": 16})
    digest = weights_sha256(from_pretrained(root / "teacher"))
    encoder.input_size = 8
    for name, method in (("taught", "ce+cosine"), ("kd", "ce+kd")):
        info = {"lr_size": 8, "hr_size": 16, "method": method, "teacher": {"name": "resnet8", "sha256": digest}}
        save_pretrained(encoder, root / name, info=info)
    narrow = build_encoder("resnet8", classes=(), input_size=8, embedding_dim=12)
    save_pretrained(narrow, root / "narrow", info={"lr_size": 8, "hr_size": 16})
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture(scope="module")
def model(student: Path) -> str:
    return str(student)


@pytest.fixture(scope="module")
def enrolled(people: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of the known shapes without thresholds; nobody changes it."""
    path = tmp_path_factory.mktemp("galleries") / "shapes"
    enroll(Enroll(gallery=str(path), model=model, people=str(people / "known")))
    return path


@pytest.fixture
def gallery(enrolled: Path, tmp_path: Path) -> str:
    """A copy of it."""
    return str(shutil.copy(enrolled, tmp_path / "shapes"))


def test_a_photo_of_an_unsure_class_is_enrolled(
    calibrated: Callable[[float | None], Path], people: Path, tmp_path: Path
) -> None:
    """The classes that a model knows say nothing of identities."""
    model, path = str(calibrated(1.0)), str(tmp_path / "shapes")
    assert crossres.Recognizer.load(model).predict(people / "known" / "bar")[0].flags
    document = enroll(Enroll(gallery=path, model=model, people=str(people / "known")))
    assert (document["embeddings"], document["left_out"]) == (36, [])
    probe = str(people / "probes" / "bar" / "00.png")
    assert identify(Identify(gallery=path, model=model, photos=[probe]))["photos"][0]["flags"] == []


def test_people_are_identified_and_strangers_are_not(gallery: str, people: Path, model: str) -> None:
    notes: list[str] = []
    probe = str(people / "probes" / "bar" / "00.png")
    document = identify(Identify(gallery=gallery, model=model, photos=[probe]), notes.append)
    assert document["thresholds"] == []
    assert document["photos"][0]["name"] is None
    remedy = f"crossres enroll {gallery} --strangers FOLDER --model {model} sets one"
    assert notes == [f"no threshold is set, so similarities only; {remedy}"]
    notes.clear()
    strangers = str(people / "strangers")
    document = enroll(Enroll(gallery=gallery, model=model, strangers=strangers, fpir=0.25), notes.append)
    assert (document["identities"], document["embeddings"], document["added"]) == (3, 36, {})
    assert notes == ["uncertain threshold: a rate of 0.25 needs at least 40 strangers, got 24"]
    photos = [str(people / "probes"), strangers]
    document = identify(Identify(gallery=gallery, model=model, photos=photos, k=2))
    threshold = document["thresholds"][0]["similarity"]
    for photo in document["photos"]:
        first, second = photo["nearest"]
        assert first["similarity"] >= second["similarity"]
        assert photo["name"] == (first["name"] if at_least(first["similarity"], threshold) else None)
    names = [photo["name"] for photo in document["photos"]]
    assert sum(name is not None for name in names[30:]) == 6  # a quarter of 24
    nearest = [photo["nearest"][0]["name"] for photo in document["photos"][:30]]
    assert np.mean([a == b for a, b in zip(nearest, np.repeat(KNOWN, 10), strict=True)]) > 0.6


def test_photos_of_low_quality_are_not_judged(gallery: str, people: Path, model: str, tmp_path: Path) -> None:
    enroll(Enroll(gallery=gallery, model=model, strangers=str(people / "strangers"), fpir=1.0))
    photos = [str(people / "probes" / "bar" / f"{number:02}.png") for number in range(4)]
    judged = identify(Identify(gallery=gallery, model=model, photos=photos))["photos"]
    assert all(each["name"] for each in judged)
    limit = sorted(each["quality"] for each in judged)[2]
    gated = identify(Identify(gallery=gallery, model=model, photos=photos, min_quality=limit))["photos"]
    for before, after in zip(judged, gated, strict=True):
        low = before["quality"] < limit
        assert after["name"] == (None if low else before["name"])
        assert len(after["flags"]) == low
        for flag in after["flags"]:
            quality, least = map(float, flag.removeprefix("quality ").split(" is below "))
            assert quality < least  # however near they are
            assert (quality, least) == pytest.approx((before["quality"], limit), rel=0.005)
    assert sum(each["name"] is None for each in gated) == 2
    worst, _, _, best = (each["photo"] for each in sorted(judged, key=lambda each: each["quality"]))
    options = Verify(model=model, photos=[worst, best], threshold=0.0, min_quality=limit)
    assert verify(options)["same"] is None
    assert verify(replace(options, min_quality=0.0))["same"] is True
    probes = Enroll(gallery=str(tmp_path / "probes"), model=model, people=str(people / "probes"), min_quality=limit)
    left_out = {each["photo"] for each in enroll(probes)["left_out"]}
    assert worst in left_out
    assert best not in left_out


def test_a_probe_is_judged_by_the_threshold_of_its_size(
    gallery: str, people: Path, model: str, tmp_path: Path
) -> None:
    notes: list[str] = []
    strangers = str(people / "strangers")
    options = Enroll(gallery=gallery, model=model, strangers=strangers, sizes=[12, 8], fpir=0.25)
    document = enroll(options, notes.append)
    assert [(each["size"], each["count"]) for each in document["thresholds"]] == [(8, 24), (12, 24)]
    assert notes[0] == "uncertain threshold at 12 pixels: a rate of 0.25 needs at least 40 strangers, got 24"
    small, large = (each["similarity"] for each in document["thresholds"])
    assert small != large
    # the gate's own view: a quarter of the strangers passes at each size, as this model shrinks them
    recognizer = crossres.Recognizer.load(model)
    for size, threshold in ((8, small), (12, large)):
        photos = [read_photo(path) for path in sorted(Path(strangers).iterdir())]
        rows = recognizer.embed([fitted(photo, size, recognizer.facts) for photo in photos])
        matches = Gallery.load(gallery).search(rows)
        assert sum(at_least(match[0].similarity, threshold) for match in matches) == 6
    photos = []
    for side in (7, 8, 11, 12, 40):
        photos.append(str(tmp_path / f"{side:02}.png"))
        Image.open(people / "probes" / "bar" / "00.png").resize((side, side)).save(photos[-1])
    answers = identify(Identify(gallery=gallery, model=model, photos=photos))["photos"]
    assert [answer["threshold"] for answer in answers] == [None, small, small, large, large]
    assert (answers[0]["name"], answers[0]["flags"]) == (None, ["too small: 7 pixels, thresholds begin at 8"])
    assert answers[0]["nearest"]
    held = Gallery.load(gallery)
    enrolled = recognizer.embed(people / "known" / "bar" / "00.png")[0]
    assert held.identify(enrolled, side=8) == held.search(enrolled)[0][0]
    with pytest.raises(CrossresError, match="has no threshold at 7 pixels; calibrate it on strangers first"):
        held.identify(np.ones(held.width), side=7)
    # of photos without that many pixels none are left, and the gallery stays as it was
    with pytest.raises(CrossresError, match="no photo in it that can be used as a stranger at 99 pixels"):
        enroll(Enroll(gallery=gallery, model=model, strangers=strangers, sizes=[8, 99]))
    assert Gallery.load(gallery).thresholds == held.thresholds
    # one threshold for all sizes takes their place
    assert len(enroll(Enroll(gallery=gallery, model=model, strangers=strangers))["thresholds"]) == 1


def test_strangers_at_a_size_below_the_training_are_not_too_small(
    gallery: str, people: Path, model: str, tmp_path: Path
) -> None:
    """It was asked for; what else is wrong with a photo still counts."""
    strangers = tmp_path / "strangers"
    shutil.copytree(people / "strangers", strangers)
    Image.new("RGB", (16, 16), (90, 90, 90)).save(strangers / "grey.png")
    options = Enroll(gallery=gallery, model=model, strangers=str(strangers), sizes=[5, 8], fpir=0.25)
    document = enroll(options)
    assert [(each["size"], each["count"]) for each in document["thresholds"]] == [(5, 24), (8, 24)]
    assert [each["photo"] for each in document["left_out"]] == [
        f"{strangers / 'grey.png'} at {size} pixels" for size in (5, 8)
    ]
    assert all(each["why"].startswith("flat: ") for each in document["left_out"])


def test_a_threshold_holds_for_photos_as_good_as_those_that_it_was_set_with(
    gallery: str, people: Path, model: str, tmp_path: Path
) -> None:
    photos = [str(path) for path in sorted((people / "probes" / "bar").iterdir())]
    before = identify(Identify(gallery=gallery, model=model, photos=photos))["photos"]
    quality = {each["photo"]: each["quality"] for each in before}
    limit = sorted(quality.values())[5]
    enroll(Enroll(gallery=gallery, model=model, strangers=str(people / "probes"), fpir=1.0, min_quality=limit))
    assert [each.min_quality for each in Gallery.load(gallery).thresholds] == [limit]
    for more in (0.0, max(quality.values())):
        answers = identify(Identify(gallery=gallery, model=model, photos=photos, min_quality=more))["photos"]
        for answer in answers:
            assert bool(answer["name"]) == (answer["quality"] >= max(limit, more))
            assert len(answer["flags"]) == (answer["quality"] < max(limit, more))
    shapes = [f"{shape}/{i:02}.png" for shape in KNOWN for i in range(10)]
    rows = [f"{a},{b},{int(a[:3] == b[:3])}" for i, a in enumerate(shapes) for b in shapes[:i]]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right,same", *rows]))
    pairs = {"pairs": str(tmp_path / "pairs.csv"), "images": str(people / "probes"), "far": 0.5}
    enroll(Enroll(gallery=gallery, model=model, min_quality=limit, **pairs))
    worst, best = (choose(photos, key=quality.__getitem__) for choose in (min, max))
    assert verify(Verify(photos=[best, best], model=model, gallery=gallery))["same"] is True
    document = verify(Verify(photos=[worst, worst], model=model, gallery=gallery))
    assert document["same"] is None
    assert document["photos"][0]["flags"][0].startswith("quality ")
    # what a gallery of an earlier version holds for has no limit
    assert Threshold(0.5, 0.1, 9, True, 3, "a").min_quality == 0


def test_photos_and_their_mirror_images_are_averaged(faces: Path, people: Path, tmp_path: Path) -> None:
    """On both sides alike, as `faces evaluate --flip` does it; a model's own threshold is of photos alone."""
    gallery, model = str(tmp_path / "flipped"), str(faces)
    known = str(people / "known")
    enroll(Enroll(gallery=gallery, model=model, people=known, strangers=str(people / "strangers"), flip=True))
    probe, other = (people / "probes" / shape / "00.png" for shape in ("bar", "cross"))
    recognizer = crossres.Recognizer.load(model)

    def mean(path: Path) -> np.ndarray:
        photo = read_photo(path)
        return recognizer.embed([photo, photo[:, ::-1]]).mean(0)

    expected = Gallery.load(gallery).search(mean(probe), 3)[0]
    (answer,) = identify(Identify(gallery=gallery, model=model, photos=[str(probe)], k=3, flip=True))["photos"]
    assert [match["name"] for match in answer["nearest"]] == [match.name for match in expected]
    assert answer["nearest"][0]["similarity"] == pytest.approx(expected[0].similarity, abs=1e-5)
    assert answer["quality"] == pytest.approx(np.linalg.norm(mean(probe)), rel=1e-5)
    photos = [str(probe), str(other)]
    similarity = verify(Verify(photos=photos, model=model, flip=True))["similarity"]
    assert similarity == pytest.approx(cosine(mean(probe), mean(other)), abs=1e-5)
    assert similarity != pytest.approx(verify(Verify(photos=photos, model=model))["similarity"], abs=1e-4)
    # the other setting is refused on either side; the page takes the gallery's own
    message = "the gallery was made with --flip; give it, or enroll into another gallery"
    for refuse in (
        lambda: identify(Identify(gallery=gallery, model=model, photos=photos)),
        lambda: verify(Verify(gallery=gallery, model=model, photos=photos)),
        lambda: enroll(Enroll(gallery=gallery, model=model, people=known)),
    ):
        with pytest.raises(CrossresError, match=message):
            refuse()
    plain = str(tmp_path / "plain")
    enroll(Enroll(gallery=plain, model=model, people=known))
    with pytest.raises(CrossresError, match="the gallery was made without --flip; leave it out"):
        identify(Identify(gallery=plain, model=model, photos=photos, flip=True))
    service = load_service(Page(model=model, gallery=gallery))
    assert service.similarity(read_photo(probe), read_photo(other))[0] == pytest.approx(similarity, abs=1e-6)
    notes: list[str] = []
    document = verify(Verify(photos=photos, model="faces-16", flip=True), notes.append)
    assert document["same"] is None
    assert notes[0].startswith("no threshold with --flip, so no verdict; give --threshold")


def test_portraits_are_aligned_and_photos_without_a_face_left_out(
    model: str, tmp_path: Path, yunet: Callable[[np.ndarray], Path]
) -> None:
    rng = np.random.default_rng(0)
    path = yunet(TEMPLATE / 2 * np.exp(0.3j) + 30)
    folder = tmp_path / "people" / "ann"
    folder.mkdir(parents=True)
    photos = [rng.integers(0, 255, (96, 120, 3), np.uint8) for _ in range(3)]
    for photo in photos[:2]:
        photo[:8, :8] = (255, 0, 0)
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"noise")
    options = Enroll(gallery=str(tmp_path / "g"), model=model, people=str(folder.parent), align=str(path), all=True)
    document = enroll(options)
    assert (document["added"], [Path(each["photo"]).name for each in document["left_out"]]) == (
        {"ann": 2},
        ["2.png", "3.png"],
    )
    assert document["left_out"][0]["why"] == "no face was detected in it"
    aligner, recognizer = Aligner(path), crossres.Recognizer.load(model)
    rows = recognizer.embed([face for photo in photos[:2] if (face := aligner(photo)) is not None])
    held = Gallery.load(tmp_path / "g")
    assert [match[0].similarity for match in held.search(rows)] == pytest.approx([1, 1], abs=1e-5)
    unaligned = held.search(recognizer.embed(photos[0]))[0][0]
    assert unaligned.similarity < 0.999
    with pytest.raises(CrossresError, match="--align: aligns the photos of PEOPLE; give them, too"):
        enroll(Enroll(gallery=str(tmp_path / "g"), model=model, align=str(path), remove=["ann"]))


def test_an_enrolled_photo_is_identified_at_any_threshold(gallery: str, people: Path, model: str) -> None:
    """Its similarity may be 0.9999999, and a stranger that is enrolled sets the threshold above 1."""
    known = str(people / "known" / "bar")
    document = enroll(Enroll(gallery=gallery, model=model, strangers=known, fpir=0.0))
    assert document["thresholds"][0]["similarity"] > 1
    (photo,) = identify(Identify(gallery=gallery, model=model, photos=[f"{known}/00.png"]))["photos"]
    assert photo["name"] is None
    photos = [f"{known}/00.png", f"{known}/00.png"]
    document = verify(Verify(photos=photos, model=model, threshold=1.0))
    assert document["similarity"] == pytest.approx(1, abs=1e-6)
    assert document["same"] is True


def test_what_is_enrolled_again_is_not_new_what_is_removed_is_gone(gallery: str, people: Path, model: str) -> None:
    notes: list[str] = []
    enroll(Enroll(gallery=gallery, model=model, strangers=str(people / "strangers"), fpir=0.5))
    again = Enroll(gallery=gallery, model=model, people=str(people / "known"), remove=["bar"], index="hnsw")
    document = enroll(again)
    assert document["added"] == {"bar": 12, "cross": 0, "disc": 0}
    assert document["removed"] == ["bar"]
    assert not document["outgrown"]
    assert enroll(Enroll(gallery=gallery, remove=["disc", "bar"]), notes.append)["outgrown"]
    outgrown = (
        "the threshold was set with 3 identities and there are 1 now; set it again with crossres enroll --strangers"
    )
    assert notes == [outgrown]
    assert Gallery.load(gallery).names == ["cross"]
    assert Gallery.load(gallery).index == "hnsw"
    notes.clear()
    identify(Identify(gallery=gallery, model=model, photos=[str(people / "strangers" / "00.png")]), notes.append)
    assert notes == [outgrown]


def test_photos_by_their_own_names_and_those_left_out(people: Path, model: str, tmp_path: Path) -> None:
    folder, gallery = tmp_path / "flat", str(tmp_path / "g")
    folder.mkdir()
    shutil.copy(people / "known" / "bar" / "00.png", folder / "Ada L.png")
    Image.new("RGB", (16, 16), (90, 90, 90)).save(folder / "grey.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    notes: list[str] = []
    document = enroll(Enroll(gallery=gallery, model=model, people=str(folder)), notes.append)
    assert document["added"] == {"Ada L": 1}
    broken, grey = document["left_out"]
    assert broken["why"].startswith("not an image")
    assert grey == {"photo": str(folder / "grey.png"), "why": grey["why"]}
    assert grey["why"].startswith("flat: contrast")
    assert notes == [f"{one['photo']}: left out: {one['why']}" for one in (broken, grey)]
    enroll(Enroll(gallery=gallery, model=model, people=str(folder), all=True))
    assert Gallery.load(gallery).names == ["Ada L", "grey"]
    ada, broken, grey = identify(Identify(gallery=gallery, model=model, photos=[str(folder)]))["photos"]
    assert ada["nearest"][0] == {"name": "Ada L", "similarity": pytest.approx(1, abs=1e-6)}
    assert broken["error"].endswith(broken["error"].split(": ", 1)[1])
    assert (grey["nearest"][0]["name"], grey["flags"][0].split(":")[0]) == ("grey", "flat")


def test_two_photos_are_verified_at_a_threshold_of_pairs(
    gallery: str, people: Path, model: str, tmp_path: Path
) -> None:
    photos = [f"{shape}/{i:02}.png" for shape in KNOWN for i in range(10)]
    rows = [f"{a},{b},{int(a[:3] == b[:3])}" for i, a in enumerate(photos) for b in photos[:i]]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right,same", *rows]))
    probes = [str(people / "probes" / photo) for photo in photos]
    notes: list[str] = []
    document = verify(Verify(photos=[probes[0], probes[15]], model=model), notes.append)
    assert document["same"] is document["threshold"] is None
    assert notes[0].startswith("no threshold, so no verdict; give --threshold, or --gallery with one")
    pairs = {"pairs": str(tmp_path / "pairs.csv"), "images": str(people / "probes"), "far": 0.1}
    threshold = enroll(Enroll(gallery=gallery, model=model, **pairs))["pair_threshold"]
    assert (threshold["count"], threshold["rate"], threshold["too_few"]) == (300, 0.1, False)
    accepted = []
    for probe in probes[1:11]:
        document = verify(Verify(photos=[probes[0], probe], model=model, gallery=gallery))
        assert document["same"] == at_least(document["similarity"], threshold["similarity"])
        assert document["threshold"] == threshold["similarity"]
        accepted.append(document["same"])
    assert sum(accepted[:9]) > 3


def test_a_gallery_by_the_teacher_is_searched_by_its_student(
    people: Path, spaces: dict[str, str], tmp_path: Path
) -> None:
    gallery, probe = str(tmp_path / "hr"), str(people / "known" / "bar" / "00.png")
    notes: list[str] = []

    def search(name: str, **options: bool) -> dict[str, object]:
        notes.clear()
        return identify(Identify(gallery=gallery, model=spaces[name], photos=[probe], **options), notes.append)

    strangers = str(people / "strangers")
    teacher = spaces["teacher"]
    enroll(Enroll(gallery=gallery, model=teacher, people=str(people / "known"), strangers=strangers, fpir=0.5))
    assert search("taught")["thresholds"] == []
    assert notes[0].startswith("the threshold was set with photos read by another model, so similarities only")
    enroll(Enroll(gallery=gallery, model=spaces["taught"], strangers=strangers, fpir=0.5))
    assert len(search("taught")["thresholds"]) == 1
    assert notes == []
    with pytest.raises(CrossresError, match="the gallery was made by teacher, and kd was not distilled from it"):
        search("kd")
    search("kd", same_space=True)
    narrow = Enroll(gallery=gallery, model=spaces["narrow"], people=str(people / "known"), same_space=True)
    with pytest.raises(CrossresError, match="narrow: embeddings have width 12, the gallery's 64; use"):
        enroll(narrow)


def test_none_of_it_needs_torch_with_an_onnx_file(people: Path, onnx_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from crossres import Enroll, Identify, Verify, enroll, identify, verify\n"
        "model, people, gallery = sys.argv[1:]\nprobe = f'{people}/known/disc/03.png'\n"
        "options = Enroll(gallery=gallery, model=model, people=f'{people}/known', strangers=f'{people}/strangers')\n"
        "print(enroll(options)['identities'])\n"
        "print(identify(Identify(gallery=gallery, model=model, photos=[probe]))['photos'][0]['nearest'][0]['name'])\n"
        "print(verify(Verify(photos=[probe, probe], model=model, threshold=0.9))['same'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(onnx_file), str(people), str(tmp_path / "g")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "disc", "True"], done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda _: Enroll(gallery="G"), "nothing to do; give PEOPLE, --remove, --strangers, --pairs or --index"),
        (lambda _: Enroll(gallery="G", people="known"), "--model is missing"),
        (lambda m: Enroll(gallery="G", people="known", model=m, fpir=2), "--fpir: a share within 0..1, got 2"),
        (lambda m: Enroll(gallery="G", model=m, pairs="x"), "--pairs and --images belong together"),
        (lambda _: Enroll(gallery="none", remove=["bar"]), "No such file"),
        (lambda _: Enroll(gallery="G", remove=["barr"]), "no identity 'barr' in the gallery; did you mean 'bar'"),
        (lambda m: Enroll(gallery="G", people="none", model=m), "not a folder"),
        (
            lambda m: Enroll(gallery="G", people="mixed", model=m),
            "1 images lie beside its folders; move them into folders, or give --flat",
        ),
        (lambda m: Enroll(gallery="G", people="odd", model=m), "cannot name an identity; rename it"),
        (lambda m: Enroll(gallery="G", people="empty", model=m), "no image in it"),
        (lambda m: Enroll(gallery="G", people="bad", model=m), "none of 1 photos can be used; the first: not an"),
        (lambda m: Enroll(gallery="G", strangers="bad", model=m), "no photo in it that can be used as a stranger"),
        (
            lambda m: Enroll(gallery="new", strangers="strangers", model=m),
            "the gallery is empty; add identities",
        ),
        (lambda m: Identify(gallery="G", photos=["known"], model=m, k=0), "--k: expected 1 or more, got 0"),
        (
            lambda m: Identify(gallery="bad/a.png", photos=["known"], model=m),
            "not a gallery of crossres, or",
        ),
        (
            lambda m: Identify(gallery="G", photos=["bad"], model=m),
            "none of 1 photos could be read; the first: not",
        ),
        (lambda m: Verify(photos=["bad/a.png"] * 2, model=m), "bad/a.png: not an image"),
        (lambda m: Verify(photos=["known/bar"], model=m), "verify compares two photos, got 12"),
        (lambda _: Enroll(gallery="G", sizes=[8], remove=["x"]), "that strangers are shrunk to; give --strangers"),
        (lambda m: Enroll(gallery="G", strangers="s", sizes=[0], model=m), "--sizes: 0 is below 1"),
        (lambda m: Verify(photos=["a", "b"], model=m, threshold=float("nan")), r"lies within -1\.\.1, got nan"),
        (lambda m: Verify(photos=["a", "b"], model=m, gallery="G", threshold=1), "give one of them"),
    ],
)
def test_mistakes_end_in_one_line(
    options, message: str, enrolled: Path, people: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("known", "strangers"):
        os.symlink(people / name, name)
    for name in ("mixed/bar", "odd", "bad", "empty"):
        Path(name).mkdir(parents=True)
    for copy in ("mixed/a.png", "mixed/bar/b.png", "odd/a\n.png"):
        shutil.copy(people / "strangers" / "00.png", copy)
    Path("bad/a.png").write_bytes(b"no image")
    shutil.copy(enrolled, "G")
    request = options(model)
    act = {Enroll: enroll, Identify: identify, Verify: verify}[type(request)]
    with pytest.raises(CrossresError, match=message) as raised:
        act(request)
    assert "\n" not in str(raised.value)
    assert Path("G").read_bytes() == enrolled.read_bytes()
    assert not Path("new").exists()


def test_folders_of_file_servers_and_splits_are_nobody(people: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(people / "known", tmp_path / "set")
    (tmp_path / "set" / "@eaDir").mkdir()
    shutil.copy(next((people / "known" / "bar").iterdir()), tmp_path / "set" / "@eaDir")
    assert enroll(Enroll(gallery=str(tmp_path / "g"), model=model, people=str(tmp_path / "set")))["identities"] == 3
    (tmp_path / "set").rename(tmp_path / "train")
    with pytest.raises(CrossresError, match=r"holds the split train; enroll people from .*/train$"):
        enroll(Enroll(gallery=str(tmp_path / "new"), model=model, people=str(tmp_path)))
