"""Search for the nearest of many embeddings with FAISS: exact, or approximate for millions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Kind = Literal["exact", "hnsw", "ivf"]

#: HNSW: neighbours of a node, candidates kept while a node is added and while a probe is searched
NEIGHBOURS, BUILD_WIDTH, SEARCH_WIDTH = 32, 40, 512
#: IVF: training rows to a cell (FAISS asks for 39 at least), and the share of the cells that is searched
ROWS_TO_A_CELL, SEARCHED = 64, 1 / 8


class Index:
    """Rows of unit length, searched by cosine similarity.

    ``exact`` compares with every row. ``hnsw`` (a graph of near neighbours; Malkov & Yashunin 2018) and ``ivf``
    (cells around k-means centres, of which the nearest are searched) miss some; ``benchmarks/gallery.py`` measures
    how many, and what building costs.

    Args:
        kind: of search.
        rows: float32 (N, d), of unit length; IVF's cells are made of these.

    Raises:
        CrossresError: faiss is missing.
    """

    def __init__(self, kind: Kind, rows: Floats) -> None:
        try:
            import faiss
        except ImportError:
            raise CrossresError("a search needs faiss: pip install 'crossres[predict]'") from None
        width = rows.shape[1]
        self.kind = kind
        self._index: Any
        if kind == "exact":
            self._index = faiss.IndexFlatIP(width)
        elif kind == "hnsw":
            self._index = faiss.IndexHNSWFlat(width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = BUILD_WIDTH
            self._index.hnsw.efSearch = SEARCH_WIDTH
        else:
            cells = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // ROWS_TO_A_CELL))
            # FAISS frees no quantiser that it did not make: it has to live as long as the index
            self._quantiser = faiss.IndexFlatIP(width)
            self._index = faiss.IndexIVFFlat(self._quantiser, width, cells, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.max_points_per_centroid = ROWS_TO_A_CELL
            self._index.cp.min_points_per_centroid = 1
            self._index.nprobe = max(min(8, cells), round(cells * SEARCHED))
            self._index.train(rows)
        self.add(rows)

    def add(self, rows: Floats) -> None:
        """Append rows, float32 (n, d), of unit length."""
        self._index.add(rows)

    def search(self, probes: Floats, k: int) -> tuple[Floats, Ints]:
        """Return similarities and positions (P, k) of each probe's nearest rows, falling; -1 where there is none."""
        similarity, position = self._index.search(probes, k)
        return similarity, position
