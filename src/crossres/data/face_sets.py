"""Face sets in the layouts they are published in: folders with a gallery and probes, or with pairs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError, composed, needs
from crossres.core.files import SAFE
from crossres.data.faces import NOBODY, UNNAMED, Pairs, Search, opening, read_csv
from crossres.data.folder import FileItems, files_below
from crossres.data.images import ImageSet, by_name

#: left, top, right, bottom in pixels
Box = tuple[float, float, float, float]
#: Of SCface: the distance, in metres, that each digit stands for.
DISTANCES = {"1": 4.2, "2": 2.6, "3": 1.0}
#: A gallery face of UCCS is given by five points; the square around them is enlarged by this to hold the face.
AROUND_POINTS = 2.2
#: Prints the texts of some cell arrays of a MATLAB file as JSON.
_READ_MAT = """
import sys
sys.path = [place for place in sys.path if place]  # not the working folder
import json, numpy, scipy.io
content = scipy.io.loadmat(sys.argv[1], squeeze_me=True, variable_names=sys.argv[2:])
cells = {name: numpy.atleast_1d(content[name]).flat for name in sys.argv[2:] if name in content}
print(json.dumps({name: [str(cell) for cell in array] for name, array in cells.items()}))
"""
#: Layout that has pairs in place of a gallery and probes.
SURVFACE_PAIRS = "survface-pairs"
AS_PUBLISHED = "give the folder of the set as published"


class Face(NamedTuple):
    """A face in a file: of whom (None: a stranger), whether in the gallery or a probe, and where in the picture."""

    path: str
    person: str | None
    enrolled: bool
    box: Box | None = None


@dataclass(eq=False, repr=False)
class FaceItems(FileItems):
    """Faces in files: whole pictures (no box), or boxes in them; what lies beyond the picture is black."""

    boxes: Sequence[Box | None]

    def open(self, row: int) -> Image.Image:
        picture, box = super().open(row), self.boxes[row]
        if box is None:
            return picture
        left, top, right, bottom = (round(edge) for edge in box)
        return picture.crop((left, top, right, bottom))

    def where(self, row: int) -> str:
        box = self.boxes[row]
        return super().where(row) + ("" if box is None else f" at {','.join(f'{edge:.0f}' for edge in box)}")

    def digest(self, row: int) -> bytes:
        return sha256(super().digest(row) + repr(self.boxes[row]).encode()).digest()


def read_face_set(layout: str, root: str | Path) -> tuple[ImageSet, Search]:
    """Read a set of faces in its own layout, with its gallery and probes.

    Args:
        layout: a key of `LAYOUTS`; ``scface-1``, ``-2``, ``-3`` have the probes of one distance.
        root: the folder that holds it.

    Raises:
        CrossresError: an unknown layout, a list or an image that is missing, a line that cannot be read, no
            probe of a person in the gallery.
    """
    root = Path(root)
    if not root.is_dir():
        raise CrossresError(f"there is no folder {root}")
    if layout not in LAYOUTS:
        raise CrossresError(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}, {SURVFACE_PAIRS}")
    faces = LAYOUTS[layout](root)
    enrolled = np.array([face.enrolled for face in faces], dtype=bool)
    if not enrolled.any() or enrolled.all():
        lacking = "probe" if enrolled.any() else "gallery"
        raise CrossresError(f"{root}: no {lacking} image of {layout}; {AS_PUBLISHED}")
    _demand_files(root, [face.path for face in faces], layout)
    people = sorted({face.person for face in faces if face.person is not None})
    number: dict[str | None, int] = {person: i for i, person in enumerate(people)}
    identity = np.array([number.get(face.person, NOBODY) for face in faces], dtype=np.int64)
    labels = np.where(identity == NOBODY, len(people), identity)
    items = FaceItems(root, [face.path for face in faces], [face.box for face in faces])
    title = root.resolve().name if layout == "folders" else layout
    images = ImageSet(items, labels, [*people, UNNAMED], title, whole=True)
    gallery, probes = np.flatnonzero(enrolled), np.flatnonzero(~enrolled)
    if not set(identity[gallery].tolist()) & set(identity[probes].tolist()) - {NOBODY}:
        where, remedy = root, AS_PUBLISHED
        if layout == "folders":
            where, remedy = root / "probes", f"name a person's folder as it is named in {root / 'gallery'}"
        raise CrossresError(f"{where}: no probe is of a person in the gallery; {remedy}")
    return images, Search(gallery, identity[gallery], probes, identity[probes])


def _demand_files(root: Path, paths: Sequence[str], layout: str) -> None:
    if missing := [path for path in dict.fromkeys(paths) if not (root / path).is_file()]:
        raise CrossresError(f"{root / missing[0]} is missing ({len(missing)} images of {layout} are missing)")


def _tinyface(root: Path) -> list[Face]:
    """``Testing_Set/`` with Gallery_Match, Gallery_Distractor, Probe and their two .mat lists (Cheng et al. 2018)."""
    test = _below(root, "tinyface", "Testing_Set")
    faces = [*_listed(root, test / "Gallery_Match", "gallery"), *_listed(root, test / "Probe", "probe")]
    distractors = test / "Gallery_Distractor"
    if not distractors.is_dir():
        raise CrossresError(f"{distractors} is missing: without its distractors TinyFace is another, easier test")
    return faces + _strangers(root, distractors)


def _strangers(root: Path, folder: Path) -> list[Face]:
    return [Face(file.relative_to(root).as_posix(), None, True) for file in files_below(folder)[0]]


def _survface(root: Path) -> list[Face]:
    """``Face_Identification_Test_Set/`` with gallery, mated_probe, unmated_probe and two .mat lists.

    An unmated probe has its person in its name, ``12_cam1_3.jpg``, or is a distractor (Cheng et al. 2018).
    """
    test = _below(root, "QMUL-SurvFace", "Face_Identification_Test_Set")
    unmated = test / "unmated_probe"
    if not unmated.is_dir():
        raise CrossresError(f"{unmated} is missing: without its strangers QMUL-SurvFace is another, easier test")
    faces = [*_listed(root, test / "gallery", "gallery"), *_listed(root, test / "mated_probe", "mated_probe")]
    for file in files_below(unmated)[0]:
        number = re.match(r"\d+(?=_)", file.name)  # the lists count people in another way
        faces.append(Face(file.relative_to(root).as_posix(), f"unmated {number[0]}" if number else None, False))
    return faces


def read_survface_pairs(root: str | Path) -> tuple[ImageSet, Pairs]:
    """Read the pairs of QMUL-SurvFace, ``Face_Verification_Test_Set/`` with two .mat lists of them, without folds.

    CrossresError: a list or an image that is missing, or a list that cannot be read.
    """
    root = Path(root)
    test = _below(root, "QMUL-SurvFace", "Face_Verification_Test_Set")
    names, same = [], []
    for kind in ("positive", "negative"):
        path = test / f"{kind}_pairs_names.mat"
        (listed,) = _mat(path, f"{kind}_pairs_names")
        if len(listed) % 2 or not listed:
            raise CrossresError(f"{path}: {len(listed)} images, expected two for each pair")
        names += listed
        same += [kind == "positive"] * (len(listed) // 2)
    paths, place = np.unique(names, return_inverse=True)
    folder = test / "verification_images"
    _demand_files(folder, paths.tolist(), SURVFACE_PAIRS)
    images = ImageSet(FileItems(folder, paths.tolist()), np.zeros(len(paths), int), [UNNAMED], "survface", whole=True)
    left, right = place.reshape(-1, 2).T
    return images, Pairs(left, right, np.array(same), np.zeros(len(same), np.int64))


def _below(root: Path, name: str, folder: str) -> Path:
    """Return a folder of a set that may be given whole, inside its parent, or as that folder alone."""
    return next((place for place in (root / folder, root / name / folder) if place.is_dir()), root)


def _listed(root: Path, folder: Path, key: str) -> list[Face]:
    """Return the faces of a folder that a .mat list beside it names."""
    path = folder.with_name(f"{folder.name.lower()}_img_ID_pairs.mat")
    names, ids = _mat(path, f"{key}_set", f"{key}_ids")
    if len(names) != len(ids):
        raise CrossresError(f"{path}: {len(names)} images for {len(ids)} identities")
    inside = folder.relative_to(root)
    faces = zip(names, ids, strict=True)
    return [Face((inside / name).as_posix(), person, key == "gallery") for name, person in faces]


def _mat(path: Path, *entries: str) -> list[list[str]]:
    """Return the texts of some cell arrays of a MATLAB file."""
    with needs(f"{path.name}, a MATLAB file,", "bench"):
        import scipy.io  # noqa: F401
    with opening(path, "a .mat file"):
        path.open("rb").close()
        # in a process of its own: scipy can crash on a damaged file
        words = [sys.executable, *SAFE, "-c", _READ_MAT, str(path.resolve()), *entries]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise ValueError((done.stderr.strip() or "scipy crashed on it").splitlines()[-1])
        content: dict[str, list[str]] = json.loads(done.stdout)
    for entry in entries:
        if entry not in content:
            raise CrossresError(f"{path}: has no '{entry}'")
    return [content[entry] for entry in entries]


def _folders(root: Path) -> list[Face]:
    """``gallery/PERSON/`` and ``probes/PERSON/``, perhaps ``distractors/``: gallery images of strangers.

    Probes of people whom the gallery lacks are strangers too.
    """
    faces: list[Face] = []
    for folder, enrolled in (("gallery", True), ("probes", False)):
        if not (root / folder).is_dir():
            raise CrossresError(f"{root / folder} is missing: a folder for each person goes into it")
        files = files_below(root / folder)[0]
        if not files:
            raise CrossresError(f"{root / folder} holds no image; put a folder for each person there")
        for file in files:
            path = file.relative_to(root)
            if len(path.parts) < 3:
                raise CrossresError(f"{file} is not in a person's folder; move it to {folder}/PERSON/")
            faces.append(Face(path.as_posix(), composed(path.parts[1]), enrolled))
    return faces + _strangers(root, root / "distractors")


def _scface(root: Path, distances: Sequence[str] = tuple(DISTANCES)) -> list[Face]:
    """``001_frontal.jpg`` mug shots against ``001_cam1_1.jpg`` to ``_cam5_3.jpg``, anywhere (Grgic et al. 2011)."""
    faces: list[Face] = []
    # published with each face cropped and whole, and each surveillance image in two folders
    folders = [root / "mugshot_frontal_cropped_all", root / "surveillance_cameras_all"]
    if not all(folder.is_dir() for folder in folders):
        folders = [root]
    for file in [picture for folder in folders for picture in files_below(folder)[0]]:
        # the cameras 1 to 5 see visible light
        match = re.fullmatch(r"(\d{3})_(?:frontal|cam[1-5]_(\d))", file.stem)
        if match and (match[2] is None or match[2] in distances):
            faces.append(Face(file.relative_to(root).as_posix(), match[1], match[2] is None))
    return faces


def _uccs(root: Path) -> list[Face]:
    """``gallery.csv`` (five points a face) or ``training.csv`` (boxes) enrol, ``validation.csv`` has the probes.

    A SUBJECT_ID below 0 is a stranger; pictures lie anywhere below the folder (Günther et al. 2017).
    """
    pictures = [file.relative_to(root).as_posix() for file in files_below(root)[0]]
    places = by_name(pictures)
    lists = [root / "gallery.csv", root / "training.csv"]
    enrolling = next((path for path in lists if path.is_file()), lists[0])
    faces: list[Face] = []
    for path, enrolled in ((enrolling, True), (root / "validation.csv", False)):
        for line, row in read_csv(path):
            try:
                person, box, name = int(row["SUBJECT_ID"]), _box(row), composed(str(Path(row["FILE"])))
            except (KeyError, TypeError, ValueError) as error:
                raise CrossresError(f"{path}, line {line}: cannot be read as a face ({error})") from None
            if enrolled and person < 0:
                continue
            at = places.get(name, places.get(Path(name).name))
            if at is not None and at < 0:
                raise CrossresError(f"{path}, line {line}: several pictures are named '{name}'; keep one")
            known = name if at is None else pictures[at]
            faces.append(Face(known, None if person < 0 else f"{person:05}", enrolled, box))
    return faces


def _box(row: dict[str, str]) -> Box:
    if "FACE_X" in row:
        left, top, width, height = (float(row[f"FACE_{key}"]) for key in ("X", "Y", "WIDTH", "HEIGHT"))
        return left, top, left + width, top + height
    points = ("REYE", "LEYE", "NOSE", "RMOUTH", "LMOUTH")
    x, y = (np.array([float(row[f"{point}_{axis}"]) for point in points]) for axis in ("X", "Y"))
    half = AROUND_POINTS / 2 * max(np.ptp(x), np.ptp(y))
    middle_x, middle_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    return float(middle_x - half), float(middle_y - half), float(middle_x + half), float(middle_y + half)


LAYOUTS: dict[str, Callable[[Path], list[Face]]] = {
    "folders": _folders,
    "tinyface": _tinyface,
    "scface": _scface,
    "uccs": _uccs,
    "survface": _survface,
    **{f"scface-{digit}": partial(_scface, distances=[digit]) for digit in DISTANCES},
}
