"""Does the student keep the teacher's relations? Maps of both spaces, and numbers of how far they agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossres.core.types import Bools, Float64s, Int64s

#: Nearest neighbours that are compared.
NEIGHBOURS = 10


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

    Attributes:
        neighbours: nearest neighbours of an image that are compared.
        overlap: mean share of the teacher's that are among the student's too, in percent.
        chance: the overlap of a student that has learned nothing, in percent.
        correlation: Pearson's, of the similarities of all pairs; NaN where one network's are all the same.
        across: of the pairs of two classes alone, which class labels do not teach.
    """

    neighbours: int
    overlap: float
    chance: float
    correlation: float
    across: float


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
