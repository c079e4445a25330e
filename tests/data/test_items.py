"""Names in few bytes, and rows found by them."""

from __future__ import annotations

import numpy as np

from crossres.core.errors import composed
from crossres.data.images import by_name
from crossres.data.items import NONE, NameIndex, Names


def test_rows_are_found_by_hash_as_by_a_dictionary() -> None:
    random = np.random.default_rng(0)
    parts = ["", "a/", "b/", "a/b/", "e\u0301/"]
    stems = ["1", "2", "x.y", ".hidden", "\u00e9", "img"]
    endings = ["", ".png", ".jpg", ".2"]
    every = [f"{part}{stem}{ending}" for part in parts for stem in stems for ending in endings]
    for _ in range(50):
        paths = [str(path) for path in random.permutation(every)[: random.integers(1, 30)]]
        known = by_name(paths)
        index = NameIndex(Names.of(paths))
        names = [*every, "", "nowhere"]
        expected = [known.get(name, NONE) for name in map(composed, names)]
        assert index.rows(names).tolist() == expected
        assert index.twice() is None
        assert NameIndex([*paths, paths[0]]).twice() == paths[0]
