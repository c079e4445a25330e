"""Templates: sets of images that are compared as one, as in IJB: each line of a list puts an image into one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Float32s, Int64s
from crossres.data.faces import NOBODY, Pairs, Search, finder, opening, read_csv
from crossres.data.images import ImageSet


@dataclass(frozen=True)
class Templates:
    """Which images make up each template.

    Attributes:
        ids: (T,), rising.
        template: position in ids (M,) of each image of a template, rising; each occurs.
        medium: number (M,) of the photo or the video that the image comes from.
        image: position (M,) in an image set.
    """

    ids: Int64s
    template: Int64s
    medium: Int64s
    image: Int64s

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, kept: Int64s) -> "Templates":
        """Return the templates at some rising positions, of the images that they use, counted by these alone."""
        rows = np.isin(self.template, kept)
        image = np.unique(self.image[rows], return_inverse=True)[1]
        return Templates(self.ids[kept], np.searchsorted(kept, self.template[rows]), self.medium[rows], image)

    def joined(self, embeddings: npt.ArrayLike, *, by_quality: bool = False) -> Float32s:
        """Return an embedding (T, d) of each template, of those of the images (N, d): means of media, then of these.

        With ``by_quality`` an image counts by the length of its embedding, which grows with quality in models
        with a margin (MagFace, AdaFace); else all have unit length.

        Source: Whitelam et al., IJB-B (2017); insightface's ``eval_ijbc.py``, where ``by_quality`` is TestMode N1.
        """
        rows = np.asarray(embeddings, np.float32)[self.image]
        if not by_quality:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        # images of one medium share its weight
        pairs = np.stack([self.template, self.medium], 1)
        _, of_medium, images = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        weight = 1 / images[of_medium.reshape(-1)]
        starts = np.searchsorted(self.template, np.arange(len(self)))
        rows *= (weight / np.add.reduceat(weight, starts)[self.template]).astype(np.float32)[:, None]
        means: Float32s = np.add.reduceat(rows, starts, axis=0)
        return means

    def positions(self, ids: Int64s, where: str) -> Int64s:
        """Return the positions of templates by their ids; CrossresError for an unknown one."""
        places = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        if len(lacking := ids[self.ids[places] != ids]):
            among = f"among {len(self)} ({len(lacking)} such)"
            raise CrossresError(f"{where}: there is no template {lacking[0]} {among}")
        return places


def read_templates(path: str | Path, images: ImageSet) -> Templates:
    """Read a list of templates, a line for each image: its name, its template and its medium, both whole numbers.

    CrossresError: no such file, a line that is not one, or an image that is not in the set, by its line.

    Source: insightface's ``ijbc_face_tid_mid.txt``.
    """
    path = Path(path)
    with opening(path, "a list of templates"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    place = finder(path, images)
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            name, template, medium = line.rsplit(maxsplit=2)
            rows.append((np.int64(template), np.int64(medium), place(name.strip(), number)))
        except (ValueError, OverflowError):
            rule = "expected an image, its template and its medium, both whole numbers"
            raise CrossresError(f"{path}, line {number}: '{line[:60]}'; {rule}") from None
    if not rows:
        raise CrossresError(f"{path}: holds no template")
    template, medium, image = np.array(sorted(rows), np.int64).T
    ids, position = np.unique(template, return_inverse=True)
    return Templates(ids, position.reshape(-1), medium, image)


def read_template_pairs(path: str | Path, templates: Templates) -> Pairs:
    """Read pairs of templates: a line of two templates and 1 (one person) or 0, as in ``template_pair_label.txt``.

    CrossresError: no such file, a line that is not a pair, an unknown template, or pairs of one kind alone.
    """
    path = Path(path)
    with opening(path, "a list of pairs of templates (two whole numbers and 0 or 1 a line)"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            rows = np.loadtxt(path, dtype=np.int64, ndmin=2, encoding="utf-8-sig")
        if rows.shape[1] != 3 or not np.isin(rows[:, 2], (0, 1)).all():
            raise ValueError("a line has other numbers")
    same = rows[:, 2] == 1
    if same.all() or not same.any():
        kind = "impostor" if len(same) and same.all() else "genuine"
        raise CrossresError(f"{path}: holds no {kind} pair; verification needs both kinds")
    left, right = templates.positions(rows[:, :2], str(path)).T
    return Pairs(left, right, same, np.zeros(len(rows), np.int64))


def read_template_search(paths: Sequence[str | Path], templates: Templates) -> Search:
    """Read the templates of a gallery and those of the probes: two CSV files with template_id and subject_id.

    As in IJB's ``1N_gallery_G1.csv`` and ``1N_probe_mixed.csv``, which list a template once for each image. A subject
    below 0 is nobody, one that the gallery lacks a stranger.

    CrossresError: no such file, columns or numbers, a template that is unknown, of two subjects or in both files, or
    no probe of a person in the gallery.
    """
    sides = []
    for path in map(Path, paths):
        subject_of: dict[int, int] = {}
        for line, row in read_csv(path, ("template_id", "subject_id")):
            try:
                template, subject = int(row["template_id"]), max(int(row["subject_id"]), NOBODY)
                np.array([template, subject], np.int64)
            except (ValueError, OverflowError):
                raise CrossresError(f"{path}, line {line}: template_id and subject_id are not numbers") from None
            if subject_of.setdefault(template, subject) != subject:
                raise CrossresError(f"{path}, line {line}: template {template} has two subjects")
        ids = np.array(list(subject_of), np.int64)
        sides += [templates.positions(ids, str(path)), np.array(list(subject_of.values()), np.int64)]
    gallery, gallery_identity, probes, probe_identity = sides
    if both := np.intersect1d(gallery, probes).tolist():
        raise CrossresError(f"{paths[1]}: template {templates.ids[both[0]]} is in {paths[0]}, too")
    if not set(gallery_identity.tolist()) & set(probe_identity.tolist()) - {NOBODY}:
        raise CrossresError(f"{paths[1]}: no probe is of a person in {paths[0]}")
    return Search(gallery, gallery_identity, probes, probe_identity)
