"""Templates of IJB against a loop over media, and lists that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.data.folder import FileItems
from crossres.data.images import ImageSet
from crossres.data.templates import Templates, read_template_pairs, read_template_search, read_templates


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    names = ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg", "no name.jpg", "a/6.jpg"]
    return ImageSet(FileItems(tmp_path, names), np.zeros(6, int), ["?"], "loose")


@pytest.fixture
def templates(tmp_path: Path, images: ImageSet) -> Templates:
    # template 7: media 1 (two images) and 2; template 3: one image of medium 1; template 9 shares an image with 7
    lines = ["1.jpg 7 1", "3.jpg 3 1", "2.jpg 7 1", "", "4.jpg 7 2", "no name.jpg 9 4", "1.jpg 9 5"]
    (tmp_path / "tid.txt").write_text("\n".join(lines) + "\n")
    return read_templates(tmp_path / "tid.txt", images)


def written(tmp_path: Path, text: str, name: str = "list.txt") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize("by_quality", [False, True])
def test_a_template_is_the_mean_over_the_means_of_its_media(templates: Templates, by_quality: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4)) * np.arange(1, 7)[:, None]
    e = rows if by_quality else rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert templates.ids.tolist() == [3, 7, 9]
    expected = [e[2], ((e[0] + e[1]) / 2 + e[3]) / 2, (e[4] + e[0]) / 2]
    assert templates.joined(rows, by_quality=by_quality) == pytest.approx(np.array(expected), rel=1e-5)
    # of some of them, counted by the images that these use
    some = templates.subset(np.array([0, 2]))
    assert some.image.tolist() == [1, 2, 0]
    assert some.joined(rows[[0, 2, 4]], by_quality=by_quality) == pytest.approx(np.array(expected)[[0, 2]], rel=1e-5)


def test_pairs_and_a_search_name_templates(templates: Templates, tmp_path: Path) -> None:
    pairs = read_template_pairs(written(tmp_path, "7 9 1\n3 9 0\n"), templates)
    assert (pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist()) == ([1, 0], [2, 2], [True, False])
    gallery = written(tmp_path, "TEMPLATE_ID,SUBJECT_ID,FILENAME\n7,40,img/1.jpg\n7,40,frames/2.jpg\n", "g.csv")
    probes = written(tmp_path, "TEMPLATE_ID,SUBJECT_ID,FILENAME\n9,40,x\n3,-5,y\n", "p.csv")
    search = read_template_search((gallery, probes), templates)
    assert (search.gallery.tolist(), search.gallery_identity.tolist()) == ([1], [40])
    assert (search.probes.tolist(), search.probe_identity.tolist()) == ([2, 0], [40, -1])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1.jpg 7\n", "line 1: '1.jpg 7'; expected an image, its template and its medium, both whole numbers"),
        ("1.jpg 7 1\n2.jpg x 1\n", "line 2: '2.jpg x 1'; expected an image, its template and its medium"),
        ("1.jpg 99999999999999999999 1\n", "expected an image, its template and its medium"),
        ("8.jpg 7 1\n", "line 1: there is no image '8.jpg' among 6"),
        ("\n", "holds no template"),
    ],
)
def test_a_line_that_is_no_template(images: ImageSet, tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(CrossresError) as caught:
        read_templates(written(tmp_path, text), images)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("7 9 1\n7 8 0\n", "there is no template 8 among 3 (1 such)"),
        ("7 9 1\n", "holds no impostor pair; verification needs both kinds"),
        ("", "not a list of pairs of templates"),
        ("7 9 2\n7 3 0\n", "not a list of pairs of templates (two whole numbers and 0 or 1 a line)"),
        ("7 9\n7 3\n", "not a list of pairs of templates"),
        ("7 x 1\n", "not a list of pairs of templates"),
    ],
)
def test_a_line_that_is_no_pair(templates: Templates, tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(CrossresError) as caught:
        read_template_pairs(written(tmp_path, text), templates)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gallery", "probes", "line"),
    [
        ("7,1", "7,1", "template 7 is in "),
        ("7,1", "9,2", "no probe is of a person in "),
        ("7,1\n7,2", "9,1", "line 3: template 7 has two subjects"),
        ("7,x", "9,1", "line 2: template_id and subject_id are not numbers"),
        ("8,1", "9,1", "there is no template 8 among 3"),
    ],
)
def test_what_is_no_search(templates: Templates, tmp_path: Path, gallery: str, probes: str, line: str) -> None:
    head = "template_id,subject_id\n"
    paths = written(tmp_path, head + gallery, "g.csv"), written(tmp_path, head + probes, "p.csv")
    with pytest.raises(CrossresError) as caught:
        read_template_search(paths, templates)
    assert line in str(caught.value)
    with pytest.raises(CrossresError, match="has no column 'subject_id'"):
        read_template_search((written(tmp_path, "template_id\n7", "n.csv"), paths[1]), templates)
