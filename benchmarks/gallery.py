"""Time a gallery of a million embeddings: exact search against HNSW and IVF, each in a process of its own.

Identities lie around group centres, five embeddings around each identity, and a probe is one more, noisier, as a
low-resolution photo is; the directions vary as little as those of real faces do. Writes {count, width, ...,
indexes: {exact, hnsw, ivf}} with recall@1 against exact search, the share of probes whose own identity is found,
milliseconds a probe on one thread, seconds to build and peak memory.

    python benchmarks/gallery.py                     # a million
    python benchmarks/gallery.py --count 20000 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.files import write_json
from crossres.deploy.gallery import (
    BUILD_WIDTH,
    NEIGHBOURS,
    ROWS_PER_CELL,
    SEARCH_WIDTH,
    SEARCHED,
    Gallery,
    Kind,
    unit_embeddings,
)

WIDTH, EACH, GROUPS = 128, 5, 200
#: of a group's, an identity's, an enrolled photo's and a probe's own direction
SPREAD = {"group": 0.5, "identity": 1.0, "enrolled": 0.7, "probe": 0.9}


def directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random directions, float32 (count, WIDTH), of about 18 dimensions: variances fall as 1/i.

    That is what faces take of such embeddings (Gong, Boddeti & Jain, On the Intrinsic Dimensionality of Image
    Representations, 2019).
    """
    falling = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    return unit_embeddings(rng.standard_normal((count, WIDTH), np.float32) * falling, "direction")


def drawn(count: int, probes: int) -> tuple[Gallery, np.ndarray, list[str]]:
    """A gallery of so many embeddings, probes of some of its identities, and whose they are."""
    rng = np.random.default_rng(0)
    people = count // EACH
    centres = SPREAD["group"] * directions(rng, GROUPS)[rng.integers(0, GROUPS, people)]
    centres += SPREAD["identity"] * directions(rng, people)
    gallery = Gallery(WIDTH)
    for number, centre in enumerate(centres):
        gallery.add(f"person {number}", centre + SPREAD["enrolled"] * directions(rng, EACH))
    own = rng.choice(people, probes, replace=False)
    noise = SPREAD["probe"] * directions(rng, probes)
    return gallery, centres[own] + noise, [f"person {number}" for number in own]


def searched(kind: Kind, path: Path, probes: np.ndarray) -> dict[str, Any]:
    """What one index finds and costs; the first search builds it."""
    import faiss

    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    gallery = Gallery.load(path)
    loaded = time.perf_counter()
    gallery.index = kind
    gallery.search(probes[0])
    built = time.perf_counter()
    found, times = [], []
    for probe in probes:
        before = time.perf_counter()
        match = gallery.search(probe)[0]
        times.append(1e3 * (time.perf_counter() - before))
        found.append(match[0].name if match else None)
    before = time.perf_counter()
    gallery.search(probes)
    together = 1e3 * (time.perf_counter() - before) / len(probes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "found": found,
        "load_seconds": loaded - started,
        "build_seconds": built - loaded,
        "ms_of_one": statistics.median(times),
        "ms_of_one_95": float(np.quantile(times, 0.95)),
        "ms_in_a_batch": together,
        "peak_memory_mb": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="embeddings in the gallery (%(default)s)")
    parser.add_argument("--probes", type=int, default=1000, help="probes (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/deploy/gallery.json"))
    chosen = parser.parse_args()
    if not 1 <= chosen.probes <= chosen.count // EACH:
        parser.error(f"--probes: 1 to {chosen.count // EACH}, an identity each")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.gallery"
        gallery, probes, own = drawn(chosen.count, chosen.probes)
        started = time.perf_counter()
        gallery.save(path)
        saving = time.perf_counter() - started
        size, identities, count = path.stat().st_size, len(gallery), gallery.embeddings
        del gallery
        indexes: dict[str, Any] = {}
        for kind in ("exact", "hnsw", "ivf"):
            # a process of its own, so that its peak of memory is its own too
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                indexes[kind] = pool.apply(searched, (kind, path, probes))
            print(kind, {key: value for key, value in indexes[kind].items() if key != "found"}, flush=True)
    exact = indexes["exact"]["found"]
    for measured in indexes.values():
        found = measured.pop("found")
        measured["recall_at_1"] = 100 * float(np.mean([a == b for a, b in zip(found, exact, strict=True)]))
        measured["own_identity_first"] = 100 * float(np.mean([a == b for a, b in zip(found, own, strict=True)]))
    # only here: they import torch, whose memory is not the gallery's
    from crossres.core.devices import commit, machine, resolve_device, versions

    cpu = resolve_device("cpu", "float32")
    document = {
        "count": count,
        "identities": identities,
        "width": WIDTH,
        "probes": chosen.probes,
        "spread": SPREAD,
        "options": {
            "hnsw": {"neighbours": NEIGHBOURS, "build_width": BUILD_WIDTH, "search_width": SEARCH_WIDTH},
            "ivf": {"rows_to_a_cell": ROWS_PER_CELL, "searched": SEARCHED},
        },
        "file_bytes": size,
        "save_seconds": saving,
        "indexes": indexes,
        "threads": 1,
        "machine": machine(cpu),
        "versions": {**versions(), "faiss-cpu": version("faiss-cpu")},
        "commit": commit(),
    }
    write_json(chosen.out, document)


if __name__ == "__main__":
    main()
