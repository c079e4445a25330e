"""Does the student keep the teacher's relations? Maps of both spaces, and numbers of how far they agree."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from crossres.core.types import Bools, Float64s, Int64s
from crossres.report.content import FinishedRun
from crossres.report.page import SIGNS, Block, draw_points, draw_relations
from crossres.report.parts import Judged, rounded, share

#: Nearest neighbours that are compared.
NEIGHBOURS = 10
#: Classes in colour on a map, images of each there and in a matrix, images whose relations are compared.
CLASSES, ON_MAP, IN_MATRIX, RELATED = 8, 40, 12, 2000


def relations(embedding: npt.ArrayLike) -> Float64s:
    """Return the cosines (N, N) between embeddings (N, d) once their mean is taken off; 0 for one that is the mean.

    Without the mean: features behind a ReLU all point one way, and every cosine would be near 1.
    """
    rows = np.asarray(embedding, dtype=np.float64)
    rows = rows - rows.mean(0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)
    similarity: Float64s = rows @ rows.T
    return similarity


@dataclass(frozen=True)
class Agreement:
    """How far two networks relate the same images alike.

    Of so many nearest neighbours of an image, ``overlap`` is the mean share of the teacher's that are among the
    student's too, ``chance`` that of a student that has learned nothing, both in percent. Pearson's correlation is of
    the similarities of all pairs, NaN where one network's are all the same; ``across`` is that of the pairs of two
    classes alone, which class labels do not teach.
    """

    neighbours: int
    overlap: float
    chance: float
    correlation: float
    across: float

    @property
    def explained(self) -> str:
        """What the share of neighbours kept is, in a sentence."""
        return (
            f"Neighbours kept: the mean share of a test image's {self.neighbours} nearest others in the teacher's "
            "space that are among its nearest in the student's, too; a student that has learned nothing keeps "
            f"{rounded(self.chance)} %."
        )


def agreement(teacher: Float64s, student: Float64s, label: Int64s) -> Agreement:
    """Compare relations (N, N) of the same images, N at least 3, of classes ``label`` (N,)."""
    size = len(label)
    count = min(NEIGHBOURS, size - 2)

    def nearest(similarity: Float64s) -> Bools:
        others = similarity - 3 * np.eye(size)  # an image is not its own neighbour
        rows = np.zeros((size, size), dtype=bool)
        np.put_along_axis(rows, np.argpartition(-others, count - 1, axis=1)[:, :count], True, axis=1)
        return rows

    overlap = (nearest(teacher) & nearest(student)).sum(1).mean() / count
    every = np.triu(np.ones((size, size), dtype=bool), 1)
    correlations = []
    for pairs in (every, every & (label[:, None] != label)):
        a, b = teacher[pairs], student[pairs]
        constant = len(a) < 2 or min(a.std(), b.std()) < 1e-12
        correlations.append(float("nan") if constant else float(np.corrcoef(a, b)[0, 1]))
    return Agreement(count, 100 * float(overlap), 100 * count / (size - 1), *correlations)


def principal_map(embedding: npt.ArrayLike, like: Float64s | None = None) -> tuple[Float64s, float]:
    """Map embeddings (N, d) to their two principal components.

    A map is turned and mirrored to lie ``like`` another one of the same images (orthogonal Procrustes, Schönemann
    1966), which changes no distance. Returned are points (N, 2) of mean square 1, and the share of the variance that
    they show, in percent.
    """
    rows = np.asarray(embedding, dtype=np.float64)
    left, strength, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    dimensions = min(2, len(strength))
    points = np.zeros((len(rows), 2))
    points[:, :dimensions] = left[:, :dimensions] * strength[:dimensions]
    if like is not None:
        u, _, v = np.linalg.svd(points.T @ like)
        points = points @ u @ v
    shown = 100 * float((strength[:2] ** 2).sum() / max((strength**2).sum(), 1e-12))
    return points / (np.sqrt((points**2).mean()) or 1.0), shown


def largest_classes(label: Int64s, most: int) -> list[int]:
    """Return the classes with the most images, at most so many, in their order."""
    counts = np.bincount(label)
    order = np.argsort(-counts, kind="stable")[:most]
    return sorted(order[counts[order] > 0].tolist())


def first_of(label: Int64s, classes: list[int], each: int) -> Int64s:
    """Return the positions of the first images of each class, at most ``each``, class by class."""
    return np.concatenate([np.flatnonzero(label == number)[:each] for number in classes])


def embeddings(run: FinishedRun, judged: Judged) -> tuple[Block | None, Agreement | None]:
    """Set the teacher's and the student's embeddings side by side; without a teacher the student's alone."""
    label, names = run.test.images.labels, run.test.images.classes
    both = sorted(judged.outputs.items(), reverse=True)  # the teacher first
    sides = {name: of.embedding.numpy() for name, of in both if of.embedding.isfinite().all()}
    if "student" not in sides or len(label) < 3:
        return None, None
    classes = largest_classes(label, CLASSES)
    mapped, related = first_of(label, classes, ON_MAP), first_of(label, classes, IN_MATRIX)
    colour = np.searchsorted(classes, label[mapped])
    first, maps, matrices = None, [], []
    for side, embedding in sides.items():
        points, shown = principal_map(embedding[mapped], first)
        first = points if first is None else first
        maps.append(draw_points(points, colour, f"Map, {side}", f"{shown:.0f} % of the variance."))
        matrices.append(draw_relations(relations(embedding[related]), label[related], f"Relations, {side}"))
    title, turned, agreed, facts = "Embeddings", "", None, []
    if len(sides) == 2:
        some = np.unique(np.linspace(0, len(label) - 1, min(len(label), RELATED)).astype(np.int64))
        agreed = agreement(relations(sides["teacher"][some]), relations(sides["student"][some]), label[some])
        title = "Does the student keep the relations?"
        turned = ", the student's turned and mirrored to lie as the teacher's"
        kept = f"{share(agreed.overlap)} % of an image's {agreed.neighbours} nearest in the teacher's space are "
        kept += f"among its nearest in the student's, too (by chance {rounded(agreed.chance)} %)"
        every, across = (f"{r:.2f}" if isfinite(r) else "none" for r in (agreed.correlation, agreed.across))
        alike = f"{every} between both networks' similarities of all pairs"
        facts = [("Neighbours kept", kept), ("Correlation", f"{alike}; {across} over the pairs of two classes alone")]
    which = f"the {len(classes)} classes with most images" if len(classes) < len(names) else "all classes"
    text = (
        f"Maps: the two principal components of the embeddings of {len(mapped)} test images of {which}{turned}. "
        f"Relations: each dot is the cosine of the embeddings of two of {len(related)} images, class by class, their "
        "mean taken off."
    )
    signs = [(SIGNS[i % len(SIGNS)], i, names[number]) for i, number in enumerate(classes)]
    return Block(title, text, facts, legend=signs, drawings=[*maps, *matrices], small=True), agreed
