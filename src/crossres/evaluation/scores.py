"""The similarity of each pair as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from crossres.core.files import write_atomically
from crossres.core.types import Float64s
from crossres.data.images import ImageSet
from crossres.data.pairs import Pairs

#: How pairs were read (hr-hr, hr-lr, lr-lr or native), side of the smaller images in pixels, similarities (N,).
Scored = tuple[str, int, Float64s]

COLUMNS = ("left", "right", "same", "fold", "sides", "size", "similarity")


def write_scores(path: str | Path, images: ImageSet, pairs: Pairs, rows: Sequence[Scored]) -> None:
    """Write a line a pair and row: the columns of a list of pairs, and the similarity.

    Args:
        path: of the CSV, written atomically; similarities are written so that they read back exactly.
        images: that the pairs name.
        pairs: of N pairs.
        rows: the similarities at each of the sides and sizes.

    Raises:
        CrossresError: the file cannot be written.
    """
    sides = ([images.path(i) or images.where(i) for i in side.tolist()] for side in (pairs.left, pairs.right))
    listed = list(zip(*sides, pairs.same.astype(int).tolist(), pairs.fold.tolist(), strict=True))

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for read_as, size, scores in rows:
            lines.writerows(
                (*pair, read_as, size, score) for pair, score in zip(listed, scores.tolist(), strict=True)
            )
        text.detach()  # flushes, and leaves the file open to who opened it

    write_atomically(path, write)
