"""Search for the nearest of many embeddings with FAISS: exact, or approximate for millions."""

from __future__ import annotations

from typing import Any, Literal

from crossres.core.errors import CrossresError
from crossres.core.types import Float32s

Kind = Literal["exact", "hnsw", "ivf"]

#: HNSW: neighbours of a node, candidates kept while a node is added and while a probe is searched
NEIGHBOURS, BUILD_WIDTH, SEARCH_WIDTH = 32, 40, 512
#: IVF: training rows to a cell (FAISS asks for 39 at least), and the share of the cells that is searched
ROWS_PER_CELL, SEARCHED = 64, 1 / 8


def build_index(kind: Kind, rows: Float32s) -> Any:
    """Return a ``faiss.Index`` of rows of unit length, float32 (N, d), searched by cosine similarity.

    ``exact`` compares with every row. ``hnsw`` (a graph of near neighbours; Malkov & Yashunin 2018) and ``ivf``
    (cells around k-means centres of the rows, of which the nearest are searched) miss some; ``benchmarks/gallery.py``
    measures how many, and what building costs.

    Raises:
        CrossresError: faiss is missing.
    """
    try:
        import faiss
    except ImportError:
        raise CrossresError("a search needs faiss: pip install 'crossres[predict]'") from None
    width = rows.shape[1]
    index: Any
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_WIDTH
        index.hnsw.efSearch = SEARCH_WIDTH
    else:
        cells = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // ROWS_PER_CELL))
        # the index keeps its quantiser alive
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = ROWS_PER_CELL
        index.cp.min_points_per_centroid = 1
        index.nprobe = max(min(8, cells), round(cells * SEARCHED))
        index.train(rows)
    index.add(rows)
    return index
