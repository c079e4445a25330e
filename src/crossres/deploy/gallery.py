"""Gallery: the embeddings of known identities; who is this, and are these two the same?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError, composed, nearest, needs
from crossres.core.types import Float32s
from crossres.deploy import gallery_file
from crossres.deploy.gallery_file import MAX_NAME, is_name
from crossres.deploy.recognizer import Recognizer
from crossres.deploy.thresholds import (
    TOLERANCE,
    Threshold,
    at_least,
    at_size,
    for_side,
    pair_threshold,
    search_threshold,
)
from crossres.evaluation.identification import unit_rows

FORMAT = "crossres gallery 1"
Kind = Literal["exact", "hnsw", "ivf"]

#: HNSW: neighbours of a node, candidates kept while a node is added and while a probe is searched
NEIGHBOURS, BUILD_WIDTH, SEARCH_WIDTH = 32, 40, 512
#: IVF: training rows to a cell (FAISS asks for 39 at least), and the share of the cells that is searched
ROWS_PER_CELL, SEARCHED = 64, 1 / 8


@dataclass(frozen=True)
class Match:
    """An identity and how alike it is: the cosine of the probe and its nearest embedding."""

    name: str
    similarity: float


@dataclass(frozen=True)
class ModelIdentity:
    """Which model makes embeddings; CrossresError for a name or a digest that a gallery's file would not take.

    Attributes:
        name: for people.
        spaces: digests of the models whose space its embeddings lie in: its own first, then that of a teacher whose
            embeddings it was taught to hit.
        flip: an embedding is the mean over a photo and its mirror image.
    """

    name: str
    spaces: tuple[str, ...]
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.spaces or not all(map(is_name, (self.name, *self.spaces))):
            raise CrossresError(f"the model {self.name!a:.80} has no printable name, or no digest; rename its folder")

    @property
    def digest(self) -> str:
        """Of the model itself."""
        return self.spaces[0]


def identity_of(recognizer: Recognizer) -> ModelIdentity:
    """Return which model it is, and of a student that was taught its teacher's embeddings, which teacher it was."""
    about = recognizer.facts.about
    # the file of an export has another digest than the weights in it
    spaces = [str(about.get("weights_sha256", recognizer.digest))]
    teacher = about.get("teacher")
    if isinstance(teacher, Mapping) and "cosine" in str(about.get("method")).split("+"):
        spaces.append(str(teacher.get("sha256")))
    path = Path(recognizer.source).resolve()
    return ModelIdentity(path.parent.name if path.name == "model" else path.name, tuple(spaces), recognizer.flip)


def unit_embeddings(embeddings: npt.ArrayLike, what: str) -> Float32s:
    """Return embeddings, (N, d) or one (d,), at unit length, float32 (N, d); refuse what `unit_rows` refuses."""
    rows = np.atleast_2d(np.asarray(embeddings, np.float32))
    return unit_rows(rows, what).astype(np.float32, order="C") if len(rows) or rows.ndim != 2 else rows


def cosine(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the cosine of two embeddings, (d,) each."""
    left, right = (unit_embeddings(each, "photo")[0].astype(np.float64) for each in (first, second))
    return float(left @ right)


def build_index(kind: Kind, rows: Float32s) -> Any:
    """Return a ``faiss.Index`` of rows of unit length, float32 (N, d), searched by cosine; it needs faiss.

    ``exact`` compares with every row. ``hnsw`` (a graph of near neighbours; Malkov & Yashunin 2018) and ``ivf``
    (cells around k-means centres of the rows, of which the nearest are searched) miss some; ``benchmarks/gallery.py``
    measures how many, and what building costs.
    """
    with needs("a search", "predict"):
        import faiss
    width = rows.shape[1]
    index: Any
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_WIDTH, SEARCH_WIDTH
    else:
        cells = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // ROWS_PER_CELL))
        # the index keeps its quantiser alive
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, ROWS_PER_CELL
        index.nprobe = max(min(8, cells), round(cells * SEARCHED))
        index.train(rows)
    index.add(rows)
    return index


class Gallery:
    """Identities with one embedding or many each, compared by cosine similarity.

    Attributes:
        width: of the embeddings.
        model: that makes them; None where they are given without one.
        index: exact; hnsw or ivf for millions. It is built by the first search and kept in memory, not in the file.
        thresholds: of a search, one or by rising size of the probe; `calibrate` sets them.
        pair_threshold: of a pair; `calibrate_pairs` sets it.
    """

    def __init__(self, width: int, *, model: ModelIdentity | None = None, index: Kind = "exact") -> None:
        self.width = width
        self.model = model
        self.index = index
        self.thresholds: list[Threshold] = []
        self.pair_threshold: Threshold | None = None
        self._rows: dict[str, Float32s] = {}
        self._built: tuple[Kind, Any, list[str]] | None = None  # its kind, the index, whose each of its rows is

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        """Identities, in the order in which they came."""
        return list(self._rows)

    @property
    def embeddings(self) -> int:
        """How many there are, of all identities."""
        return sum(map(len, self._rows.values()))

    @property
    def outgrown(self) -> bool:
        """Whether more than a tenth of the identities came or went since `calibrate`: more match more strangers."""
        return bool(self.outgrown_note)

    @property
    def outgrown_note(self) -> str:
        """A line for the user where it is outgrown; else nothing."""
        return next(filter(None, (each.outgrown_note(len(self)) for each in self.thresholds)), "")

    def demand_shared(self, model: ModelIdentity, width: int, *, same_space: bool = False) -> None:
        """Refuse a model of the probes whose embeddings, of a width, cannot be compared with those of this gallery.

        With ``same_space`` it shares the space of the gallery's model, although no record says so.

        Raises:
            CrossresError: another width or another space, or one of both is of mirror images, too.
        """
        if width != self.width:
            remedy = "use the gallery's model or a student of that width"
            raise CrossresError(f"{model.name}: embeddings have width {width}, the gallery's {self.width}; {remedy}")
        ours = self.model or model
        if model.flip != ours.flip:
            made, remedy = ("with", "give it") if ours.flip else ("without", "leave it out")
            raise CrossresError(f"the gallery was made {made} --flip; {remedy}, or enroll into another gallery")
        # two students of one teacher, each with a layer of its own to its width, share nothing
        shared = model.digest in ours.spaces or ours.digest in model.spaces
        if not shared and not same_space:
            raise CrossresError(
                f"the gallery was made by {ours.name}, and {model.name} was not distilled from it with losses.cosine "
                "(at equal widths), so they cannot be compared; if you know they can, give --same_space"
            )

    def add(self, name: str, embeddings: npt.ArrayLike) -> int:
        """Give an identity one embedding (d,) or several (N, d) more; return how many it did not have yet.

        Raises:
            CrossresError: a name that is empty, too long or not printable, or rows that are refused, by their number.
        """
        if not is_name(name):
            raise CrossresError(f"{name!a:.80} cannot name an identity: 1 to {MAX_NAME} printable characters")
        name = composed(name)
        rows = self._checked(embeddings, f"identity {name}")
        known = self._rows.get(name)
        if known is not None:
            rows = rows[(rows @ known.T).max(1) < 1 - TOLERANCE]  # as similar as this are those of one photo
        if len(rows):
            self._rows[name] = rows if known is None else np.concatenate([known, rows])
            if self._built:
                self._built[1].add(rows)
                self._built[2].extend([name] * len(rows))
        return len(rows)

    def remove(self, name: str) -> None:
        """Take an identity out; CrossresError where it is not there."""
        name = composed(name)
        if name not in self._rows:
            raise CrossresError(f"no identity '{name}' in the gallery{nearest(name, self._rows)}")
        del self._rows[name]
        self._built = None

    def search(self, probes: npt.ArrayLike, k: int = 1) -> list[list[Match]]:
        """Return each probe's ``k`` most similar identities, the nearest first, each by its nearest embedding.

        There are fewer than ``k`` where the gallery has no more, or where an approximate index finds no more.

        Args:
            probes: (P, d), or one (d,).
            k: identities, at least 1.

        Raises:
            CrossresError: an empty gallery, or probes that are refused, by their row.
        """
        if k < 1:
            raise CrossresError(f"k is {k}; give at least 1")
        if not self._rows:
            raise CrossresError("the gallery is empty; add identities first")
        rows = self._checked(probes, "probe")
        if self._built is None or self._built[0] != self.index:
            owner = [name for name, held in self._rows.items() for _ in range(len(held))]
            self._built = self.index, build_index(self.index, self._joined()), owner
        _, index, owner = self._built
        k = min(k, len(self))
        matches: list[list[Match]] = [[] for _ in rows]
        left, fetch = np.arange(len(rows)), k * math.ceil(len(owner) / len(self))
        while len(left):
            fetch = min(fetch, len(owner))
            short = []
            for i, similarity, position in zip(left, *index.search(rows[left], fetch), strict=True):
                best: dict[str, float] = {}
                for value, at in zip(similarity.tolist(), position.tolist(), strict=True):
                    if at >= 0 and len(best) < k:
                        best.setdefault(owner[at], value)
                matches[i] = [Match(*pair) for pair in best.items()]
                if len(best) < k and position[-1] >= 0 and fetch < len(owner):
                    short.append(i)
            # an identity of many rows took the places of others: look further
            left, fetch = np.array(short, np.int64), 4 * fetch
        return matches

    def identify(self, probe: npt.ArrayLike, side: int = 0) -> Match | None:
        """Return who a probe (d,) is, None if not in this gallery; CrossresError without a threshold at its side."""
        threshold = for_side(self.thresholds, side)
        if threshold is None:
            by_size = "has thresholds by the size of a photo; give side=, the probe's in pixels"
            none = f"has no threshold{at_size(side)}; calibrate it on strangers first"
            raise CrossresError(f"the gallery {by_size if self.thresholds and not side else none}")
        best = self.search(probe)[0]
        return best[0] if best and at_least(best[0].similarity, threshold.similarity) else None

    def calibrate(
        self, strangers: npt.ArrayLike, fpir: float, model: ModelIdentity | None = None, size: int = 0
    ) -> Threshold:
        """Set the lowest threshold at which no more than a share of strangers matches anybody.

        It is that of `crossres.evaluation.identification.open_set`, and two `TOLERANCE` higher. It depends on who is
        in the gallery, on the model and on what the probes look like: photograph strangers as the probes will be.

        Args:
            strangers: (S, d), of nobody in the gallery.
            fpir: false positive identification rate, 0..1.
            model: of the strangers and of the probes to come.
            size: side in pixels of the smallest probes that it is for, beside thresholds of other sizes; 0: of all.

        Raises:
            CrossresError: a rate outside 0..1, no strangers, or what `search` raises.
        """
        best = [matches[0].similarity if matches else -1.0 for matches in self.search(strangers)]
        threshold = search_threshold(best, fpir, len(self), model.digest if model else None, size)
        others = [each for each in self.thresholds if size and each.size not in (0, size)]  # that of any is alone
        self.thresholds = sorted([*others, threshold], key=lambda each: each.size)
        return threshold

    def calibrate_pairs(
        self, similarities: npt.ArrayLike, same: npt.ArrayLike, far: float, model: ModelIdentity | None = None
    ) -> Threshold:
        """Set the threshold of pairs: the one of the highest TAR with no more than a share of false accepts.

        Args:
            similarities: cosine of each pair's embeddings, (P,).
            same: bool (P,), whether a pair shows one identity.
            far: false accept rate, 0..1.
            model: of the pairs.

        Raises:
            CrossresError: what `crossres.evaluation.verification.roc` raises, or no pair may be accepted.
        """
        self.pair_threshold = pair_threshold(similarities, same, far, model.digest if model else None)
        return self.pair_threshold

    def save(self, path: str | Path) -> None:
        """Write the gallery, whole or not at all; CrossresError where the disk is full or the folder is read-only."""
        facts = {
            "format": FORMAT,
            "index": self.index,
            "model": self.model and asdict(self.model),
            "thresholds": [asdict(threshold) for threshold in self.thresholds],
            "pair_threshold": self.pair_threshold and asdict(self.pair_threshold),
        }
        counts = np.array([len(rows) for rows in self._rows.values()], np.int64)
        gallery_file.write(path, gallery_file.Contents(facts, self.names, counts, self._joined()))

    @classmethod
    def load(cls, path: str | Path) -> Gallery:
        """Read a gallery that may be anybody's: nothing in its file is executed, and sizes in it are bounded.

        Raises:
            CrossresError: no such file, a broken one, or one that is not a gallery.
        """
        facts, names, counts, rows = gallery_file.read(path)
        try:
            if facts["format"] != FORMAT or facts["index"] not in get_args(Kind):
                raise ValueError
            gallery = cls(rows.shape[1], index=cast(Kind, facts["index"]))
            if (held := facts["model"]) is not None:
                gallery.model = ModelIdentity(held["name"], tuple(held["spaces"]), held.get("flip") is True)
            listed = facts["thresholds"] if "thresholds" in facts else [facts["threshold"]]  # of an earlier version
            gallery.thresholds = [Threshold(**each) for each in listed if each]
            gallery.pair_threshold = facts["pair_threshold"] and Threshold(**facts["pair_threshold"])
        except (ValueError, TypeError, KeyError, OverflowError):
            raise CrossresError(f"{path}: its metadata is damaged, or of another version than {FORMAT!r}") from None
        ends = np.cumsum(counts).tolist()
        for name, n, end in zip(map(composed, names), counts.tolist(), ends, strict=True):
            own = rows[end - n : end]
            gallery._rows[name] = np.concatenate([gallery._rows[name], own]) if name in gallery._rows else own
        return gallery

    def _checked(self, embeddings: npt.ArrayLike, what: str) -> Float32s:
        rows = unit_embeddings(embeddings, what)
        if rows.shape[1] != self.width:
            raise CrossresError(f"the {what} has {rows.shape[1]} numbers, the gallery's embeddings {self.width}")
        return rows

    def _joined(self) -> Float32s:
        return np.concatenate([np.zeros((0, self.width), np.float32), *self._rows.values()])
