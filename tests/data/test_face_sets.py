"""TinyFace, QMUL-SurvFace, SCface and UCCS, made here in exactly their layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.data.face_sets import read_face_set, read_survface_pairs
from crossres.data.faces import NOBODY, UNNAMED
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import save_pretrained


def picture(path: Path, value: int = 0, size: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 40, 255 - value)).save(path)


def cells(names: list[str]) -> np.ndarray:
    """A MATLAB cell array (N, 1) of texts."""
    out = np.empty((len(names), 1), dtype=object)
    out[:, 0] = names
    return out


def tinyface(root: Path) -> Path:
    test = root / "tinyface" / "Testing_Set"
    gallery, probes = ["1_1.jpg", "1_2.jpg", "7_1.jpg"], ["1_3.jpg", "7_2.jpg"]
    for name in gallery:
        picture(test / "Gallery_Match" / name, 50)
    for name in probes:
        picture(test / "Probe" / name, 60)
    for name in ("d1.jpg", "d2.jpg"):
        picture(test / "Gallery_Distractor" / name, 200)
    ids = {"gallery": [1, 1, 7], "probe": [1, 7]}
    for key, stem, names in (("gallery", "gallery_match", gallery), ("probe", "probe", probes)):
        lists: dict[str, Any] = {
            f"{key}_set": cells(names),
            f"{key}_ids": np.array(ids[key], dtype=np.uint16)[:, None],
        }
        savemat(test / f"{stem}_img_ID_pairs.mat", lists)
    return root


def scface(root: Path) -> Path:
    for person in ("001", "002"):
        picture(root / "mugshot_frontal_cropped_all" / f"{person}_frontal.JPG", 30)
        for camera in range(1, 9):
            for distance in (1, 2, 3):
                folder = root / "surveillance_cameras_all"
                picture(folder / f"{person}_cam{camera}_{distance}.jpg", 90)
    return root


def uccs(root: Path, gallery: bool = True) -> Path:
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[10:30, 20:40] = (255, 0, 0)
    pixels[35:50, 50:65] = (0, 255, 0)
    for name in ("a.jpg", "b.jpg"):
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "images" / name, quality=100, subsampling=0)
    points = "REYE_X,REYE_Y,LEYE_X,LEYE_Y,NOSE_X,NOSE_Y,RMOUTH_X,RMOUTH_Y,LMOUTH_X,LMOUTH_Y"
    if gallery:
        rows = [f"FILE,SUBJECT_ID,{points}", "a.jpg,4,26,16,34,16,30,20,27,24,33,24"]
        (root / "gallery.csv").write_text("\n".join(rows) + "\n")
    else:
        rows = [
            "FACE_ID,FILE,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT",
            "1,a.jpg,4,20,10,20,20",
            "2,a.jpg,-1,0,0,9,9",
        ]
        (root / "training.csv").write_text("\n".join(rows) + "\n")
    rows = [
        "FACE_ID,FILE,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT",
        "5,b.jpg,4,20,10,20,20",
        "6,b.jpg,-1,50,35,15,15",
    ]
    (root / "validation.csv").write_text("\n".join(rows) + "\n")
    return root


def test_tinyface(tmp_path: Path) -> None:
    images, search = read_face_set("tinyface", tinyface(tmp_path))
    assert [images.path(i).rpartition("/")[2] for i in search.gallery] == [
        *("1_1.jpg", "1_2.jpg", "7_1.jpg"),
        *("d1.jpg", "d2.jpg"),
    ]
    one, seven = images.classes.index("1"), images.classes.index("7")
    assert search.gallery_identity.tolist() == [one, one, seven, NOBODY, NOBODY]
    assert search.probe_identity.tolist() == [one, seven]
    assert images.image(int(search.probes[0])).shape == (20, 20, 3)
    # its folder may be given, too
    inside, again = read_face_set("tinyface", tmp_path / "tinyface" / "Testing_Set")
    assert again.gallery_identity.tolist() == search.gallery_identity.tolist()
    assert inside.path(0) == "Gallery_Match/1_1.jpg"


def survface(root: Path) -> Path:
    test = root / "QMUL-SurvFace" / "Face_Identification_Test_Set"
    of_folder = {
        "gallery": ["31_cam1_1.jpg", "31_cam1_2.jpg", "40_cam2_1.jpg"],
        "mated_probe": ["31_cam2_1.jpg", "40_cam3_1.jpg"],
        "unmated_probe": ["7_cam1_1.jpg", "7_cam1_2.jpg", "distractors_5.jpg"],
    }
    for folder, names in of_folder.items():
        for name in names:
            picture(test / folder / name, len(name))
        if folder != "unmated_probe":
            ids = np.array([1 if name.startswith("31") else 7 for name in names], dtype=np.uint16)
            lists: dict[str, Any] = {f"{folder}_set": cells(names), f"{folder}_ids": ids[:, None]}
            savemat(test / f"{folder}_img_ID_pairs.mat", lists)
    test = root / "QMUL-SurvFace" / "Face_Verification_Test_Set"
    pairs = {"positive": [("1_a.jpg", "1_b.jpg"), ("2_a.jpg", "2_b.jpg")], "negative": [("1_a.jpg", "2_a.jpg")]}
    for kind, rows in pairs.items():
        savemat(test.parent / "list.mat", {f"{kind}_pairs_names": np.array(rows, dtype=object)})
        for name in (name for row in rows for name in row):
            picture(test / "verification_images" / name, ord(name[0]))
        (test.parent / "list.mat").rename(test / f"{kind}_pairs_names.mat")
    return root


def test_survface(tmp_path: Path) -> None:
    images, search = read_face_set("survface", survface(tmp_path))
    one, seven, unmated = (images.classes.index(name) for name in ("1", "7", "unmated 7"))
    assert search.gallery_identity.tolist() == [one, one, seven]
    assert search.probe_identity.tolist() == [one, seven, unmated, unmated, NOBODY]
    assert images.path(int(search.probes[0])).endswith("mated_probe/31_cam2_1.jpg")
    found, pairs = read_survface_pairs(tmp_path / "QMUL-SurvFace")
    names = [tuple(found.path(int(i)) for i in pair) for pair in zip(pairs.left, pairs.right, strict=True)]
    assert names == [("1_a.jpg", "1_b.jpg"), ("2_a.jpg", "2_b.jpg"), ("1_a.jpg", "2_a.jpg")]
    assert pairs.same.tolist() == [True, True, False]
    test = tmp_path / "QMUL-SurvFace" / "Face_Verification_Test_Set"
    (test / "verification_images" / "2_b.jpg").unlink()
    with pytest.raises(CrossresError, match=r"2_b.jpg is missing \(1 images of survface-pairs are missing\)$"):
        read_survface_pairs(tmp_path)
    savemat(test / "negative_pairs_names.mat", {"negative_pairs_names": cells(["1_a.jpg", "2_a.jpg", "2_b.jpg"])})
    with pytest.raises(CrossresError, match=r"negative_pairs_names.mat: 3 images, expected two for each pair$"):
        read_survface_pairs(tmp_path)
    (test.parent / "Face_Identification_Test_Set" / "unmated_probe").rename(tmp_path / "elsewhere")
    with pytest.raises(CrossresError, match=r"unmated_probe is missing: without its strangers QMUL-SurvFace is ano"):
        read_face_set("survface", tmp_path)


def test_survface_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any) -> None:
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), tmp_path / "model", info={"hr_size": 32})
    words = ["faces", "evaluate", tmp_path / "model", survface(tmp_path / "set"), "--layout"]
    assert main([str(word) for word in [*words, "survface", "--json"]]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["identification"]["strangers"], "verification" in row) == (3, False)
    scores = ["--scores", tmp_path / "scores.csv"]
    assert main([str(word) for word in [*words, "survface-pairs", "--json", *scores]]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["verification"]["pairs"] == {"genuine": 2, "impostor": 1}
    assert "identification" not in row
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 4
    line = refused(*words, "survface-pairs", "--pairs", "p.csv")
    assert line.endswith("has its own pairs; leave --pairs out")


def test_scface(tmp_path: Path) -> None:
    images, search = read_face_set("scface", scface(tmp_path))
    assert [images.classes[i] for i in search.gallery_identity] == ["001", "002"]
    assert len(search.probes) == 2 * 5 * 3  # cameras of visible light alone
    far, of_far = read_face_set("scface-1", tmp_path)
    assert len(of_far.probes) == 2 * 5
    assert {far.path(int(i))[-6:] for i in of_far.probes} == {"_1.jpg"}


@pytest.mark.parametrize("gallery", [True, False])
def test_uccs(gallery: bool, tmp_path: Path) -> None:
    images, search = read_face_set("uccs", uccs(tmp_path, gallery))
    assert images.classes == ["00004", UNNAMED]
    assert search.gallery_identity.tolist() == [0]
    assert search.probe_identity.tolist() == [0, NOBODY]
    face, stranger = (images.image(int(i)) for i in search.probes)
    assert face.shape == (20, 20, 3)
    assert abs(face.astype(int) - (255, 0, 0)).max() < 40
    assert stranger.shape == (15, 15, 3)
    assert abs(stranger.astype(int) - (0, 255, 0)).max() < 40
    enrolled = images.image(int(search.gallery[0]))
    assert enrolled.shape[0] == enrolled.shape[1] == (18 if gallery else 20)
    assert enrolled.mean((0, 1))[0] > 200
    assert images.where(int(search.probes[1])).endswith("images/b.jpg at 50,35,65,50")


def test_folders_without_a_gallery_or_nobody_of_it_say_what_to_do(tmp_path: Path) -> None:
    picture(tmp_path / "distractors" / "1.png")
    for folder, other in (("gallery", "probes"), ("probes", "gallery")):
        (tmp_path / folder / "Ann").mkdir(parents=True, exist_ok=True)
        picture(tmp_path / other / "Ann" / "1.png")
        line = rf"^{tmp_path / folder} holds no image; put a folder for each person there$"
        with pytest.raises(CrossresError, match=line):
            read_face_set("folders", tmp_path)
        (tmp_path / other / "Ann" / "1.png").unlink()
    picture(tmp_path / "gallery" / "Ann" / "1.png")
    picture(tmp_path / "probes" / "ann" / "1.png")
    line = rf"^{tmp_path / 'probes'}: no probe is of a person in the gallery; name .* as .* {tmp_path / 'gallery'}$"
    with pytest.raises(CrossresError, match=line):
        read_face_set("folders", tmp_path)
    uccs(tmp_path / "uccs")
    listed = tmp_path / "uccs" / "validation.csv"
    listed.write_text(listed.read_text().replace("b.jpg,4", "b.jpg,-1"))
    with pytest.raises(CrossresError, match=r"uccs: no probe is of a person in the gallery; give the folder of the"):
        read_face_set("uccs", tmp_path / "uccs")


def test_folders(tmp_path: Path) -> None:
    for path in ("gallery/Ann/1.png", "gallery/Ann/good/2.png", "gallery/Bob/1.png", "distractors/deep/1.png"):
        picture(tmp_path / path)
    for path in ("probes/Ann/1.png", "probes/Eve/1.png"):
        picture(tmp_path / path, size=(8, 8))
    images, search = read_face_set("folders", tmp_path)
    ann, bob, eve = (images.classes.index(person) for person in ("Ann", "Bob", "Eve"))
    assert search.gallery_identity.tolist() == [ann, ann, bob, NOBODY]
    assert search.probe_identity.tolist() == [ann, eve]  # whom the gallery lacks
    assert images.image(int(search.probes[0])).shape == (8, 8, 3)
    assert images.name == tmp_path.name
    picture(tmp_path / "probes" / "loose.png")
    with pytest.raises(CrossresError, match=r"loose.png is not in a person's folder; move it to probes/PERSON/$"):
        read_face_set("folders", tmp_path)
    with pytest.raises(CrossresError, match=r"gallery is missing: a folder for each person goes into it$"):
        read_face_set("folders", tmp_path / "gallery")


def test_uccs_finds_a_picture_by_its_place_where_names_repeat(tmp_path: Path) -> None:
    uccs(tmp_path)
    picture(tmp_path / "other" / "b.jpg")
    with pytest.raises(CrossresError, match=r"validation.csv, line 2: several pictures are named 'b.jpg'; keep one$"):
        read_face_set("uccs", tmp_path)
    listed = tmp_path / "validation.csv"
    listed.write_text(listed.read_text().replace("b.jpg", "images/b.jpg"))
    images, search = read_face_set("uccs", tmp_path)
    assert images.path(int(search.probes[0])) == "images/b.jpg"


def test_scface_counts_each_image_once_however_it_is_handed_out(tmp_path: Path) -> None:
    scface(tmp_path)
    for person in ("001", "002"):
        picture(tmp_path / "mugshot_frontal_original_all" / f"{person}_frontal.jpg", 30)
        picture(tmp_path / "surveillance_cameras_distance_1" / f"{person}_cam1_1.jpg", 90)
    images, search = read_face_set("scface", tmp_path)
    assert (len(search.gallery), len(search.probes)) == (2, 30)
    assert all("original" not in images.path(int(i)) for i in search.gallery)


def test_what_is_not_in_its_layout_is_said_in_one_line(tmp_path: Path) -> None:
    sets = {
        name: make(tmp_path / name) for name, make in (("tinyface", tinyface), ("scface", scface), ("uccs", uccs))
    }
    test = sets["tinyface"] / "tinyface" / "Testing_Set"
    cases: list[tuple[str, Path, str]] = [
        (
            "lfw",
            tmp_path,
            "unknown layout 'lfw'; known: folders, tinyface, scface, uccs, survface, scface-1, scface-2",
        ),
        ("scface-9", tmp_path, "unknown layout 'scface-9'"),
        ("uccs", tmp_path / "none", "there is no folder"),
        ("tinyface", sets["scface"], r"gallery_match_img_ID_pairs.mat: [Nn]o such file"),
        ("scface", sets["uccs"], "no gallery image of scface; give the folder of the set as published"),
        ("uccs", sets["scface"], "gallery.csv: No such file"),
    ]
    for layout, folder, line in cases:
        with pytest.raises(CrossresError, match=rf"^[^\n]*{line}[^\n]*$"):
            read_face_set(layout, folder)
    distractors = test / "Gallery_Distractor"
    distractors.rename(test / "elsewhere")
    with pytest.raises(
        CrossresError, match=r"Gallery_Distractor is missing: without its distractors TinyFace is another"
    ):
        read_face_set("tinyface", sets["tinyface"])
    (test / "elsewhere").rename(distractors)
    (test / "Probe" / "7_2.jpg").unlink()
    with pytest.raises(CrossresError, match=r"7_2.jpg is missing \(1 images of tinyface are missing\)$"):
        read_face_set("tinyface", sets["tinyface"])
    (test / "probe_img_ID_pairs.mat").write_bytes(b"noise")
    with pytest.raises(CrossresError, match=r"probe_img_ID_pairs.mat: not a .mat file"):
        read_face_set("tinyface", sets["tinyface"])
    savemat(test / "probe_img_ID_pairs.mat", {"probe_set": cells(["1_3.jpg"])})
    with pytest.raises(CrossresError, match=r"probe_img_ID_pairs.mat: has no 'probe_ids'$"):
        read_face_set("tinyface", sets["tinyface"])
    (sets["uccs"] / "validation.csv").write_text(
        "FILE,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT\nb.jpg,x,1,1,2,2\n"
    )
    with pytest.raises(CrossresError, match=r"validation.csv, line 2: cannot be read as a face \(.*'x'.*\)$"):
        read_face_set("uccs", sets["uccs"])
    (sets["uccs"] / "validation.csv").write_text(f"FILE,SUBJECT_ID\n{'b' * 200_000},1\n")
    with pytest.raises(CrossresError, match=r"validation.csv: not a CSV file \(field larger than"):
        read_face_set("uccs", sets["uccs"])
    (sets["uccs"] / "validation.csv").write_text("SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,FILE\n4,1,1,2,2\n")
    with pytest.raises(CrossresError, match=r"validation.csv, line 2: cannot be read as a face"):
        read_face_set("uccs", sets["uccs"])


def test_the_command_judges_them_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any
) -> None:
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), tmp_path / "model", info={"hr_size": 32})
    words = ["faces", "evaluate", tmp_path / "model", scface(tmp_path / "scface"), "--layout", "scface"]
    assert main([str(word) for word in [*words, "--json", "--png", tmp_path / "cmc.png"]]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    assert (result["native"], row["sides"], row["size"]) == (True, "native", 16)
    assert row["identification"]["mated_probes"] == 30
    assert result["people"] == 2
    assert "verification" not in row
    assert (tmp_path / "cmc.png").exists()
    assert main([str(word) for word in words]) == 0
    assert "rank-1 %" in capsys.readouterr().out
    assert refused(*words, "--pairs", "p.csv").endswith("has its own gallery and probes; leave --pairs out")
    assert "its gallery and probes need every image; leave --images.corrupt out" in refused(
        *words, "--images.corrupt", "skip"
    )


def test_tinyface_prints_ranks_over_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = tinyface(tmp_path) / "tinyface" / "Testing_Set"
    # the probe of 7 looks like person 1, who has more images than rank 5 counts
    more = [f"1_{i}.jpg" for i in range(11, 17)]
    for name in more:
        picture(test / "Gallery_Match" / name, 60)
    names, ids = ["1_1.jpg", "1_2.jpg", "7_1.jpg", *more], [1, 1, 7] + [1] * len(more)
    lists = {"gallery_set": cells(names), "gallery_ids": np.array(ids, dtype=np.uint16)[:, None]}
    savemat(test / "gallery_match_img_ID_pairs.mat", lists)
    picture(test / "Gallery_Match" / "7_1.jpg", 120)
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), tmp_path / "model", info={"hr_size": 32})
    words = [str(word) for word in ("faces", "evaluate", tmp_path / "model", tmp_path, "--layout", "tinyface")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rows"][0]["identification"]
    assert (found["rank1"], found["rank5"]) == (50, 100)
    assert (found["retrieval"]["rank1"], found["retrieval"]["rank5"]) == (50, 50)
    assert main([*words, "--resamples", "0"]) == 0
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "native" in line]
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["50.00", "50.00", "100.00"]
    assert "rank-k over gallery images, as TinyFace counts; over identities in --json" in shown


def test_a_mat_that_kills_its_reader_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tinyface(tmp_path)
    monkeypatch.setattr("crossres.data.face_sets._READ_MAT", "import os; os.abort()")
    with pytest.raises(CrossresError, match=r"^[^\n]*_pairs.mat: not a .mat file \(scipy crashed on it\)$"):
        read_face_set("tinyface", root)


def test_a_damaged_mat_is_one_line(tmp_path: Path) -> None:
    root = tinyface(tmp_path)
    path = root / "tinyface" / "Testing_Set" / "probe_img_ID_pairs.mat"
    path.write_bytes(path.read_bytes()[:200] + b"damage" * 20)
    with pytest.raises(CrossresError, match=r"^[^\n]*probe_img_ID_pairs.mat: not a .mat file \([^\n]+\)$"):
        read_face_set("tinyface", root)
