"""Face sets in the layouts they are published in: folders with a gallery and probes, and insightface's .bin."""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError, composed, needs
from crossres.core.files import SAFE
from crossres.data.faces import NOBODY, UNNAMED, Pairs, Search, opening, read_csv
from crossres.data.folder import FileItems, files_below
from crossres.data.images import EncodedItems, ImageSet, by_name

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
        raise CrossresError(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}")
    faces = LAYOUTS[layout](root)
    enrolled = np.array([face.enrolled for face in faces], dtype=bool)
    if not enrolled.any() or enrolled.all():
        lacking = "probe" if enrolled.any() else "gallery"
        raise CrossresError(f"{root}: no {lacking} image of {layout}; {AS_PUBLISHED}")
    missing = [path for path in dict.fromkeys(face.path for face in faces) if not (root / path).is_file()]
    if missing:
        raise CrossresError(f"{root / missing[0]} is missing ({len(missing)} images of {layout} are missing)")
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


def _tinyface(root: Path) -> list[Face]:
    """``Testing_Set/`` with Gallery_Match, Gallery_Distractor, Probe and their two .mat lists (Cheng et al. 2018)."""
    places = (root / "Testing_Set", root / "tinyface" / "Testing_Set")
    test = next((folder for folder in places if folder.is_dir()), root)
    faces: list[Face] = []
    for folder, key, enrolled in (("Gallery_Match", "gallery", True), ("Probe", "probe", False)):
        path = test / f"{folder.lower()}_img_ID_pairs.mat"
        names, ids = _mat(path, f"{key}_set", f"{key}_ids")
        if len(names) != len(ids):
            raise CrossresError(f"{path}: {len(names)} images for {len(ids)} identities")
        inside = (test / folder).relative_to(root)
        faces += [Face((inside / name).as_posix(), person, enrolled) for name, person in zip(names, ids, strict=True)]
    distractors = test / "Gallery_Distractor"
    if not distractors.is_dir():
        raise CrossresError(f"{distractors} is missing: without its distractors TinyFace is another, easier test")
    return faces + _strangers(root, distractors)


def _strangers(root: Path, folder: Path) -> list[Face]:
    return [Face(file.relative_to(root).as_posix(), None, True) for file in files_below(folder)[0]]


def _mat(path: Path, *entries: str) -> list[list[str]]:
    """Return the texts of some cell arrays of a MATLAB file."""
    with needs("the MATLAB file of TinyFace", "bench"):
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
    **{f"scface-{digit}": partial(_scface, distances=[digit]) for digit in DISTANCES},
}


class _Kind:
    """Stands in for numpy's dtype: bytes and booleans only, so that no pickle can make numpy follow a pointer."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name  # as Python 2 wrote it
        if name not in ("u1", "|u1", "b1", "|b1", "?"):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and flags: of single bytes there are none."""


class _Array(bytearray):
    """Stands in for numpy's ndarray: its bytes in one row."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, raw = state
        self[:] = _raw(kind, raw)


def _raw(kind: object, raw: object) -> bytes:
    """Return the bytes of an array; UnpicklingError if it has none."""
    if not isinstance(kind, _Kind) or not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("it holds an array of an unknown kind or without bytes")
    return bytes(raw)


class _Plain(pickle.Unpickler):
    """Reads lists, bytes, numbers and arrays of bytes; anything else that a pickle names is refused, not run."""

    OWN: ClassVar[dict[str, Any]] = {
        "numpy.ndarray": _Array,
        "numpy.dtype": _Kind,
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.core.multiarray.scalar": lambda kind, raw: _raw(kind, raw)[0],
        "numpy.core.numeric._frombuffer": lambda raw, kind, *_: _raw(kind, raw),
        "_codecs.encode": lambda text, *_: text.encode("latin1"),  # how protocol 2 writes bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"
        if name not in self.OWN:
            raise pickle.UnpicklingError(f"it refers to {name}, which is never run")
        return self.OWN[name]


def read_bin(path: str | Path) -> tuple[ImageSet, Pairs]:
    """Read insightface's ``.bin``: encoded images, two a pair, and whether each pair is genuine; ten folds in order.

    The file is a pickle. Only lists, bytes, booleans and arrays are read; a file that names anything else is refused
    before it can run.

    Raises:
        CrossresError: no such file, no such pickle, or counts that do not fit.
    """
    path = Path(path)
    with opening(path, "a .bin of insightface"), path.open("rb") as file:
        pictures, same = _Plain(file, encoding="bytes").load()
        for picture in pictures:  # a few bytes of nested lists may stand for gigabytes
            if not isinstance(picture, (bytes, bytearray)):
                raise pickle.UnpicklingError(f"it holds an image as {type(picture).__name__}, not as bytes")
        pictures, truth = [bytes(picture) for picture in pictures], np.asarray([bool(one) for one in same])
    if len(pictures) != 2 * len(truth) or not len(truth):
        raise CrossresError(f"{path}: {len(pictures)} images for {len(truth)} pairs, expected two for each")
    labels = np.zeros(len(pictures), dtype=np.int64)
    images = ImageSet(EncodedItems(pictures, path.name), labels, [UNNAMED], path.stem, whole=True)
    left = np.arange(len(truth), dtype=np.int64) * 2
    fold = np.arange(len(truth), dtype=np.int64) * min(10, len(truth)) // len(truth)
    return images, Pairs(left, left + 1, truth, fold)
